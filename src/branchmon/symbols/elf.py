"""One ELF file: where its segments lie, its functions, its build-id, its source lines."""

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from branchmon.symbols.lines import LineTable

DEBUG_ROOT = "/usr/lib/debug/.build-id"
"""Where distributions install separate debug files, by build-id."""

_NOTYPE, _FUNC, _IFUNC = 0, 2, 10
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_UNDEFINED, _RESERVED = 0, 0xFF00
_EXECUTABLE = 4  # SHF_EXECINSTR
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_RELOCATION = struct.Struct("<QQq")  # Elf64_Rela
_PLT_ENTRY = 16
_WALK_BACK = 64  # symbols without the address between it and the one that covers it (labels, cold parts)


class Function(NamedTuple):
    """A function symbol: addresses as the file numbers them; `sized` False: the size is a guess (to the next one)."""

    start: int
    end: int
    name: str
    sized: bool


class ElfFile:
    """Symbols and lines of one file; everything is read when first asked for, and kept.

    :param data: the file, seekable; or bytes, e.g. of the vdso.
    :raises ELFError: not an ELF file.
    """

    def __init__(self, data: BinaryIO | bytes) -> None:
        self._elf: Any = ELFFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        self._debug_file: ElfFile | None = None

    @cached_property
    def _segments(self) -> list[tuple[int, int, int]]:
        return [
            (s["p_offset"], s["p_filesz"], s["p_vaddr"]) for s in self._elf.iter_segments() if s["p_type"] == "PT_LOAD"
        ]

    def address_of(self, file_offset: int) -> int | None:
        """The address, as the file numbers it, of what stands at `file_offset`; None if no segment loads it."""
        for start, size, address in self._segments:
            # A mapping is made of whole pages, so it also shows what stands before and behind the segment.
            if start & ~0xFFF <= file_offset < start + size:
                return address + file_offset - start
        for start, size, address in self._segments:
            if start <= file_offset < (start + size + 0xFFF) & ~0xFFF:
                return address + file_offset - start
        return None

    @cached_property
    def build_id(self) -> str:
        """The GNU build-id in hexadecimal; empty if there is none."""
        try:
            for segment in self._elf.iter_segments():
                if segment["p_type"] == "PT_NOTE":
                    for note in segment.iter_notes():
                        if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU":
                            return str(note["n_desc"])
        except (ELFError, UnicodeDecodeError, struct.error):
            pass
        return ""

    # ---- functions -------------------------------------------------------------------------------------------------

    def function(self, address: int) -> Function | None:
        """The function that covers `address`; else the nearest before it in the same section; else None."""
        functions = self._functions
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        for j in range(i, max(-1, i - _WALK_BACK), -1):
            if address < functions[j].end and (functions[j].sized or j == i):
                return functions[j]
        section = self._section_at(address)
        return functions[i] if section is None or section[0] <= functions[i].start else None

    @cached_property
    def _starts(self) -> list[int]:
        return [f.start for f in self._functions]

    @cached_property
    def _functions(self) -> list[Function]:
        best: dict[int, tuple[tuple[int, ...], int, str]] = {}
        for rank, start, size, name in self._raw_symbols():
            known = best.get(start)
            if known is None or rank > known[0]:
                best[start] = (rank, size, name)
        starts = sorted(best)
        functions = []
        for i, start in enumerate(starts):
            _, size, name = best[start]
            end = start + size
            if size == 0:
                section = self._section_at(start)
                end = starts[i + 1] if i + 1 < len(starts) else start + 1
                if section is not None:
                    end = min(end, section[1]) if i + 1 < len(starts) else section[1]
            functions.append(Function(start, end, name, size != 0))
        return functions

    def _raw_symbols(self) -> Iterator[tuple[tuple[int, ...], int, int, str]]:
        """(rank, start, size, name) of every function; of several at one address the highest rank names it."""
        yield from self._plt_symbols()
        debug = self._separate_debug_file
        table = None
        for elf in (self._elf, debug._elf if debug is not None else None):
            table = table or (elf and elf.get_section_by_name(".symtab"))
        # A stripped file still exports what is in .dynsym.
        for section in (table, self._elf.get_section_by_name(".dynsym")):
            if section is not None and section["sh_type"] != "SHT_NOBITS":
                yield from self._table_symbols(section)

    def _table_symbols(self, section: Any) -> Iterator[tuple[tuple[int, ...], int, int, str]]:
        data = section.data()
        strings = section.stringtable.data()
        for name, info, _other, index, value, size in _SYMBOL.iter_unpack(data[: len(data) // 24 * 24]):
            kind, binding = info & 0xF, info >> 4
            if kind not in (_NOTYPE, _FUNC, _IFUNC) or index == _UNDEFINED or index >= _RESERVED or not name:
                continue
            if kind == _NOTYPE and self._section_at(value) is None:
                continue
            text = strings[name : strings.index(b"\0", name)].decode("utf-8", "replace")
            rank = (
                kind != _NOTYPE,
                size != 0,
                (_LOCAL, _WEAK, _GLOBAL).index(binding) if binding < 3 else 3,
                -len(text),
            )
            yield rank, value, size, text

    def _plt_symbols(self) -> Iterator[tuple[tuple[int, ...], int, int, str]]:
        """Names for the stubs through which functions of other files are called: ``puts@plt``."""
        relocations = self._elf.get_section_by_name(".rela.plt")
        symbols = self._elf.get_section_by_name(".dynsym")
        if relocations is None or symbols is None or symbols["sh_type"] == "SHT_NOBITS":
            return
        secondary = self._elf.get_section_by_name(".plt.sec")
        stubs = secondary or self._elf.get_section_by_name(".plt")
        if stubs is None or stubs["sh_type"] == "SHT_NOBITS":
            return
        address = stubs["sh_addr"] + (0 if secondary else _PLT_ENTRY)
        data, table, strings = relocations.data(), symbols.data(), symbols.stringtable.data()
        for _, info, _ in _RELOCATION.iter_unpack(data[: len(data) // 24 * 24]):
            at = int.from_bytes(table[(info >> 32) * 24 : (info >> 32) * 24 + 4], "little")
            name = strings[at : strings.index(b"\0", at)].decode("utf-8", "replace")
            if name and address < stubs["sh_addr"] + stubs["sh_size"]:
                yield (0,), address, _PLT_ENTRY, f"{name}@plt"
            address += _PLT_ENTRY

    @cached_property
    def _code_sections(self) -> list[tuple[int, int]]:
        return [
            (s["sh_addr"], s["sh_addr"] + s["sh_size"])
            for s in self._elf.iter_sections()
            if s["sh_flags"] & _EXECUTABLE and s["sh_addr"]
        ]

    def _section_at(self, address: int) -> tuple[int, int] | None:
        return next((s for s in self._code_sections if s[0] <= address < s[1]), None)

    # ---- source lines ----------------------------------------------------------------------------------------------

    def line(self, address: int) -> tuple[str, int] | None:
        """Source file and line of the instruction at `address`, from DWARF; None if the file does not tell."""
        return self._lines.find(address)

    @cached_property
    def _lines(self) -> LineTable:
        debug = self._separate_debug_file
        elf = self._elf
        if debug is not None and not elf.get_section_by_name(".debug_info"):
            elf = debug._elf
        return LineTable(elf)

    @cached_property
    def _separate_debug_file(self) -> "ElfFile | None":
        build_id = self.build_id
        if len(build_id) < 4:
            return None
        path = os.path.join(DEBUG_ROOT, build_id[:2], build_id[2:] + ".debug")
        try:
            return ElfFile(open(path, "rb"))
        except (OSError, ELFError):
            return None
