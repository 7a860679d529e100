"""Rings: bounded files and memory, always readable, and honest about what is missing."""

import json
import os

import numpy as np
import pytest

from branchmon.sources.base import Mapping
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileRing, FileStore, SnapshotRing
from branchmon.traces.rows import Event
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.state import TraceState
from branchmon.traces.writer import TraceWriter
from streams import make_stream

LIBC = [0x1000, 0x2000, "r-xp", 0, "08:01", 7, "/lib/libc.so", "abcd"]


def begin(writer: TraceWriter) -> None:
    writer.event(0, RowKind.START, 7, {"pid": 7, "parent": None, "comm": "prog", "attached": False})
    writer.event(0, RowKind.MAPPINGS, 7, {"pid": 7, "added": [LIBC], "removed": []})


def read(path: str) -> tuple[Trace, list[int], list[Event]]:
    trace = Trace(path)
    sources: list[int] = []
    events: list[Event] = []
    for rows in trace.batches():
        sources += rows.source[rows.is_branch].tolist()
        events += rows.events
    return trace, sources, events


def test_file_ring_keeps_the_newest_part(tmp_path) -> None:
    path, limit = str(tmp_path / "t"), 60_000
    writer = TraceWriter(FileRing(path, limit), Metadata(), batch_rows=500)
    begin(writer)
    expected: list[int] = []
    for seed in range(60):
        stream = make_stream(seed, 500)
        writer.append(seed, 7, *stream.columns)
        expected += stream.sources
        assert os.path.getsize(path) <= limit
        assert writer.size == os.path.getsize(path)
        assert read(path)[0].size  # readable at every moment
    writer.close()
    trace, sources, events = read(path)
    assert trace.cut is None
    assert os.listdir(tmp_path) == ["t"]
    assert limit // 2 < os.path.getsize(path) <= limit + 1000
    assert 1000 < len(sources) < len(expected)
    assert sources == expected[-len(sources) :]
    assert [event.kind for event in events] == [RowKind.START, RowKind.MAPPINGS, RowKind.GAP, RowKind.END]
    assert events[0].note["attached"] is True
    state = TraceState()
    for event in events:
        state.apply(event.kind, event.thread, event.note)
    assert state.mappings(7) == [Mapping(*LIBC[:7])]


def test_file_ring_that_is_not_full_is_the_whole_trace(tmp_path) -> None:
    for store in (FileRing(str(tmp_path / "ring"), 1 << 20), FileStore(str(tmp_path / "file"))):
        with TraceWriter(store, Metadata(), batch_rows=100) as writer:
            begin(writer)
            writer.append(0, 7, *make_stream(1, 999).columns)
    assert (tmp_path / "ring").read_bytes() == (tmp_path / "file").read_bytes()


def test_snapshots_are_written_around_trips(tmp_path) -> None:
    path = str(tmp_path / "t")
    store = SnapshotRing(path, memory=20_000, after=1000)
    writer = TraceWriter(store, Metadata(), batch_rows=500)
    begin(writer)
    expected: list[int] = []
    marks = []
    for seed in range(100):
        stream = make_stream(seed, 500)
        writer.append(seed, 7, *stream.columns)
        expected += stream.sources
        if seed in (30, 70):
            writer.event(seed, RowKind.TRIP, 7, {"number": len(marks)})
            writer.snapshot()
            marks.append(len(expected))
        assert store._tail.bytes <= 20_000 + 5000
    writer.close()
    trace, sources, events = read(path)
    assert trace.cut is None
    assert [e.kind for e in events if e.kind == RowKind.TRIP] == [RowKind.TRIP] * 2
    assert 2 * 1000 < len(sources) < len(expected) // 2
    pieces = split_at_gaps(path)
    assert len(pieces) == 4  # nothing, two snapshots, and what was in the last batch
    for piece, mark in zip(pieces[1:3], marks, strict=True):
        end = find(expected, piece)
        assert end - len(piece) < mark - 500 and mark + 1000 <= end <= mark + 1500
    gaps = [event for event in events if event.kind == RowKind.GAP]
    assert all(event.thread == 0 and event.note == {"why": "dropped"} for event in gaps)


def split_at_gaps(path: str) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for rows in Trace(path).batches():
        for part, events in rows.between_events({RowKind.GAP}):
            pieces[-1] += part.source[part.is_branch].tolist()
            if events and events[-1].kind == RowKind.GAP:
                pieces.append([])
    return pieces


def find(whole: list[int], part: list[int]) -> int:
    """Where `part` ends in `whole`."""
    a, b = np.array(whole), np.array(part)
    for start in np.flatnonzero(a == b[0]):
        if len(a) - start >= len(b) and (a[start : start + len(b)] == b).all():
            return int(start + len(b))
    raise AssertionError("the piece is not in the stream")


def test_no_trip_no_snapshot(tmp_path) -> None:
    path = str(tmp_path / "t")
    with TraceWriter(SnapshotRing(path, memory=5_000, after=10), Metadata(), batch_rows=100) as writer:
        begin(writer)
        for seed in range(20):
            writer.append(0, 7, *make_stream(seed, 100).columns)
    trace, sources, events = read(path)
    assert trace.cut is None and len(sources) < 100
    assert events[-1].note["branches"] == 2000


@pytest.mark.parametrize("batches", [1, 40])
def test_memory_of_a_writer_does_not_grow(tmp_path, batches: int) -> None:
    writer = TraceWriter(FileStore(str(tmp_path / "t")), Metadata(), batch_rows=1000)
    for seed in range(batches):
        writer.append(seed, 7, *make_stream(seed, 1000).columns)
        for signal in range(500):
            writer.event(seed, RowKind.SIGNAL, 7, {"signal": signal})
    assert len(writer._rows) == 1000 and len(writer._events) <= 1000
    writer.close()
    assert json.dumps(read(str(tmp_path / "t"))[0].end["branches"]) == str(1000 * batches)
