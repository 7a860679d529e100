"""`perf script` text: every kind of line, every line accounted for, gaps where something is missing."""

import io
import os
from pathlib import Path

import pytest

from branchmon.errors import UsageError
from branchmon.events import BranchKind
from branchmon.traces.importers import perf_script as ps
from branchmon.traces.importers.text import ImportResult, import_text
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import RowKind

SAMPLES = Path(os.environ.get("BRANCHMON_PERF_SAMPLES", "../shared/data/perf-script"))
CALL = " prog  42/43    10.000000001:      1   branches:uH:   call   401000 main+0x10 (prog) =>   401200 f+0x0 (prog)"
RETURN = " prog  42/43  10.000000005:      1   branches:uH:   return   401204 f+0x4 (prog) =>   401005 main+0x15 (prog)"
SYSCALL = (
    " prog  42/43 10.000000007: 1 branches:uH:   tr end  syscall    401008 main+0x18 (prog) => 0 [unknown] ([unknown])"
)
START = " prog  42/43 10.000000009: 1 branches:uH:   tr strt    0 [unknown] ([unknown]) =>   40100a main+0x1a (prog)"
JCC = " prog  42/43 10.000000010: 1 branches:uH:   jcc    401020 main+0x30 (prog) =>   401000 main+0x10 (prog)"
ERROR = " instruction trace error type 1 time 10.000000011 cpu -1 pid 42 tid 43 ip 0x401000 code 7: Overflow packet"
STACK = "prog 42 [001] 11.5:  401234 f+0x4 (prog) 0x401204/0x401005/P/-/-/3/RET/- 0x401000/0x401200/M/-/-/0/CALL/-"


def imported(tmp_path: Path, *lines: str) -> tuple[ImportResult, list[tuple[int, ...]], Trace]:
    path = str(tmp_path / "t")
    result = import_text(io.BytesIO("\n".join(lines).encode() + b"\n"), lambda: FileStore(path))
    assert result.lines == len(lines)
    assert result.records + result.gaps + sum(result.ignored.values()) == result.lines
    trace = Trace(path)
    found = []
    for rows in trace.batches():
        columns = (rows.kind, rows.thread, rows.source, rows.target, rows.taken)
        found += list(zip(*(column.tolist() for column in columns), strict=True))
    assert trace.cut is None
    return result, [row for row in found if row[0] < 16 or row[0] == RowKind.GAP], trace


def test_branch_line() -> None:
    line = ps.parse_line(CALL)
    assert line == ps.BranchLine(
        ps.Header(43, 42, "prog", 10_000_000_001),
        "call",
        ps.Side(0x401000, "main", 0x10, "prog"),
        ps.Side(0x401200, "f", 0, "prog"),
    )


@pytest.mark.parametrize(
    ("text", "comm", "pid", "tid", "time"),
    [
        ("a b 7 [003] 1.5: 1 branches: 10 => 20", "a b", 7, 7, 1_500_000_000),
        ("7/8 1.000001: branches:u: 10 => 20", "", 7, 8, 1_000_001_000),
        ("  :-1    -1/-1   [000] 0.1: branches: jmp 10 => 20", ":-1", 0, 0, 100_000_000),
    ],
)
def test_headers(text: str, comm: str, pid: int, tid: int, time: int) -> None:
    line = ps.parse_line(text)
    assert isinstance(line, ps.BranchLine)
    assert line.header == ps.Header(tid, pid, comm, time)
    assert (line.source.address, line.target.address) == (0x10, 0x20)


def test_symbols_with_blanks_and_brackets() -> None:
    line = ps.parse_line("7 1.5: 1 branches: jmp 10 operator()(int, A<b>)+0x3 (/usr/lib/a b.so) => 20 g(int) (x.so)")
    assert isinstance(line, ps.BranchLine)
    assert line.source == ps.Side(0x10, "operator()(int, A<b>)", 3, "/usr/lib/a b.so")
    assert line.target == ps.Side(0x20, "g(int)", 0, "x.so")


def test_instruction_counts() -> None:
    line = ps.parse_line("7 1.5: 1 branches: jmp 10 f+0x3 (a) => 20 g+0x0 (a)\t IPC: 1.50 (12/8)")
    assert isinstance(line, ps.BranchLine) and line.instructions == 12 and line.target.dso == "a"


def test_stack_line() -> None:
    line = ps.parse_line(STACK)
    assert isinstance(line, ps.StackLine)
    assert line.entries == (
        ps.StackEntry(0x401000, 0x401200, True, "CALL"),
        ps.StackEntry(0x401204, 0x401005, False, "RET"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ps.Ignored("blank")),
        ("# ========", ps.Ignored("comment")),
        ("\t    7f00 main+0x3 (prog)", ps.Ignored("call chain")),
        ("prog 7 [001] 1.5: 1 cycles:u: 401000 main (prog)", ps.Ignored("sample without branches")),
        ("what is this", ps.Unknown("what is this")),
        ("7 1.5: 1 branches: jmp xyz => 20", ps.Unknown("7 1.5: 1 branches: jmp xyz => 20")),
        ("7 1.5: PERF_RECORD_LOST lost 12", ps.Loss(0, "lost", "LOST lost 12")),
        (ERROR, ps.Loss(43, "overflow", "7: Overflow packet", 10_000_000_011)),
        ("p 7 1.5: PERF_RECORD_COMM exec: ls:7/8", ps.CommLine(7, 8, "ls", True)),
        ("p 7 1.5: PERF_RECORD_FORK(9:10):(7:8)", ps.ForkLine(9, 10, 8)),
        ("p 7 1.5: PERF_RECORD_EXIT(9:10):(7:8)", ps.ExitLine(10)),
        (
            "p 7 1.5: PERF_RECORD_MMAP2 7/8: [0x401000(0x2000) @ 0x1000 08:01 5 6]: r-xp /bin/a b",
            ps.MapLine(7, 8, 0x401000, 0x2000, 0x1000, "r-xp", "/bin/a b"),
        ),
    ],
)
def test_other_lines(text: str, expected: ps.Line) -> None:
    assert ps.parse_line(text) == expected


