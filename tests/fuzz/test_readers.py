"""Damaged and made-up input for the readers: no crash, no hang, no unbounded memory, every line accounted for."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from branchmon.errors import BranchmonError
from branchmon.traces.contents import read_contents
from branchmon.traces.importers import perf_script as ps
from branchmon.traces.importers.text import import_text
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.symbols import TraceSymbols
from branchmon.traces.writer import TraceWriter
from streams import make_stream

FIXTURE = HealthCheck.function_scoped_fixture
SOAK = 20_000


def good_trace(path: Path) -> bytes:
    with TraceWriter(FileStore(str(path)), Metadata(program=["p"]), batch_rows=40) as writer:
        writer.event(0, RowKind.START, 1, {"pid": 1, "parent": None})
        writer.append(0, 1, *make_stream(1, 100).columns)
        writer.event(0, RowKind.GAP, 0, {"why": "lost"})
    return path.read_bytes()


NOTE_KEYS = ["pid", "parent", "comm", "path", "added", "removed", "complete", "former", "names", "why"]
damage = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)
notes = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(NOTE_KEYS), inner, max_size=4),
    max_leaves=10,
)
words = st.sampled_from(
    [
        "prog",
        "1/2",
        "3",
        "[001]",
        "1.5:",
        "1",
        "branches:u:",
        "jmp",
        "call",
        "return",
        "jcc",
        "tr",
        "strt",
        "end",
        "syscall",
        "async",
        "hw",
        "int",
        "401000",
        "ffffffff81000000",
        "0",
        "main+0x1",
        "(a.so)",
        "=>",
        "0x1/0x2/P/-/-/0",
        "0x3/0x4/M/-/-/1/RET",
        "PERF_RECORD_MMAP2",
        "1/2:",
        "[0x1000(0x1000)",
        "@",
        "0",
        "8:1",
        "2",
        "3]:",
        "r-xp",
        "PERF_RECORD_LOST",
        "IPC:",
        "1.0",
        "(9/8)",
        "instruction",
        "trace",
        "error",
        "type",
        "1",
        "time",
        "code",
        "7:",
        "Overflow",
        "#",
        "\t",
        "9" * 30,
        "f" * 20,
        "\0",
        "é",
    ]
)
lines = st.lists(st.lists(words, max_size=14).map(" ".join) | st.text(max_size=60), max_size=40)


def check_trace(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        trace = Trace(str(path))
        contents = read_contents(trace)
    except BranchmonError:
        return
    assert contents.rows <= 200
    symbols = TraceSymbols()
    for rows in trace.batches():
        for event in rows.events:
            symbols.apply(event)


def check_text(path: Path, text: list[str]) -> None:
    data = "\n".join(text).encode("utf-8", "replace")
    try:
        result = import_text(io.BytesIO(data), lambda: FileStore(str(path)))
    except BranchmonError:
        return
    assert result.records + result.gaps + sum(result.ignored.values()) == result.lines
    assert Trace(str(path)).metadata.source in ("intel-pt", "lbr")


@given(damage)
@settings(max_examples=150, deadline=None, suppress_health_check=[FIXTURE])
def test_damaged_traces(tmp_path: Path, places: list[tuple[int, bytes]]) -> None:
    data = bytearray(good_trace(tmp_path / "good"))
    for at, put in places:
        at %= len(data)
        data[at : at + len(put)] = put
    check_trace(tmp_path / "t", bytes(data))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[FIXTURE])
def test_made_up_traces(tmp_path: Path, tail: bytes) -> None:
    check_trace(tmp_path / "t", tail)
    check_trace(tmp_path / "t", b"\xff\xff\xff\xff" + tail)
    check_trace(tmp_path / "t", good_trace(tmp_path / "good")[:-8] + tail)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), notes), max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[FIXTURE])
def test_made_up_notes(tmp_path: Path, events: list[tuple[int, int, object]]) -> None:
    path = tmp_path / "t"
    with TraceWriter(FileStore(str(path)), Metadata()) as writer:
        for kind, thread, note in events:
            writer.event(0, max(16, kind), thread, note)  # type: ignore[arg-type]
            writer.append(0, thread, *make_stream(kind, 3).columns)
    check_trace(path, path.read_bytes())


@given(lines)
@settings(max_examples=200, deadline=None, suppress_health_check=[FIXTURE])
def test_made_up_text(tmp_path: Path, text: list[str]) -> None:
    check_text(tmp_path / "t", text)


@pytest.mark.parametrize(
    "unit", ["a+0x", "(", "()", "=> 1 ", "1.5: ", "0x1/", "f ", "PERF_RECORD_COMM exec: ", ":1/1", "\t1 "]
)
def test_long_lines_take_no_time(unit: str) -> None:
    for head in ("", "p 1 1.5: 1 branches: jmp 1 => 2 ", "p 1 1.5: PERF_RECORD_MMAP2 "):
        ps.parse_line((head + unit * ps.MAX_LINE)[: ps.MAX_LINE])


@pytest.mark.soak
@given(damage, lines)
@settings(max_examples=SOAK, deadline=None, suppress_health_check=[FIXTURE])
def test_for_long(tmp_path: Path, places: list[tuple[int, bytes]], text: list[str]) -> None:
    check_text(tmp_path / "t", text)
    data = bytearray(good_trace(tmp_path / "good"))
    for at, put in places:
        data[at % len(data)] = put[0]
    check_trace(tmp_path / "t", bytes(data))
