"""Exports: what other programs read is what the trace holds."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from branchmon.errors import OutputError
from branchmon.traces.calls import CallStack
from branchmon.traces.exporters.csv import export_csv
from branchmon.traces.exporters.parquet import export_parquet
from branchmon.traces.exporters.perfetto import Mark, export_perfetto
from branchmon.traces.exporters.speedscope import export_speedscope
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.writer import TraceWriter

MAIN, F, G = 0x1000, 0x2000, 0x3000
CALLS = [  # gap, kind, taken, source, size, target: main calls f, f calls g twice, and all return
    (9, 3, 1, MAIN + 0x10, 5, F),
    (1, 3, 1, F + 0x10, 5, G),
    (2, 4, 1, G + 0x08, 1, F + 0x15),
    (1, 6, 1, F + 0x20, 2, G),
    (0, 1, 0, G + 0x02, 2, G + 0x04),
    (2, 4, 1, G + 0x08, 1, F + 0x22),
    (3, 4, 1, F + 0x30, 1, MAIN + 0x15),
]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    path = str(tmp_path / "t")
    with TraceWriter(FileStore(path), Metadata(program=["prog"]), batch_rows=4) as writer:
        writer.event(0, RowKind.START, 7, {"pid": 5, "parent": None, "comm": "prog"})
        names = [[MAIN, "main", "prog"], [F, "f", "prog"], [G, "g", "lib.so"]]
        writer.event(0, RowKind.NAMES, 7, {"pid": 5, "names": names})
        writer.append(0, 7, *zip(*CALLS, strict=True))
        writer.event(1, RowKind.SIGNAL, 7, {"signal": 10})
        writer.event(2, RowKind.EXIT, 7, {"status": 0})
    return Trace(path)


def test_csv(trace: Trace, tmp_path: Path) -> None:
    rows = export_csv(trace, str(tmp_path / "out"))
    with open(tmp_path / "out", newline="") as file:
        lines = list(csv.DictReader(file))
    assert rows == len(lines) == len(CALLS) + 5
    branches = [line for line in lines if int(line["kind"]) in range(1, 8)]
    assert [(int(b["gap"]), int(b["kind"]), int(b["source"]), int(b["target"])) for b in branches] == [
        (gap, kind, source, target) for gap, kind, _, source, _, target in CALLS
    ]
    assert [b["taken"] for b in branches].count("false") == 1
    assert json.loads(lines[0]["note"])["comm"] == "prog"


def test_parquet(trace: Trace, tmp_path: Path) -> None:
    export_parquet(trace, str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out")
    assert [row["source"] for row in table.to_pylist() if 1 <= row["kind"] <= 7] == [call[3] for call in CALLS]
    assert table.schema.metadata[b"branchmon.schema"] == b"1"


def test_perfetto(trace: Trace, tmp_path: Path) -> None:
    done = export_perfetto(trace, str(tmp_path / "out"), [Mark(7, 2, "rets")])
    assert done.events == 6 and not done.limited
    document = json.loads((tmp_path / "out").read_text())
    events = document["traceEvents"]
    shown = [(e["ph"], e.get("name"), round(e["ts"] * 1000)) for e in events if e["ph"] in "BE"]
    # Instructions retired, the branch itself included.
    assert shown == [
        ("B", "f", 10), ("B", "g", 12), ("E", None, 15), ("B", "g", 17), ("E", None, 21), ("E", None, 25),
    ]  # fmt: skip
    assert [(e["name"], round(e["ts"] * 1000)) for e in events if e["ph"] == "i"] == [
        ("trip: rets", 15),
        ("signal 10", 25),
    ]
    assert {e["pid"] for e in events} == {5} and {e["tid"] for e in events} == {7}
    assert document["otherData"]["clock"] == "instructions"


def test_perfetto_is_limited_and_balanced(trace: Trace, tmp_path: Path) -> None:
    done = export_perfetto(trace, str(tmp_path / "out"), limit=2)
    assert done.limited
    counts = Counter(e["ph"] for e in json.loads((tmp_path / "out").read_text())["traceEvents"])
    assert counts["B"] == counts["E"] == 2


def test_speedscope(trace: Trace, tmp_path: Path) -> None:
    assert export_speedscope(trace, str(tmp_path / "out")) == 3
    document = json.loads((tmp_path / "out").read_text())
    names = [frame["name"] for frame in document["shared"]["frames"]]
    (profile,) = document["profiles"]
    stacks = {
        tuple(names[i] for i in sample): w for sample, w in zip(profile["samples"], profile["weights"], strict=True)
    }
    assert stacks == {("f", "g"): 2, ("f",): 1}
    assert profile["endValue"] == sum(profile["weights"]) == 3


def test_returns_past_frames_and_without_calls(trace: Trace) -> None:
    stack = CallStack()
    rows = [rows.take(rows.is_branch) for rows in trace.batches()]
    left = [step.left for part in rows for step in stack.steps(part)]
    assert left == [0, 0, 1, 0, 1, 1] and stack.frames == []
    unwound = CallStack()
    first = rows[0].take(slice(0, 2))
    first.kind[1] = 3
    list(unwound.steps(first))
    assert len(unwound.frames) == 2
    longjmp = rows[-1] if len(rows[-1]) else rows[-2]
    assert [step.left for step in unwound.steps(longjmp.take(longjmp.kind == 4))][-1] == 2
    assert [step.left for step in unwound.steps(longjmp.take(longjmp.kind == 4))][-1] == 0


@pytest.mark.parametrize("export", [export_csv, export_parquet, export_perfetto, export_speedscope])
def test_a_file_that_cannot_be_written(trace: Trace, export) -> None:
    with pytest.raises(OutputError) as caught:
        export(trace, "/nonexistent/out")
    assert caught.value.slug == "export-write"