def test_a_stream_with_a_system_call(tmp_path) -> None:
    result, rows, trace = imported(tmp_path, CALL, RETURN, SYSCALL, START, JCC)
    assert rows == [
        (BranchKind.CALL, 43, 0x401000, 0x401200, True),
        (BranchKind.RETURN, 43, 0x401204, 0x401005, True),
        (BranchKind.FAR, 43, 0x401008, 0x40100A, True),
        (BranchKind.CONDITIONAL, 43, 0x401020, 0x401000, True),
    ]
    assert (result.records, result.gaps, result.breaks) == (4, 0, 0)
    assert trace.metadata.clock == "branch" and not trace.metadata.exact and trace.metadata.approximations


def test_losses_become_gaps(tmp_path) -> None:
    result, rows, trace = imported(tmp_path, CALL, ERROR, JCC, "nonsense", JCC)
    assert [row[0] for row in rows] == [3, RowKind.GAP, 1, RowKind.GAP, 1]
    assert dict(result.reasons) == {"overflow": 1, "unknown": 1}
    notes = [event.note for rows in trace.batches() for event in rows.events if event.kind == RowKind.GAP]
    assert notes[0] == {"why": "overflow", "detail": "7: Overflow packet"}


def test_a_missing_line_is_noticed(tmp_path) -> None:
    # After the call to 401200 a branch at 401020 cannot be next: code runs upwards.
    result, rows, _ = imported(tmp_path, CALL, JCC)
    assert [row[0] for row in rows] == [3, RowKind.GAP, 1]
    assert result.breaks == 1 and result.gaps == 0


def test_interrupts_are_no_branches_and_no_gaps(tmp_path) -> None:
    interrupt = JCC.replace("jcc ", "tr end  hw int ").replace("=>   401000", "=>   0")
    resumed = START.replace("40100a", "401020")
    result, rows, _ = imported(tmp_path, CALL.replace("401200", "401010"), interrupt, resumed, JCC)
    assert [row[0] for row in rows] == [3, 1]
    assert sum(result.ignored.values()) == 2


def test_tracing_that_was_off_is_a_gap(tmp_path) -> None:
    result, rows, _ = imported(tmp_path, CALL, START, JCC)
    assert [row[0] for row in rows] == [3, RowKind.GAP, 1]
    assert result.gaps == 1


def test_kernel_branches_are_left_out(tmp_path) -> None:
    kernel = "prog 42/43 10.1: 1 branches:k: jmp ffffffff81000000 a+0x0 ([k]) => ffffffff81000100 b+0x0 ([k])"
    enter = "prog 42/43 10.1: 1 branches: syscall 401210 f+0x10 (prog) => ffffffff81000000 entry+0x0 ([k])"
    leave = "prog 42/43 10.1: 1 branches: sysret ffffffff81000200 a+0x0 ([k]) => 401212 f+0x12 (prog)"
    result, rows, _ = imported(tmp_path, CALL, enter, kernel, leave, RETURN.replace("401204", "401220"))
    assert [(row[0], row[3]) for row in rows] == [(3, 0x401200), (7, 0x401212), (4, 0x401005)]
    assert result.ignored["kernel, interrupts, resumptions"] == 2


def test_snippets_stand_alone(tmp_path) -> None:
    result, rows, trace = imported(tmp_path, STACK, STACK)
    assert [row[0] for row in rows] == [RowKind.GAP, 3, 4, RowKind.GAP, 3, 4]
    assert result.kind == "lbr" and result.snippets == 2
    assert any("snippets" in sentence for sentence in trace.metadata.approximations)


def test_instruction_counts_fill_the_gaps(tmp_path) -> None:
    path = str(tmp_path / "t")
    text = f"{CALL}\t IPC: 1.0 (10/10)\n{RETURN}\t IPC: 1.0 (7/7)\n"
    import_text(io.BytesIO(text.encode()), lambda: FileStore(path))
    (rows,) = Trace(path).batches()
    assert rows.gap[rows.is_branch].tolist() == [9, 6]


def test_nothing_to_import(tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        import_text(io.BytesIO(b"hello\n" * 5000), lambda: FileStore(str(tmp_path / "t")))
    assert caught.value.slug == "import-no-branches"


def test_long_lines_are_bounded(tmp_path) -> None:
    result, rows, _ = imported(tmp_path, CALL, "x" * 1_000_000, JCC)
    assert [row[0] for row in rows] == [3, RowKind.GAP, 1]
    assert result.lines == 3


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded samples (BRANCHMON_PERF_SAMPLES) here")
def test_real_samples_are_accounted_for(tmp_path) -> None:
    for path in sorted(SAMPLES.glob("*.perf")):
        lines = path.read_text().splitlines()
        result, rows, _ = imported(tmp_path, *lines)
        user = [line for line in lines if "=>" in line and "tr strt" not in line]
        if path.name != "page_fault.perf":
            assert result.branches == len(user), path.name
        assert result.gaps >= sum("trace error" in line for line in lines)
        assert rows
