"""A recorded trace as a source: its branches run through the units of its tasks, under whatever events are open now.

The same trips as live, for the same settings: threads start, execute and end at the same points, and counting is the
device's compiled replay (:mod:`branchmon.sources.columns`). Registers and memory are not recorded.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from branchmon.device.registers import MSR_BR_DETECT_STATUS
from branchmon.sources.base import Capabilities, ExitReport, LaunchOptions, Warnings
from branchmon.sources.columns import ColumnFeed
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import GapReason, RowKind
from branchmon.traces.state import TraceState

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task, Tasks
    from branchmon.traces.reader import Trace

T = TypeVar("T")
_TURNING_POINTS = frozenset((RowKind.START, RowKind.EXEC, RowKind.EXIT, RowKind.GAP, RowKind.MAPPINGS, RowKind.NAMES))
"""Events that what follows depends on; between the others, threads can be replayed one after the other."""


class TraceSource:
    """Replays a trace.

    :param tasks: what the trace's threads become.
    :param trace: the trace.
    :param compiled: run the compiled functions; False: the same ones in plain Python, slow.

    Driven as a live source is: :meth:`launch`, open events on the task it returns, :meth:`run`.
    """

    def __init__(self, tasks: "Tasks", trace: "Trace", *, compiled: bool = True) -> None:
        self.tasks = tasks
        self.trace = trace
        self.state = TraceState()
        """Threads and mappings at the point that was reached."""
        self.time = 0
        """Nanoseconds since the recording began, at that point."""
        self.gaps: dict[str, int] = {}
        """Gaps met so far, by reason."""
        self.on_event: list[Callable[[Event], None]] = []
        """Called with each event of the trace, before it takes effect on the tasks."""
        self._warnings = Warnings()
        self.warnings = self._warnings.messages
        """What could not be replayed exactly."""
        self._branches: dict[int, int] = {}
        self._rows = Rows.empty(0)
        self._feed = ColumnFeed(compiled=compiled)
        self._batches = trace.batches()
        self._waiting: list[tuple[Rows, list[Event]]] = []
        self._first: Task | None = None
        self._late = False  # the first thread's beginning is not in the trace
        self._stop = False
        self._began = False
        self._statuses: dict[int, int] = {}

    def branch_number(self, tid: int) -> int:
        """For trip listeners: which of the thread's branches trips, 0 and up; if a plain instruction does, the next."""
        return self._branches.get(tid, 0) + int(self._rows.is_branch[: self._feed.row].sum())

    # ---- LiveSource ------------------------------------------------------------------------------------------------

    @classmethod
    def capabilities(cls) -> Capabilities:
        """See :class:`~branchmon.sources.base.LiveSource`."""
        return Capabilities("trace", True, "a recorded trace (`-i FILE`)", attach=False)

    def launch(self, options: LaunchOptions | None = None) -> "Task":
        """The trace's first thread, before its first instruction; all others inherit its events."""
        del options
        return self.attach()[0]

    def attach_task(self, tid: int, *, interrupted: Callable[[], None] | None = None) -> "Task":
        """The trace's first thread."""
        return self.attach(tid, interrupted=interrupted)[0]

    def attach(self, pid: int = 0, *, interrupted: Callable[[], None] | None = None) -> list["Task"]:
        """All threads that live when the trace begins: before its first branch."""
        del pid, interrupted
        while True:
            part = self._next()
            if part is None:
                break
            rows, events = part
            if rows.retires.any() or any(event.kind == RowKind.EXEC for event in events):
                self._waiting.insert(0, part)
                break
            for event in events:
                self._event(event)
        if not len(self.tasks):
            self._start(self._any_thread(), {})
        return list(self.tasks)

    def run(self, *, timeout: float | None = None) -> bool:
        """Replay to the end, or until :meth:`interrupt`; True if the end was reached."""
        del timeout
        if not self._began and self.trace.metadata.program and self._first is not None and not self._late:
            self.tasks.executed(self._first)  # the program's own start: enable_on_exec fires
        self._began = True
        while not self._stop:
            part = self._next()
            if part is None:
                break
            rows, events = part
            for tid, own in rows.by_thread():
                self._retire(tid, own)
            for event in events:
                self._event(event)
        done = not self._stop
        self._stop = False
        if done:
            self._finish()
        return done

    def call(self, function: Callable[[], T]) -> T:
        """Runs it: there is no other thread to hand it to."""
        return function()

    def interrupt(self) -> None:
        """Make :meth:`run` return soon."""
        self._stop = True

    def sync(self) -> None:
        """Nothing: units are up to date between batches."""

    def release(self, pid: int, *, stop: bool = False) -> None:
        """Nothing: nobody is held."""

    def close(self) -> None:
        """Nothing is held."""

    def report(self, pid: int) -> ExitReport:
        """How a process ended, as recorded; no CPU times."""
        return ExitReport(self._statuses.get(pid))

    def warn(self, message: str) -> None:
        """See :class:`~branchmon.sources.base.LiveSource`."""
        self._warnings.add(message)

    # ---- the trace's threads ---------------------------------------------------------------------------------------

    def _retire(self, tid: int, rows: Rows) -> None:
        self.time = int(rows.time[-1])
        self._rows = rows
        self._feed.retire(self._task(tid), rows)
        self._branches[tid] = self._branches.get(tid, 0) + int(rows.is_branch.sum())

    def _next(self) -> tuple[Rows, list[Event]] | None:
        while not self._waiting:
            rows = next(self._batches, None)
            if rows is None:
                return None
            self._waiting = list(rows.between_events(_TURNING_POINTS))
        return self._waiting.pop(0)

    def _any_thread(self) -> int:
        for rows, _ in self._waiting:
            threads = rows.thread[rows.retires]
            if len(threads):
                return int(threads[0])
        return 1

    def _task(self, tid: int) -> "Task":
        return self.tasks.get(tid) or self._start(tid, {"attached": True})

    def _start(self, tid: int, note: dict[str, Any]) -> "Task":
        known = self.tasks.get(tid)
        if known is not None and note.get("attached") is True:
            # A ring tells anew who lives after a loss.
            self._clear(known)
            return known
        if known is not None:
            self.tasks.exited(known)
        parent_tid = note.get("parent")
        parent = self.tasks.get(parent_tid) if isinstance(parent_tid, int) else None
        pid = note.get("pid")
        task = self.tasks.start(tid, pid if isinstance(pid, int) else tid, parent or self._first)
        task.read_clock = lambda: self.time + self._began  # never 0, so that a trace without times counts, too
        if isinstance(note.get("comm"), str):
            task.comm = note["comm"]
        if parent is None and (self._first is not None or note.get("attached") is True):
            task.unit.missed()
        if self._first is None:
            self._first, self._late = task, note.get("attached") is True
        return task

    def _event(self, event: Event) -> None:
        self.time = event.time
        self.state.apply(event.kind, event.thread, event.note)
        for listener in self.on_event:
            listener(event)
        tid, note = event.thread, event.note
        if event.kind == RowKind.START:
            self._start(tid, note)
        elif event.kind == RowKind.EXEC:
            former = note.get("former")
            former_tid = former if isinstance(former, int) else None
            task = self.tasks.get(tid if former_tid is None else former_tid) or self._task(tid)
            task.tid = tid
            thread = self.state.threads.get(tid)
            task.comm = thread.comm if thread is not None else task.comm
            self.tasks.executed(task, former_tid=former_tid)
        elif event.kind == RowKind.EXIT:
            exited = self.tasks.get(tid)
            status = note.get("status")
            if exited is not None:
                self._statuses[exited.pid] = status if isinstance(status, int) else 0
                self.tasks.exited(exited, self._statuses[exited.pid])
        elif event.kind == RowKind.GAP:
            why = str(note.get("why"))
            self.gaps[why] = self.gaps.get(why, 0) + 1
            for task in self.tasks if tid == 0 else [self._task(tid)]:
                self._clear(task)

    def _clear(self, task: "Task") -> None:
        """Branches are missing: window and counts start afresh, the predictor knows nothing."""
        task.unit.wrmsr(MSR_BR_DETECT_STATUS, 0)
        task.unit.missed()
        task.unit.lbr.clear()

    def _finish(self) -> None:
        if self.trace.cut:
            self.warn(f"the trace is cut: {self.trace.cut}")
        for sentence in self.trace.metadata.approximations:
            self.warn(f"approximate: {sentence}")
        lost = sum(count for why, count in self.gaps.items() if why != GapReason.SNIPPET)
        if lost:
            self.warn(f"the trace has {lost} gaps, each of which cleared the window")
