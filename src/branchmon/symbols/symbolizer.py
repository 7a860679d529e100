"""Addresses of a process to places in its modules."""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache

from elftools.common.exceptions import ELFError

from branchmon.sources.base import Mapping
from branchmon.symbols.elf import ElfFile, Function
from branchmon.symbols.place import Place

VDSO = "[vdso]"
ANONYMOUS = "[anon]"
_DELETED = " (deleted)"
_VDSO_LIMIT = 1 << 20
Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: the same file as before."""


class Symbolizer:
    """Describes addresses of one address space.

    :param mappings: the address space, any order; see :meth:`update`.
    :param read: memory of the process, for the vdso; None: the vdso stays without symbols.
    :param root: prefix of every path, for a process with a file tree of its own: ``/proc/PID/root``.

    Files are opened when an address falls into them and are shared by all symbolizers; places are cached. What cannot
    be read is described by its mapping alone: nothing here raises.
    """

    def __init__(
        self, mappings: Sequence[Mapping], *, read: Callable[[int, int], bytes] | None = None, root: str = ""
    ) -> None:
        self._read = read
        self._root = root
        self._places: dict[tuple[int, bool], Place] = {}
        self._vdso: tuple[int, ElfFile | None] | None = None
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        self.update(mappings)

    def update(self, mappings: Sequence[Mapping]) -> None:
        """The address space changed; nothing happens if it did not."""
        ordered = sorted(mappings)
        if ordered != self._mappings:
            self._mappings = ordered
            self._starts = [m.start for m in ordered]
            self._places.clear()

    @property
    def mappings(self) -> Sequence[Mapping]:
        """The address space, by address."""
        return self._mappings

    def mapping(self, address: int) -> Mapping | None:
        """The mapping that holds `address`."""
        i = bisect_right(self._starts, address) - 1
        return self._mappings[i] if i >= 0 and address < self._mappings[i].end else None

    def is_code(self, address: int) -> bool:
        """The address lies in executable memory."""
        mapping = self.mapping(address)
        return mapping is not None and "x" in mapping.permissions

    def describe(self, address: int, *, lines: bool = False) -> Place:
        """Everything known of `address`.

        :param lines: look for the source line too (reads DWARF: a second or so for a big unit, once).
        """
        key = (address, lines)
        place = self._places.get(key)
        if place is None:
            try:
                place = self._describe(address, lines)
            except Exception:  # a damaged file, or one made to upset its reader: pyelftools raises anything then
                place = self._by_mapping(address)
            self._places[key] = place
        return place

    def function(self, address: int) -> tuple[int, int] | None:
        """Start and end (in this address space) of the function that covers `address`; None if no symbol does."""
        try:
            found = self._locate(address)
            if found is None:
                return None
            mapping, elf, own = found
            function = elf.function(own)
        except Exception:  # as in describe
            return None
        if function is None or not function.start <= own < function.end:
            return None
        start = address - own + function.start
        return max(start, mapping.start), min(start + function.end - function.start, mapping.end)

    def build_id(self, mapping: Mapping) -> str:
        """The build-id of the file behind `mapping`; empty if there is none."""
        try:
            elf = self._elf(mapping)
            return elf.build_id if elf is not None else ""
        except Exception:  # as in describe
            return ""

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _describe(self, address: int, lines: bool) -> Place:
        found = self._locate(address)
        if found is None:
            return self._by_mapping(address)
        mapping, elf, own = found
        function: Function | None = elf.function(own)
        line = elf.line(own) if lines else None
        return Place(
            address,
            mapping.path,
            own,
            elf.build_id,
            function.name if function else "",
            own - function.start if function else 0,
            function is not None and own < function.end,
            *(line or ("", 0)),
        )

    def _by_mapping(self, address: int) -> Place:
        """What the mapping alone tells."""
        mapping = self.mapping(address)
        if mapping is None:
            return Place(address)
        # A file that cannot be read keeps its offsets, which are as stable as its own addresses.
        own = address - mapping.start + (mapping.offset if mapping.path.startswith("/") else 0)
        return Place(address, mapping.path.removesuffix(_DELETED) or ANONYMOUS, own)

    def _locate(self, address: int) -> tuple[Mapping, ElfFile, int] | None:
        mapping = self.mapping(address)
        elf = self._elf(mapping) if mapping is not None else None
        if mapping is None or elf is None:
            return None
        own = elf.address_of(address - mapping.start + mapping.offset)
        return None if own is None else (mapping, elf, own)

    def _elf(self, mapping: Mapping) -> ElfFile | None:
        if mapping.path == VDSO:
            return self._read_vdso(mapping)
        if not mapping.path.startswith("/") or mapping.path.endswith(_DELETED):
            return None
        return open_elf(self._root + mapping.path)

    def _read_vdso(self, mapping: Mapping) -> ElfFile | None:
        if self._vdso is None or self._vdso[0] != mapping.start:
            size = min(mapping.end - mapping.start, _VDSO_LIMIT)
            elf = None
            if self._read is not None:
                try:
                    elf = ElfFile(self._read(mapping.start, size))
                except (ELFError, OSError):
                    elf = None
            self._vdso = (mapping.start, elf)
        return self._vdso[1]


def open_elf(path: str) -> ElfFile | None:
    """The ELF file at `path`, shared with everyone who asks; None if there is none (any more)."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _open(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _open(path: str, identity: Identity) -> ElfFile | None:
    del identity  # part of the key only: a file that was replaced is another one
    try:
        return ElfFile(open(path, "rb"))
    except (OSError, ELFError):
        return None
