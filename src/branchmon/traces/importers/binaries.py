"""Code from the binaries: what executes from one address to another, by decoding.

Where a file lies in the address space is told by ``perf script --show-mmap-events``; without that it is found by a
symbol and offset that perf printed next to an address, or, for a program linked to a fixed place, by its own headers.
"""

import os
from bisect import bisect_right
from typing import Any, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from branchmon.events import BranchKind
from branchmon.sources import decode
from branchmon.traces.importers.code import MAX_STRAIGHT, Path, Skipped
from branchmon.traces.importers.perf_script import MapLine, Side

MAX_FILES = 20_000
MAX_PATHS = 1 << 20
"""Paths that are remembered; beyond, all are forgotten and decoded anew."""
MAX_FILE_BYTES = 1 << 30
KERNEL_NAMES = ("[kernel", "[unknown]", "[guest")


class _Place(NamedTuple):
    """A part of a file in the address space."""

    start: int
    end: int
    offset: int
    path: str


class Binaries:
    """The program's code, from files.

    :param paths: files, and directories that are searched for files with the names that perf prints.

    :ivar missing: names of files that were asked for and not found; what lies in them is approximate.
    """

    exact = True

    def __init__(self, paths: list[str]) -> None:
        self.missing: set[str] = set()
        self.holes = 0
        """Paths through code that is in none of the files."""
        self._files = _index(paths)
        self._spaces: dict[int, list[_Place]] = {}
        self._data: dict[str, bytes] = {}
        self._paths: dict[tuple[int, int | None, int], Path | None] = {}
        self._ops: dict[tuple[str, int, int], decode.Op] = {}
        self._layouts: dict[str, _Layout] = {}
        self._guessed: set[tuple[int, str]] = set()

    # ---- Code ------------------------------------------------------------------------------------------------------

    def path(self, pid: int, start: int | None, end: int) -> Path | None:
        """See :class:`branchmon.traces.importers.code.Code`."""
        key = (pid, start, end)
        if key in self._paths:
            return self._paths[key]
        if len(self._paths) >= MAX_PATHS:
            self._paths.clear()
        found = self._paths[key] = self._find(pid, start, end)
        return found

    def mapped(self, line: MapLine) -> None:
        """See :class:`branchmon.traces.importers.code.Code`."""
        file = self._file(line.path)
        if file is not None:
            self._add(line.pid, _Place(line.start, line.start + line.length, line.offset, file))

    def executed(self, pid: int) -> None:
        """See :class:`branchmon.traces.importers.code.Code`."""
        self._spaces.pop(pid, None)
        self._paths.clear()

    def seen(self, pid: int, side: Side) -> None:
        """An address with a symbol in a file: where the file lies, if that is not known yet."""
        if not side.dso or side.dso.startswith(KERNEL_NAMES) or (pid, side.dso) in self._guessed:
            return
        if self._place(pid, side.address) is not None or len(self._guessed) > MAX_FILES:
            return
        file = self._file(side.dso)
        if file is None:
            self._guessed.add((pid, side.dso))
            return
        layout = self._layouts.get(file)
        if layout is None:
            layout = self._layouts[file] = _Layout(file)
        base = layout.base(side)
        if base is not None:
            self._guessed.add((pid, side.dso))
            for start, size, offset in layout.code:
                self._add(pid, _Place(base + start, base + start + size, offset, file))

    def approximations(self) -> list[str]:
        """See :class:`branchmon.traces.importers.code.Code`."""
        told = []
        if self.missing:
            names = sorted(self.missing)
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            told.append(f"not among the binaries: {shown}; branches in them are as without binaries")
        if self.holes:
            told.append(f"{self.holes} ways between two branches lead through code that is in none of the binaries")
        return told

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _find(self, pid: int, start: int | None, end: int) -> Path | None:
        last = self._op(pid, end)
        if start is None:
            return None if last is None else Path(0, last.kind, last.size, target=last.target)
        if not start <= end <= start + MAX_STRAIGHT:
            return None
        gap, at, skipped = 0, start, []
        while at < end:
            op = self._op(pid, at)
            if op is None or op.size == 0:
                self.holes += 1
                break
            if op.kind in (decode.CONDITIONAL, BranchKind.FAR):
                skipped.append(Skipped(gap, op.kind, at, op.size))
                gap = 0
            elif op.kind != decode.PLAIN:
                return None  # an unconditional branch on the way: the trace says otherwise
            else:
                gap += 1
            at += op.size
        if at > end:
            return None  # the branch would start within an instruction
        if last is None:
            return Path(gap, decode.PLAIN, 0, tuple(skipped))
        return Path(gap, last.kind, last.size, tuple(skipped), last.target)

    def _op(self, pid: int, address: int) -> decode.Op | None:
        place = self._place(pid, address)
        if place is None:
            return None
        at = address - place.start + place.offset
        key = (place.path, at, address)
        op = self._ops.get(key)
        if op is None:
            data = self._bytes(place.path)
            op = decode.decode(data[at : at + decode.LONGEST], address)
            if len(self._ops) < MAX_PATHS:
                self._ops[key] = op
        return op

    def _place(self, pid: int, address: int) -> _Place | None:
        space = self._spaces.get(pid)
        if not space:
            return None
        i = bisect_right(space, (address, 1 << 64, 0, "")) - 1
        return space[i] if i >= 0 and address < space[i].end else None

    def _add(self, pid: int, place: _Place) -> None:
        space = self._spaces.setdefault(pid, [])
        if len(space) < MAX_FILES:
            space[:] = sorted([p for p in space if p.end <= place.start or p.start >= place.end] + [place])
        self._paths.clear()

    def _file(self, name: str) -> str | None:
        found = self._files.get(name) or self._files.get(os.path.basename(name))
        if found is None:
            self.missing.add(name)
        return found

    def _bytes(self, path: str) -> bytes:
        data = self._data.get(path)
        if data is None:
            try:
                with open(path, "rb") as file:
                    data = file.read(MAX_FILE_BYTES)
            except OSError:
                data = b""
            self._data[path] = data
        return data


