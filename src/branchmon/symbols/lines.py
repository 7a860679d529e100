"""Source lines from DWARF: each compilation unit's line program is read when an address falls into it."""

from bisect import bisect_right
from functools import cached_property
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError

_Row = tuple[int, str, int]
_BROKEN = (DWARFError, ELFError, KeyError, ValueError, IndexError, AttributeError, TypeError)
"""What pyelftools raises on debug information that is damaged or too new."""


class LineTable:
    """Address to line for one ELF file.

    :param elf: the open :class:`elftools.elf.elffile.ELFFile`.

    Damaged or unknown debug information gives "not known", never an exception.
    """

    def __init__(self, elf: Any) -> None:
        self._elf = elf
        self._rows: dict[int, list[_Row]] = {}

    def find(self, address: int) -> tuple[str, int] | None:
        """File and line of `address` (as the ELF file numbers it)."""
        try:
            unit = self._unit_at(address)
            if unit is None:
                return None
            rows = self._rows.get(unit.cu_offset)
            if rows is None:
                rows = self._rows[unit.cu_offset] = _read_rows(self._dwarf, unit)
        except _BROKEN:
            return None
        i = bisect_right(rows, (address, "\U0010ffff", 0)) - 1
        # A row without a line ends a sequence: what follows belongs to nobody.
        return (rows[i][1], rows[i][2]) if i >= 0 and rows[i][2] else None

    @cached_property
    def _dwarf(self) -> Any:
        return self._elf.get_dwarf_info() if self._elf.has_dwarf_info() else None

    @cached_property
    def _ranges(self) -> list[tuple[int, int, int]]:
        """(start, end, offset of the unit), sorted."""
        dwarf = self._dwarf
        if dwarf is None:
            return []
        listed = dwarf.get_aranges()
        found = [(e.begin_addr, e.begin_addr + e.length, e.info_offset) for e in listed.entries] if listed else []
        told = {entry[2] for entry in found}
        for unit in dwarf.iter_CUs():
            if unit.cu_offset not in told:
                found += [(start, end, unit.cu_offset) for start, end in _unit_ranges(dwarf, unit)]
        return sorted(found)

    def _unit_at(self, address: int) -> Any:
        ranges = self._ranges
        i = bisect_right(ranges, (address, 1 << 64, 0)) - 1
        while i >= 0:
            start, end, offset = ranges[i]
            if start <= address < end:
                return self._dwarf.get_CU_at(offset)
            if address - start > 1 << 24:
                return None
            i -= 1
        return None


def _unit_ranges(dwarf: Any, unit: Any) -> list[tuple[int, int]]:
    attributes = unit.get_top_DIE().attributes
    low = attributes.get("DW_AT_low_pc")
    high = attributes.get("DW_AT_high_pc")
    if low is not None and high is not None:
        absolute = high.form == "DW_FORM_addr"
        return [(low.value, high.value if absolute else low.value + high.value)]
    listed = attributes.get("DW_AT_ranges")
    ranges = dwarf.range_lists()
    if listed is None or ranges is None:
        return []
    base = low.value if low is not None else 0
    found = []
    for entry in ranges.get_range_list_at_offset(listed.value, cu=unit):
        if hasattr(entry, "base_address"):
            base = entry.base_address
        else:
            shift = 0 if getattr(entry, "is_absolute", False) else base
            found.append((entry.begin_offset + shift, entry.end_offset + shift))
    return found


def _read_rows(dwarf: Any, unit: Any) -> list[_Row]:
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return []
    names = _file_names(program)
    first = 0 if program.header.version >= 5 else 1
    rows: list[_Row] = []
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        index = state.file - first
        name = names[index] if 0 <= index < len(names) else ""
        rows.append((state.address, name, 0 if state.end_sequence else state.line))
    # Of several rows for one address the last one counts; an end of sequence gives way to a new start there.
    last: dict[int, _Row] = {}
    for row in rows:
        if row[2] or row[0] not in last:
            last[row[0]] = row
    return sorted(last.values())


def _file_names(program: Any) -> list[str]:
    directories = [_text(d) for d in program.header.get("include_directory", [])]
    version5 = program.header.version >= 5
    names = []
    for entry in program.header.file_entry:
        name, index = _text(entry.name), entry.dir_index
        if not version5:
            index -= 1
        directory = directories[index] if 0 <= index < len(directories) else ""
        names.append(name if name.startswith("/") or not directory else f"{directory}/{name}")
    return names


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
