"""Names for a trace's addresses, as its mappings change: from the files on this machine if they are the same ones."""

from bisect import bisect_right

from branchmon.sources.base import Mapping
from branchmon.symbols import Place, Symbolizer
from branchmon.symbols.symbolizer import open_elf
from branchmon.traces.rows import Event
from branchmon.traces.schema import RowKind
from branchmon.traces.state import TraceState

MAX_DISTANCE = 1 << 20
"""A name that the input told reaches no further."""
MAX_NAMES = 1 << 20


class TraceSymbols:
    """Describes addresses at the point of the trace up to which :meth:`apply` was called.

    A file on this machine whose build-id is another than the recorded one is not asked: names would be wrong. Such
    files are listed in :attr:`changed`.
    """

    def __init__(self) -> None:
        self.state = TraceState()
        self.changed: set[str] = set()
        self._spaces: dict[int, Symbolizer] = {}
        self._told: dict[int, dict[int, tuple[str, str]]] = {}
        self._starts: dict[int, list[int]] = {}

    def apply(self, event: Event) -> None:
        """The trace's next event."""
        self.state.apply(event.kind, event.thread, event.note)
        if event.kind == RowKind.NAMES:
            self._name(event)
        elif event.kind in (RowKind.MAPPINGS, RowKind.EXEC, RowKind.START):
            self._spaces.pop(self.state.pid(event.thread), None)
            pid = event.note.get("pid")
            if isinstance(pid, int):
                self._spaces.pop(pid, None)

    def describe(self, thread: int, address: int, *, lines: bool = False) -> Place:
        """What is known of an address in the thread's process."""
        pid = self.state.pid(thread)
        place = self._symbolizer(pid).describe(address, lines=lines)
        return place if place.symbol else self._from_input(pid, address) or place

    def name(self, thread: int, address: int) -> str:
        """The function's name without an offset; module and address if there is none."""
        place = self.describe(thread, address)
        return place.symbol or place.name

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _symbolizer(self, pid: int) -> Symbolizer:
        found = self._spaces.get(pid)
        if found is None:
            build_ids = self.state.build_ids(pid)
            found = Symbolizer([self._checked(m, build_ids) for m in self.state.mappings(pid)])
            self._spaces[pid] = found
        return found

    def _checked(self, mapping: Mapping, build_ids: dict[str, str]) -> Mapping:
        if not mapping.path.startswith("/"):
            return mapping
        elf = open_elf(mapping.path)
        recorded = build_ids.get(mapping.path)
        if elf is None or (recorded and elf.build_id != recorded):
            if elf is not None:
                self.changed.add(mapping.path)
            return mapping._replace(path=mapping.path + " (deleted)")
        return mapping

    def _name(self, event: Event) -> None:
        pid = event.note.get("pid")
        names = event.note.get("names")
        if not isinstance(pid, int) or not isinstance(names, list):
            return
        told = self._told.setdefault(pid, {})
        for entry in names:
            match entry:
                case [int(start), str(name), str(module)] if len(told) < MAX_NAMES:
                    told[start] = (name, module)
        self._starts.pop(pid, None)

    def _from_input(self, pid: int, address: int) -> Place | None:
        told = self._told.get(pid)
        if not told:
            return None
        starts = self._starts.get(pid)
        if starts is None:
            starts = self._starts[pid] = sorted(told)
        i = bisect_right(starts, address) - 1
        if i < 0 or address - starts[i] > MAX_DISTANCE:
            return None
        name, module = told[starts[i]]
        return Place(address, module, address, symbol=name, offset=address - starts[i])
