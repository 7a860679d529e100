"""Where our memory goes in a program's address space: out of the way of everything the program would map itself."""

from typing import TYPE_CHECKING

from branchmon.sources.base import Mapping
from branchmon.sources.maps import VSYSCALL
from branchmon.sources.translate import area
from branchmon.sources.translate.code import REGION_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOWEST = 1 << 20
_TABLES_BELOW = 1 << 31
_TABLES_WANTED = 0x3E000000
_TOP = 0x7FFFFFFFF000
_REACH = 1600 << 20
"""How far from code its cache may be: its data must stay within 2 GiB of the cache."""
_AWAY = 768 << 20
"""How far we like it to be: programs map and grow their heaps next to what they have."""
_GUARD = 1 << 20


def gaps(mappings: list[Mapping]) -> "Iterator[tuple[int, int]]":
    """The unmapped stretches of an address space, a margin off each end."""
    end = _LOWEST
    for mapping in sorted(mappings):
        if mapping.start >= VSYSCALL:
            continue
        if mapping.start - _GUARD > end + _GUARD:
            yield end + _GUARD, mapping.start - _GUARD
        end = max(end, mapping.end)
    if end + _GUARD < _TOP - _GUARD:
        yield end + _GUARD, _TOP - _GUARD


def for_tables(mappings: list[Mapping]) -> int | None:
    """An address for the shared tables, below 2 GiB; None if there is no room."""
    return _nearest(mappings, _TABLES_WANTED, area.TABLES_SIZE, 0, _TABLES_BELOW)


def for_region(mappings: list[Mapping], code: Mapping) -> int | None:
    """An address for a code cache for the code of a mapping; None if there is no room within its reach."""
    for wanted in (code.start - _AWAY, code.end + 2 * _AWAY):
        found = _nearest(mappings, wanted, REGION_SIZE, code.end - _REACH, code.start + _REACH)
        if found is not None:
            return found
    return None


def _nearest(mappings: list[Mapping], wanted: int, size: int, low: int, high: int) -> int | None:
    """The page nearest to `wanted` from which `size` bytes are free, all between `low` and `high`."""
    best = None
    for start, end in gaps(mappings):
        first, last = max(start, low), min(end, high) - size
        if first > last:
            continue
        at = min(max(wanted, first), last) & ~4095
        if at < first:
            at += 4096
        if at <= last and (best is None or abs(at - wanted) < abs(best - wanted)):
            best = at
    return best
