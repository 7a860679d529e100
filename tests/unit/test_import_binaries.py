"""With the binaries: what executes between taken branches, by decoding; checked against the listing of straight.s."""

import io
import subprocess
from pathlib import Path

import pytest

from branchmon.events import BranchKind as K
from branchmon.traces.importers.binaries import Binaries
from branchmon.traces.importers.text import ImportResult, import_text
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import RowKind

PROGRAMS = Path(__file__).parent.parent / "programs"
# straight.s, linked to 0x401000: start 401000, call 401005, jnz 40100c, jmp 40100e, 2: 401011, syscall 401018,
# f 40101a, jz 40101c, ja 401021, g: ret 401024.
ROUND = [("call", 0x401005, 0x40101A), ("return", 0x401024, 0x40100A), ("jcc", 0x40100C, 0x401005)]
STREAM = [*ROUND, *ROUND, *ROUND[:2], ("jmp", 0x40100E, 0x401011), ("tr end  syscall", 0x401018, 0)]
IN_F = [(1, K.CONDITIONAL, 0, 0x40101C, 2, 0x40101E), (1, K.CONDITIONAL, 0, 0x401021, 2, 0x401023)]
BACK = [*IN_F, (1, K.RETURN, 1, 0x401024, 1, 0x40100A)]
LOOP = [*BACK, (1, K.CONDITIONAL, 1, 0x40100C, 2, 0x401005), (0, K.CALL, 1, 0x401005, 5, 0x40101A)]
EXPECTED = [
    (0, K.CALL, 1, 0x401005, 5, 0x40101A),  # where the trace begins is not known
    *LOOP,
    *LOOP,
    *BACK,
    (1, K.CONDITIONAL, 0, 0x40100C, 2, 0x40100E),
    (0, K.JUMP, 1, 0x40100E, 2, 0x401011),
    (2, K.FAR, 1, 0x401018, 2, 0x40101A),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("straight") / "straight"
    source = str(PROGRAMS / "straight.s")
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,-Ttext=0x401000", "-o", str(path), source], check=True)
    return path


def imported(tmp_path: Path, text: str, binaries: list[str]) -> tuple[ImportResult, list[tuple[int, ...]], list[int]]:
    path = str(tmp_path / "t")
    result = import_text(io.BytesIO(text.encode()), lambda: FileStore(path), Binaries(binaries))
    rows: list[tuple[int, ...]] = []
    kinds: list[int] = []
    for batch in Trace(path).batches():
        columns = (batch.gap, batch.kind, batch.taken, batch.source, batch.size, batch.target)
        rows += [row for row in zip(*(c.tolist() for c in columns), strict=True) if 1 <= row[1] <= 7]
        kinds += batch.kind.tolist()
    return result, rows, kinds


def lines(stream: list[tuple[str, int, int]], place: str = "(straight)") -> str:
    return "".join(
        f"straight 5/5 1.{i:09}: 1 branches:u: {flags} {source:x} x+0x1 {place} => {target:x} y+0x2 {place}\n"
        for i, (flags, source, target) in enumerate(stream)
    )


def test_every_instruction_is_recovered(program: Path, tmp_path: Path) -> None:
    result, rows, _ = imported(tmp_path, lines(STREAM), [str(program)])
    assert rows == EXPECTED
    assert result.approximations == [] and result.breaks == 0
    assert result.branches == len(EXPECTED) and result.records == len(STREAM)


def test_a_directory_of_binaries(program: Path, tmp_path: Path) -> None:
    assert imported(tmp_path, lines(STREAM), [str(program.parent)])[1] == EXPECTED


def test_where_a_mapping_tells(program: Path, tmp_path: Path) -> None:
    mapping = f"x 5 1.0: PERF_RECORD_MMAP2 5/5: [0x501000(0x1000) @ 0x1000 08:01 1 1]: r-xp {program}\n"
    moved = [(flags, source + 0x100000, target and target + 0x100000) for flags, source, target in STREAM]
    result, rows, _ = imported(tmp_path, mapping + lines(moved, "(other)"), [str(program)])
    assert rows == [
        (gap, kind, taken, source + 0x100000, size, target + 0x100000)
        for gap, kind, taken, source, size, target in EXPECTED
    ]
    # The names in brackets are of a file that is not there; the mapping knows better.
    assert result.breaks == 0


def test_where_a_symbol_tells(tmp_path: Path) -> None:
    source = tmp_path / "s.c"
    source.write_text(
        "int g(int a) { return a * 3; }\nint f(int a) { return g(a) + 1; }\nint main(void) { return f(1); }\n"
    )
    path = tmp_path / "pie"
    subprocess.run(["gcc", "-O0", "-fno-inline", "-pie", "-fPIE", "-o", str(path), str(source)], check=True)
    names = {}
    for line in subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout.splitlines():
        fields = line.split()
        if len(fields) == 3:
            names[fields[2]] = int(fields[0], 16)
    disassembly = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    body = disassembly.split("<f>:")[1].split("\n\n")[0]
    listing = [line.split("\t") for line in body.splitlines() if "\t" in line]
    before = next(i for i, fields in enumerate(listing) if "call" in fields[2])
    at = int(listing[before][0].strip(" :"), 16)
    base = 0x555555554000
    f, g = names["f"], names["g"]
    text = (
        f"p 5 1.0: 1 branches: call {base + names['main']:x} main+0x0 (pie) => {base + f:x} f+0x0 (pie)\n"
        f"p 5 1.1: 1 branches: call {base + at:x} f+0x{at - f:x} (pie) => {base + g:x} g+0x0 (pie)\n"
    )
    rows = imported(tmp_path, text, [str(path)])[1]
    assert rows[1] == (before, K.CALL, 1, base + at, 5, base + g)


def test_a_way_that_cannot_be_is_a_gap(program: Path, tmp_path: Path) -> None:
    # From f a return leads back: it cannot run on to the jump, and 401003 is in the middle of an instruction.
    result, _, kinds = imported(tmp_path, lines([ROUND[0], ("jmp", 0x401030, 0x401000)]), [str(program)])
    assert result.breaks == 1 and RowKind.GAP in kinds
    result, _, kinds = imported(
        tmp_path, lines([("jcc", 0x40100C, 0x401000), ("jmp", 0x401003, 0x401000)]), [str(program)]
    )
    assert result.breaks == 1 and RowKind.GAP in kinds


def test_other_binaries_are_noticed(program: Path, tmp_path: Path) -> None:
    result, _, _ = imported(tmp_path, lines([("call", 0x401005, 0x401024), ROUND[1]]), [str(program)])
    assert any("other binaries ran" in sentence for sentence in result.approximations)


def test_missing_binaries_are_named(program: Path, tmp_path: Path) -> None:
    result, rows, _ = imported(tmp_path, lines(STREAM, "(libother.so)"), [str(program)])
    assert any("libother.so" in sentence for sentence in result.approximations)
    assert [row[1] for row in rows][:2] == [K.CALL, K.RETURN]


def test_last_branches_with_binaries(program: Path, tmp_path: Path) -> None:
    newest_first = " ".join(f"0x{source:x}/0x{target:x}/P/-/-/1" for _, source, target in reversed(STREAM[:5]))
    text = f"x 5 1.0: PERF_RECORD_MMAP2 5/5: [0x401000(0x1000) @ 0x1000 08:01 1 1]: r-xp {program}\n"
    result, rows, _ = imported(tmp_path, f"{text}straight 5 1.5: {newest_first}\n", [str(program)])
    assert rows == EXPECTED[:9]
    assert result.kind == "lbr" and result.snippets == 1
