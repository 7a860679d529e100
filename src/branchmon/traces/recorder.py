"""From a live source into a trace: the :class:`~branchmon.sources.base.BranchSink` that records."""

import platform
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from branchmon import __version__
from branchmon.errors import BranchmonError
from branchmon.sources.base import Mapping
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.state import TraceState
from branchmon.traces.writer import TraceWriter

if TYPE_CHECKING:
    from branchmon.driver.pmu import Trip
    from branchmon.driver.tasks import Task


class Recorder:
    """Writes what a source tells.

    :param writer: the trace.
    :param attached: the first processes ran before, so that their past is not known.

    A trace that cannot be written must not disturb the program: the first error is kept in :attr:`error`, and from
    then on nothing is recorded.
    """

    def __init__(self, writer: TraceWriter, *, attached: bool = False) -> None:
        self.writer = writer
        self.error: BranchmonError | None = None
        self.threads = 0
        """Threads seen so far."""
        self._attached = attached
        self._began = time.monotonic_ns()
        self._state = TraceState()
        self._tids: dict[int, int] = {}  # by id() of the task: a task's tid changes at some execs
        self._build_ids: dict[tuple[str, int, int], str] = {}

    def now(self) -> int:
        """Nanoseconds since the recording began."""
        return time.monotonic_ns() - self._began

    # ---- BranchSink ------------------------------------------------------------------------------------------------

    def branches(
        self,
        task: "Task",
        gaps: Sequence[int],
        kinds: Sequence[int],
        taken: Sequence[int],
        sources: Sequence[int],
        sizes: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        if self.error is not None:
            return
        try:
            self.writer.append(self.now(), self._tid(task), gaps, kinds, taken, sources, sizes, targets)
        except BranchmonError as error:
            self.error = error

    def plain(self, task: "Task", instructions: int) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        if self.error is not None:
            return
        try:
            self.writer.plain(self.now(), self._tid(task), instructions)
        except BranchmonError as error:
            self.error = error

    def started(self, task: "Task", parent: "Task | None") -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        self.threads += 1
        self._tids[id(task)] = task.tid
        note: dict[str, object] = {
            "pid": task.pid,
            "parent": parent.tid if parent is not None else None,
            "comm": task.comm,
            "attached": parent is None and self._attached,
        }
        self._event(RowKind.START, task.tid, note)

    def executed(self, task: "Task", path: str) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        note: dict[str, object] = {"pid": task.pid, "path": path, "comm": path.rpartition("/")[2][:15]}
        former = self._tids.get(id(task), task.tid)
        if former != task.tid:
            note["former"] = former
            self._tids[id(task)] = task.tid
        self._event(RowKind.EXEC, task.tid, note)

    def mapped(self, task: "Task", mappings: Sequence[Mapping]) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        build_ids = {mapping.path: self._build_id(task.pid, mapping) for mapping in mappings}
        note = self._state.difference(task.pid, mappings, build_ids)
        if note is not None:
            self._event(RowKind.MAPPINGS, task.tid, note)

    def signalled(self, task: "Task", signal: int) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        self._event(RowKind.SIGNAL, task.tid, {"signal": signal})

    def exited(self, task: "Task", status: int) -> None:
        """See :class:`~branchmon.sources.base.BranchSink`."""
        self._tids.pop(id(task), None)
        self._event(RowKind.EXIT, task.tid, {"status": status})

    # ---- a driver's trips ------------------------------------------------------------------------------------------

    def tripped(self, trip: "Trip") -> None:
        """A listener for :attr:`branchmon.driver.pmu.Pmu.listeners`: mark the trip, and have a snapshot ring write."""
        note: dict[str, object] = {
            "number": trip.number,
            "events": [event.config.event.perf_name for event in trip.events],
            "ip": trip.ip,
            "window": trip.window,
            "status": trip.status,
        }
        self._event(RowKind.TRIP, trip.task.tid, note)
        if self.error is None:
            try:
                self.writer.snapshot()
            except BranchmonError as error:
                self.error = error

    def close(self, **note: object) -> None:
        """End the trace; `note` goes into its end. A failure is kept in :attr:`error`."""
        if self.error is None:
            try:
                self.writer.close(self.now(), **note)
            except BranchmonError as error:
                self.error = error

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _event(self, kind: RowKind, tid: int, note: dict[str, object]) -> None:
        self._state.apply(kind, tid, note)
        if self.error is not None:
            return
        try:
            self.writer.event(self.now(), kind, tid, note)
        except BranchmonError as error:
            self.error = error

    def _tid(self, task: "Task") -> int:
        """The task's id as the trace knows it: a new one holds only from its exec on."""
        return self._tids.get(id(task), task.tid)

    def _build_id(self, pid: int, mapping: Mapping) -> str:
        if not mapping.path.startswith("/"):
            return ""
        key = (mapping.path, mapping.inode, pid)
        found = self._build_ids.get(key)
        if found is None:
            from branchmon.symbols.symbolizer import open_elf

            elf = open_elf(f"/proc/{pid}/root{mapping.path}") or open_elf(mapping.path)
            found = self._build_ids[key] = elf.build_id if elf is not None else ""
        return found


def describe_host() -> dict[str, str]:
    """The machine, for a trace's metadata."""
    processor = ""
    try:
        with open("/proc/cpuinfo") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            processor = next(names, "")
    except OSError:
        pass
    return {"machine": platform.machine(), "kernel": platform.release(), "processor": processor}


def new_metadata(**known: object) -> Metadata:
    """Metadata with what every new trace says: when, where, by whom. `known`: further fields of :class:`Metadata`."""
    metadata = Metadata(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=describe_host(),
        writer=f"branchmon {__version__}",
    )
    for name, value in known.items():
        setattr(metadata, name, value)
    return metadata
