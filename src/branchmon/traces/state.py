"""What a trace's events say so far: threads and address spaces at a point of the stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from branchmon.sources.base import Mapping
from branchmon.traces.schema import RowKind

MAX_THREADS = 1 << 17
MAX_MAPPINGS = 1 << 17
"""More of either in one trace is damage or malice: what comes beyond is not kept."""


@dataclass
class Thread:
    """A followed thread.

    :ivar comm: the program's name as the kernel keeps it.
    :ivar path: of the program it executed last; empty if unknown.
    """

    tid: int
    pid: int
    parent: int | None = None
    comm: str = ""
    path: str = ""
    attached: bool = False


class TraceState:
    """Threads and mappings, kept up to date by :meth:`apply`."""

    def __init__(self) -> None:
        self.threads: dict[int, Thread] = {}
        """Those that live."""
        self.processes: dict[int, int] = {}
        """Process of every thread seen, ended ones included."""
        self._spaces: dict[int, dict[int, tuple[Mapping, str]]] = {}

    def mappings(self, pid: int) -> list[Mapping]:
        """Executable mappings of the process, by address."""
        space = self._spaces.get(pid, {})
        return [space[start][0] for start in sorted(space)]

    def build_ids(self, pid: int) -> dict[str, str]:
        """Build-id in hexadecimal of every mapped file that has one, by path."""
        return {m.path: build_id for m, build_id in self._spaces.get(pid, {}).values() if build_id}

    def pid(self, tid: int) -> int:
        """The process of a thread; the thread itself if nothing was said of it."""
        return self.processes.get(tid, tid)

    def pids(self) -> list[int]:
        """Processes with mappings."""
        return sorted(self._spaces)

    # ---- events ----------------------------------------------------------------------------------------------------

    def apply(self, kind: int, tid: int, note: dict[str, Any]) -> None:
        """An event of the trace. Notes may say anything: what makes no sense is passed over."""
        pid = _whole(note.get("pid"), self.pid(tid))
        if kind == RowKind.START:
            self._start(tid, pid, note)
        elif kind == RowKind.EXEC:
            former = note.get("former")
            thread = self.threads.pop(former, None) if isinstance(former, int) else self.threads.get(tid)
            if thread is not None:
                thread.tid = tid
                self.threads[tid] = thread
                thread.path = _text(note.get("path"))
                thread.comm = _text(note.get("comm")) or thread.path.rpartition("/")[2][:15]
            self._spaces.pop(pid, None)
        elif kind == RowKind.MAPPINGS:
            self._map(pid, note)
        elif kind == RowKind.EXIT:
            thread = self.threads.pop(tid, None)
            if thread is not None and not any(other.pid == thread.pid for other in self.threads.values()):
                self._spaces.pop(thread.pid, None)

    def _start(self, tid: int, pid: int, note: dict[str, Any]) -> None:
        if len(self.processes) >= MAX_THREADS:
            return
        parent = note.get("parent")
        thread = Thread(
            tid,
            pid,
            parent if isinstance(parent, int) else None,
            _text(note.get("comm")),
            _text(note.get("path")),
            note.get("attached") is True,
        )
        self.threads[tid] = thread
        self.processes[tid] = pid
        maker = self.processes.get(thread.parent, pid) if thread.parent is not None else pid
        if pid not in self._spaces and maker != pid and maker in self._spaces:
            self._spaces[pid] = dict(self._spaces[maker])  # fork: the child has its maker's address space

    def _map(self, pid: int, note: dict[str, Any]) -> None:
        if note.get("complete") is True:
            self._spaces.pop(pid, None)
        space = self._spaces.setdefault(pid, {})
        removed, added = note.get("removed"), note.get("added")
        for start in removed if isinstance(removed, list) else ():
            if isinstance(start, int):
                space.pop(start, None)
        for entry in added if isinstance(added, list) else ():
            mapping = decode_mapping(entry)
            if mapping is not None and len(space) < MAX_MAPPINGS:
                space[mapping[0].start] = mapping

    def events(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(kind, thread, note) of events that lead from nothing to this state: what a ring begins with."""
        told: set[int] = set()
        for thread in self.threads.values():
            note = {"pid": thread.pid, "parent": None, "comm": thread.comm, "path": thread.path, "attached": True}
            yield int(RowKind.START), thread.tid, note
            if thread.pid not in told:
                told.add(thread.pid)
                space = self._spaces.get(thread.pid, {})
                added = [encode_mapping(*space[start]) for start in sorted(space)]
                yield (
                    int(RowKind.MAPPINGS),
                    thread.tid,
                    {"pid": thread.pid, "added": added, "removed": [], "complete": True},
                )

    def difference(
        self, pid: int, mappings: Sequence[Mapping], build_ids: dict[str, str]
    ) -> dict[str, Any] | None:  # fmt: skip
        """The note of a mappings event that leads from this state to `mappings`; None if nothing changed."""
        space = self._spaces.get(pid, {})
        new = {mapping.start: (mapping, build_ids.get(mapping.path, "")) for mapping in mappings}
        removed = sorted(start for start, old in space.items() if new.get(start) != old)
        added = [encode_mapping(*new[start]) for start in sorted(new) if space.get(start) != new[start]]
        return {"pid": pid, "added": added, "removed": removed} if removed or added else None


def encode_mapping(mapping: Mapping, build_id: str) -> list[Any]:
    """As in the note of a mappings event."""
    return [*mapping, build_id]


def decode_mapping(entry: object) -> tuple[Mapping, str] | None:
    """The reverse; None if it is something else."""
    types = (int, int, str, int, str, int, str, str)
    if not isinstance(entry, list) or len(entry) != len(types):
        return None
    if not all(type(value) is wanted for value, wanted in zip(entry, types, strict=True)):
        return None
    mapping = Mapping(*entry[:7])
    return (mapping, entry[7]) if 0 <= mapping.start < mapping.end <= 1 << 64 else None


def _whole(value: object, default: int) -> int:
    return value if type(value) is int else default


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
