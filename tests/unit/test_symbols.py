"""Symbolizer against nm and addr2line, on libc and on a position-independent program."""

import bisect
import os
import random
import subprocess
from pathlib import Path

import pytest

from branchmon.sources.base import Mapping
from branchmon.sources.maps import read_mappings
from branchmon.symbols import Symbolizer

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
static int twice(int x) { return 2 * x; }
__attribute__((noinline)) int half(int x)
{
    if (x < 0)
        return -half(-x);
    return x / 2;
}
int main(int argc, char **argv)
{
    printf("%d %d\n", twice(argc), half(argc));
    return argv[0] == 0;
}
"""
LIBRARY = r"""
static int in(int x) { return x; }
int first(int x) { return in(x) + 1; }
static int (*volatile use)(int) = in;
int second(void) { return use(2); }
"""
BASE = 0x555555554000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("symbols")
    (directory / "p.c").write_text(PROGRAM)
    path = str(directory / "p")
    subprocess.run(["gcc", "-O0", "-g", "-pie", "-o", path, str(directory / "p.c")], check=True)
    return path


def mapped(path: str, base: int = BASE) -> list[Mapping]:
    """As the loader would map the file's segments."""
    mappings = []
    text = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"]:
            offset, address, memory = (int(fields[i], 16) for i in (1, 2, 5))
            flags = "".join(fields[6:-1])
            start = base + (address & ~0xFFF)
            end = (base + address + memory + 0xFFF) & ~0xFFF
            permissions = (
                ("r" if "R" in flags else "-") + ("w" if "W" in flags else "-") + ("x" if "E" in flags else "-")
            )
            mappings.append(Mapping(start, end, permissions + "p", offset & ~0xFFF, "08:01", 1, path))
    assert mappings
    return mappings


def functions(path: str, *options: str) -> list[tuple[int, int, str]]:
    text = subprocess.run(["nm", "-S", "--defined-only", *options, path], capture_output=True, text=True, check=True)
    found = []
    for line in text.stdout.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] in "tTWi":
            found.append((int(fields[0], 16), int(fields[1], 16), fields[3].split("@")[0]))
    return sorted(found)


def _libc() -> str:
    return next(m.path for m in read_mappings(os.getpid()) if "libc.so" in m.path or "/libc-" in m.path)


def test_a_thousand_addresses_of_libc_agree_with_nm() -> None:
    path = _libc()
    known = functions(path, "-D")
    symbolizer = Symbolizer(mapped(path))
    choice = random.Random(7)
    checked = 0
    while checked < 1000:
        start, size, _ = choice.choice(known)
        address = start + choice.randrange(size)
        covering = {name for low, length, name in known if low <= address < low + length}
        place = symbolizer.describe(BASE + address)
        assert place.covered and place.symbol in covering, (hex(address), place, covering)
        assert place.module_address == address
        assert any(low + place.offset == address for low, _, name in known if name == place.symbol)
        checked += 1


def test_every_address_of_a_program_agrees_with_addr2line(program: str) -> None:
    known = functions(program)
    addresses = [start + i for start, size, _ in known for i in range(size)]
    text = subprocess.run(
        ["addr2line", "-f", "-e", program, *map(hex, addresses)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbolizer = Symbolizer(mapped(program))
    lines = 0
    for address, name, where in zip(addresses, text[0::2], text[1::2], strict=True):
        place = symbolizer.describe(BASE + address, lines=True)
        assert place.symbol == name, hex(address)
        file, _, line = where.partition(":")
        if file != "??":
            assert (os.path.basename(place.file), place.line) == (os.path.basename(file), int(line.split()[0])), hex(
                address
            )
            lines += 1
    assert lines > 100


def test_build_id_and_procedure_linkage(program: str) -> None:
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True).stdout
    build_id = notes.partition("Build ID: ")[2].split()[0]
    symbolizer = Symbolizer(mapped(program))
    place = symbolizer.describe(BASE + functions(program)[0][0])
    assert place.build_id == build_id
    listing = subprocess.run(["objdump", "-d", program], capture_output=True, text=True, check=True).stdout
    stub = next(line for line in listing.splitlines() if line.endswith("<printf@plt>:"))
    assert symbolizer.describe(BASE + int(stub.split()[0], 16)).symbol == "printf@plt"


def test_stripped_file_has_the_nearest_export(program: str, tmp_path: Path) -> None:
    library = str(tmp_path / "lib.so")
    (tmp_path / "l.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-O0", "-shared", "-fPIC", "-o", library, str(tmp_path / "l.c")], check=True)
    full = {name: start for start, _, name in functions(library)}
    subprocess.run(["strip", library], check=True)
    symbolizer = Symbolizer(mapped(library))
    assert symbolizer.describe(BASE + full["first"] + 3).name == "first+0x3"
    starts = sorted(start for name, start in full.items() if name in ("first", "second"))
    position = bisect.bisect(starts, full["in"])
    place = symbolizer.describe(BASE + full["in"])
    assert not place.covered
    assert place.symbol == ("" if position == 0 else "first"), place


def test_vdso_and_what_is_not_there() -> None:
    mappings = read_mappings(os.getpid())
    vdso = next((m for m in mappings if m.path == "[vdso]"), None)
    if vdso is None:
        pytest.skip("no vdso here")
    with open("/proc/self/mem", "rb") as memory:

        def read(address: int, size: int) -> bytes:
            memory.seek(address)
            return memory.read(size)

        symbolizer = Symbolizer(mappings, read=read)
        names = {symbolizer.describe(address).symbol for address in range(vdso.start, vdso.end, 16)}
    assert any("clock_gettime" in name for name in names)
    nothing = symbolizer.describe(1)
    assert (nothing.module, nothing.name) == ("", "0x1")
    stack = next(m for m in mappings if m.path == "[stack]")
    assert symbolizer.describe(stack.start + 16).module_address == 16


def test_files_that_are_no_elf_or_gone_are_described_by_their_mapping(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    mappings = [
        Mapping(0x10000, 0x20000, "r-xp", 0x3000, "08:01", 1, str(text)),
        Mapping(0x20000, 0x30000, "r-xp", 0, "08:01", 1, str(tmp_path / "gone")),
    ]
    symbolizer = Symbolizer(mappings)
    assert symbolizer.describe(0x10010).name == "text+0x3010"
    assert symbolizer.describe(0x20010).name == "gone+0x10"


def test_damaged_files_raise_nothing(program: str, tmp_path: Path) -> None:
    whole = Path(program).read_bytes()
    mappings = mapped(program)
    choice = random.Random(3)
    described = 0
    for i in range(150):
        data = bytearray(whole[: choice.randrange(64, len(whole))] if i % 3 == 0 else whole)
        # Anywhere, and mostly in headers: of the file, the segments, the sections, the sections' tables.
        for _ in range(choice.randrange(1, 30)):
            place = choice.choice((range(64), range(64, 900), range(len(data) - 2000, len(data)), range(len(data))))
            data[choice.choice(place) % len(data)] = choice.randrange(256)
        path = tmp_path / f"damaged{i}"
        path.write_bytes(data)
        symbolizer = Symbolizer([m._replace(path=str(path)) for m in mappings])
        for mapping in mappings:
            address = mapping.start + choice.randrange(mapping.end - mapping.start)
            assert symbolizer.describe(address, lines=True).module == str(path)
            symbolizer.function(address)
            symbolizer.build_id(mapping)
            described += 1
    assert described >= 600