def _index(paths: list[str]) -> dict[str, str]:
    """Files by name and by whole path; those named singly win."""
    found: dict[str, str] = {}
    for path in sorted(paths, key=os.path.isdir):
        if not os.path.isdir(path):
            found.setdefault(os.path.basename(path), path)
            found.setdefault(os.path.abspath(path), path)
            continue
        for directory, _, names in os.walk(path):
            for name in names:
                if len(found) >= 10 * MAX_FILES:
                    return found
                whole = os.path.join(directory, name)
                found.setdefault(name, whole)
                found.setdefault(os.path.abspath(whole), whole)
    return found


class _Layout:
    """Where a file's code lies, and its functions; nothing of it if it is no ELF file."""

    def __init__(self, path: str) -> None:
        self.code: list[tuple[int, int, int]] = []
        """(address as the file numbers it, size, offset in the file) of executable segments."""
        self._fixed = False
        self._symbols: dict[str, int] = {}
        try:
            with open(path, "rb") as file:
                self._read(ELFFile(file))
        except (OSError, ELFError):
            pass

    def _read(self, elf: "ELFFile") -> None:
        self._fixed = elf.header["e_type"] == "ET_EXEC"
        for segment in elf.iter_segments():
            if segment["p_type"] == "PT_LOAD" and segment["p_flags"] & 1:
                self.code.append((segment["p_vaddr"], segment["p_filesz"], segment["p_offset"]))
        for name in (".dynsym", ".symtab"):
            section: Any = elf.get_section_by_name(name)
            if section is not None and section["sh_type"] != "SHT_NOBITS":
                for symbol in section.iter_symbols():
                    if symbol["st_value"] and symbol["st_info"]["type"] in ("STT_FUNC", "STT_GNU_IFUNC", "STT_NOTYPE"):
                        self._symbols[symbol.name.partition("@")[0]] = symbol["st_value"]

    def base(self, side: Side) -> int | None:
        """What has to be added to the file's own addresses; None if `side` does not tell."""
        if self._fixed:
            return 0
        own = self._symbols.get(side.symbol) if side.symbol else None
        if own is None:
            return None
        base = side.address - side.offset - own
        return base if base >= 0 and base % 4096 == 0 else None
