"""The trace format: what was written is read, by us and by any Arrow reader; cut, damaged and foreign files."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from branchmon.sources.base import Mapping
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.rows import DTYPES, Rows
from branchmon.traces.schema import VERSION, Metadata, RowKind, TraceError
from branchmon.traces.state import TraceState
from branchmon.traces.writer import TraceWriter
from streams import Stream, make_stream

LIBC = [0x1000, 0x2000, "r-xp", 0, "08:01", 7, "/lib/libc.so", "abcd"]


def write(path, stream: Stream, *, batch_rows: int = 100, close: bool = True, metadata: Metadata | None = None) -> str:
    writer = TraceWriter(FileStore(str(path)), metadata or Metadata(program=["prog"]), batch_rows=batch_rows)
    writer.event(0, RowKind.START, 7, {"pid": 7, "parent": None, "comm": "prog", "attached": False})
    writer.event(0, RowKind.MAPPINGS, 7, {"pid": 7, "added": [LIBC], "removed": []})
    writer.append(5, 7, *stream.columns)
    writer.plain(6, 7, 3)
    writer.event(7, RowKind.EXIT, 7, {"status": 0})
    if close:
        writer.close(8)
    else:
        writer.flush()
    return str(path)


def read(path) -> tuple[Trace, Rows]:
    trace = Trace(str(path))
    batches = list(trace.batches())
    if not batches:
        return trace, Rows.empty(0)
    return trace, Rows(*(np.concatenate([getattr(b, name) for b in batches]) for name in DTYPES))


def test_what_was_written_is_read(tmp_path) -> None:
    stream = make_stream(1, 1234)
    trace, rows = read(write(tmp_path / "t", stream))
    assert trace.cut is None
    branches = rows.take(np.flatnonzero(rows.is_branch))
    for name, column in zip(("gap", "kind", "taken", "source", "size", "target"), stream.columns, strict=True):
        assert getattr(branches, name).tolist() == column, name
    assert set(branches.thread.tolist()) == {7}
    assert trace.metadata.program == ["prog"]
    assert trace.end["branches"] == 1234
    assert rows.kind.tolist()[-3:] == [RowKind.PLAIN, RowKind.EXIT, RowKind.END]
    assert rows.gap.tolist()[-3] == 3


def test_any_arrow_reader_opens_it(tmp_path) -> None:
    stream = make_stream(2, 500)
    table = pa.ipc.open_stream(write(tmp_path / "t", stream)).read_all()
    assert table.filter(pc.field("kind") == 4).num_rows == stream.kinds.count(4)
    assert table.schema.metadata[b"branchmon.schema"] == str(VERSION).encode()
    notes = [json.loads(note) for note in table["note"].drop_null().to_pylist()]
    assert notes[1]["added"] == [LIBC]


def test_addresses_of_the_upper_half_survive(tmp_path) -> None:
    top = 0xFFFF_FFFF_FF60_0000
    writer = TraceWriter(FileStore(str(tmp_path / "t")), Metadata())
    writer.append(0, 1, [0], [4], [1], [top], [1], [top + 8])
    signed = np.array([top], np.uint64).astype(np.int64)
    writer.append(0, 1, *(np.array([v]) for v in (0, 4, 1)), signed, np.array([1]), signed)
    writer.close()
    assert read(tmp_path / "t")[1].source.tolist()[:2] == [top, top]


def test_cut_anywhere_in_the_last_two_batches(tmp_path) -> None:
    path = write(tmp_path / "t", make_stream(3, 330))
    data = (tmp_path / "t").read_bytes()
    trace = Trace(path)
    ends = [(trace.bytes, 0)]
    total = 0
    for rows in trace.batches():
        total += len(rows)
        ends.append((trace.bytes, total))
    assert len(ends) == 5  # four batches
    first = ends[-3][0]
    whole = read(path)[1].source.tolist()
    cut = tmp_path / "cut"
    for size in range(first, len(data)):
        cut.write_bytes(data[:size])
        trace, rows = read(cut)
        assert trace.cut is not None, size
        assert len(rows) == max(count for end, count in ends if end <= size), size
        assert rows.source.tolist() == whole[: len(rows)], size
    assert read(path)[0].cut is None


def test_cut_in_the_head_is_refused(tmp_path) -> None:
    write(tmp_path / "u", make_stream(3, 10))
    data = (tmp_path / "u").read_bytes()
    for size in range(0, 1000, 37):
        (tmp_path / "t").write_bytes(data[:size])
        with pytest.raises(TraceError) as caught:
            Trace(str(tmp_path / "t"))
        assert caught.value.slug == "not-a-trace"


def test_killed_recorder_leaves_complete_batches(tmp_path) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from streams import make_stream\n"
        "from branchmon.traces.ring import FileStore\n"
        "from branchmon.traces.schema import Metadata\n"
        "from branchmon.traces.writer import TraceWriter\n"
        "writer = TraceWriter(FileStore(sys.argv[1]), Metadata(), batch_rows=100)\n"
        "writer.append(0, 1, *make_stream(4, 250).columns)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = str(tmp_path / "t")
    tests = os.path.join(os.path.dirname(__file__), os.pardir)
    assert subprocess.run([sys.executable, "-c", code, path, tests], check=False).returncode == -9
    trace, rows = read(path)
    assert rows.source.tolist() == make_stream(4, 250).sources[:200]
    assert trace.cut is not None and "without an end mark" in trace.cut


def test_full_disk_is_said_and_leaves_a_readable_file(tmp_path) -> None:
    from branchmon.errors import OutputError

    path = str(tmp_path / "t")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = TraceWriter(FileStore(path), Metadata(), batch_rows=100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            for seed in range(99):
                writer.append(0, 1, *make_stream(seed, 100).columns)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert caught.value.slug == "trace-write"
    trace, rows = read(path)
    assert trace.cut is not None
    assert len(rows) >= 100 and rows.source.tolist()[:100] == make_stream(0, 100).sources


def test_newer_version_is_refused_politely(tmp_path) -> None:
    class Newer(Metadata):
        def encode(self) -> dict[str, str]:
            return {**super().encode(), "branchmon.schema": str(VERSION + 1)}

    path = write(tmp_path / "t", make_stream(1, 10), metadata=Newer())
    with pytest.raises(TraceError, match="newer branchmon") as caught:
        Trace(path)
    assert caught.value.slug == "trace-too-new"


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 8, b"\xff\xff\xff\xff\0\0\0\0", b"\x7fELF" + bytes(999)])
def test_foreign_files(tmp_path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(TraceError) as caught:
        Trace(str(tmp_path / "t"))
    assert caught.value.slug == "not-a-trace"


def test_an_arrow_stream_of_somebody_else(tmp_path) -> None:
    batch = pa.record_batch({"a": [1]})
    with pa.ipc.new_stream(str(tmp_path / "t"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(TraceError, match="no branchmon trace"):
        Trace(str(tmp_path / "t"))


def test_no_file(tmp_path) -> None:
    with pytest.raises(TraceError) as caught:
        Trace(str(tmp_path / "t"))
    assert caught.value.slug == "trace-unreadable"
    with pytest.raises(TraceError):
        Trace(str(tmp_path))


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path) -> None:
    path = write(tmp_path / "t", make_stream(1, 90))
    data = bytearray((tmp_path / "t").read_bytes())
    # The first 8 bytes of a compressed column are its size; zstd's magic number comes behind them.
    at = data.index(b"\x28\xb5\x2f\xfd") - 8
    data[at : at + 8] = (1 << 40).to_bytes(8, "little")
    (tmp_path / "t").write_bytes(data)
    trace, rows = read(path)
    assert len(rows) == 0
    assert trace.cut is not None and "a batch that cannot be" in trace.cut


def test_a_newer_readers_extras_are_passed_over(tmp_path) -> None:
    table = pa.ipc.open_stream(write(tmp_path / "t", make_stream(1, 90))).read_all()
    table = table.append_column("colour", pa.array([3] * table.num_rows))
    kinds = table["kind"].to_pylist()
    kinds[1] = 99  # an event of a kind that we do not know
    table = table.set_column(
        table.schema.get_field_index("kind"), table.schema.field("kind"), [pa.array(kinds, "uint8")]
    )
    with pa.ipc.new_stream(str(tmp_path / "u"), table.schema) as writer:
        writer.write_table(table)
    trace, rows = read(tmp_path / "u")
    assert trace.cut is None and int(rows.is_branch.sum()) == 90
    state = TraceState()
    for batch in trace.batches():
        for event in batch.events:
            state.apply(event.kind, event.thread, event.note)


def test_state_follows_events_and_can_be_told_anew() -> None:
    state = TraceState()
    state.apply(RowKind.START, 10, {"pid": 10, "comm": "a"})
    libc = Mapping(0x1000, 0x2000, "r-xp", 0, "08:01", 7, "/lib/libc.so")
    exe = Mapping(0x4000, 0x5000, "r-xp", 0, "08:01", 8, "/bin/a")
    note = state.difference(10, [libc, exe], {"/lib/libc.so": "abcd"})
    assert note is not None
    state.apply(RowKind.MAPPINGS, 10, json.loads(json.dumps(note)))
    assert state.mappings(10) == [libc, exe] and state.build_ids(10) == {"/lib/libc.so": "abcd"}
    assert state.difference(10, [libc, exe], {"/lib/libc.so": "abcd"}) is None
    state.apply(RowKind.START, 11, {"pid": 11, "parent": 10})  # fork
    assert state.mappings(11) == [libc, exe]
    state.apply(RowKind.EXEC, 11, {"pid": 11, "path": "/bin/b"})
    assert state.mappings(11) == [] and state.threads[11].comm == "b"
    again = TraceState()
    for kind, tid, told in state.events():
        again.apply(kind, tid, json.loads(json.dumps(told)))
    assert again.mappings(10) == state.mappings(10) and again.threads.keys() == state.threads.keys()
    state.apply(RowKind.EXIT, 10, {"status": 0})
    assert state.mappings(10) == [] and 10 not in state.threads


def test_state_survives_nonsense() -> None:
    state = TraceState()
    for kind in range(256):
        for note in (
            {},
            {"pid": "x", "added": [3, [1, 2]], "removed": {"a": 1}, "parent": [], "path": 3, "former": {}},
        ):
            state.apply(kind, 5, note)
    assert state.mappings(5) == []
