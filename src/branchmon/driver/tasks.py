"""Tasks: who has which counters, what a new task inherits, switching a task in and out of a unit."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from branchmon.device.counters import WINDOWS
from branchmon.device.unit import INSTRUCTIONS, TOTALS_SIZE, Unit
from branchmon.driver.attributes import NUM_COUNTERS
from branchmon.driver.perf_event import PerfEvent, State
from branchmon.driver.pmu import Pmu

if TYPE_CHECKING:
    from branchmon.sources.base import TaskContext


def _task_clock(pid: int, tid: int) -> int:
    """Nanoseconds the task has run on a processor (``/proc/PID/task/TID/schedstat``); 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid}/schedstat", "rb") as file:
            return int(file.read().split()[0])
    except (OSError, IndexError, ValueError):
        return 0


class Task:
    """One kernel task (a thread) that a source follows.

    :ivar unit: the branch monitoring unit it runs on: in user space every task has one of its own.
    :ivar slots: the owner of each of its two counters.
    """

    def __init__(self, tid: int, pid: int, pmu: Pmu, unit: Unit | None = None) -> None:
        self.tid = tid
        self.pid = pid
        self.comm = ""
        self.pmu = pmu
        self.unit = Unit(strict=pmu.strict) if unit is None else unit
        self.unit.pmi = self._interrupted
        self.slots: list[PerfEvent | None] = [None] * NUM_COUNTERS
        self.saved_window = 0
        """The window counter while no event of the task is scheduled in."""
        self.scheduled_in = False
        self.ended = False
        """It has exited, or the source let it go: its events keep their counts, none can be opened."""
        self.context: TaskContext | None = None
        """Set by the source: the task's machine state, for trip listeners."""
        self.on_change: Callable[[Task], None] | None = None
        """Set by the source: called when the unit's registers were rewritten by open, enable, disable or close."""
        self.read_clock: Callable[[], int] | None = None
        """Set by a source with a clock of its own: the task's time in nanoseconds."""
        self._last_clock = 0

    def __repr__(self) -> str:
        return f"<Task {self.tid} of process {self.pid}>"

    @property
    def monitored(self) -> bool:
        """An event is scheduled in: what this task retires has to be counted."""
        return self.unit.monitoring

    @property
    def wants_stops(self) -> bool:
        """Somebody has to see each trip while the task stands at it; otherwise trips may be counted in a batch.

        True if there are trip listeners, or somebody may wait for an event of this task to become readable.
        """
        return bool(self.pmu.listeners) or any((event.parent or event).wakers for event in self.events())

    def clock(self) -> int:
        """The task's own time, in nanoseconds; stands still when it has ended."""
        now = self.read_clock() if self.read_clock is not None else _task_clock(self.pid, self.tid)
        self._last_clock = max(now, self._last_clock)
        return self._last_clock

    def events(self) -> Iterator[PerfEvent]:
        """Its open events, in the order of their counters."""
        return (event for event in self.slots if event is not None)

    def free_slot(self) -> int | None:
        """The first counter that nobody owns; None if both are taken."""
        for slot, owner in enumerate(self.slots):
            if owner is None:
                return slot
        return None

    def changed(self) -> None:
        """Tell the source that the unit was reprogrammed."""
        if self.on_change is not None:
            self.on_change(self)

    def schedule_in(self, unit: Unit | None = None) -> None:
        """The task gets a processor (with `unit`, if given): its events' counts and its window are restored."""
        if unit is not None:
            self.unit = unit
            unit.pmi = self._interrupted
        self.scheduled_in = True
        self.pmu.reschedule(self)

    def schedule_out(self) -> None:
        """The task loses its processor: counts and window are saved, the unit stands still."""
        self.scheduled_in = False
        self.pmu.reschedule(self)

    def count_trips(self, slot: int, trips: int) -> None:
        """A source counted `trips` trips that hit this counter by itself, while :attr:`wants_stops` was false."""
        event = self.slots[slot]
        if event is not None:
            event.trips += trips
            origin = event.parent or event
            origin.readable = origin.readable or trips > 0

    def _interrupted(self, unit: Unit) -> None:
        self.pmu.interrupt(self, unit)


class Tasks:
    """The tasks that a source follows; the source tells of their starts, execs and ends.

    :param pmu: the driver they are monitored by.
    """

    def __init__(self, pmu: Pmu) -> None:
        self.pmu = pmu
        self._by_tid: dict[int, Task] = {}
        self.ended_totals = [0] * TOTALS_SIZE
        """``Unit.totals`` of the tasks that have ended, added up."""
        self.ended_windows = 0
        self.always_predict = False
        """Given to every new unit: see :class:`~branchmon.device.unit.Unit`."""
        self.always_lbr = False
        self.all_totals = False
        """Keep every one of ``Unit.totals``, in sources that spare themselves those that nobody asked for, too."""
        self.on_exit: list[Callable[[Task, int], None]] = []
        """Called with each task that ended and its wait status, before its events see it."""

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._by_tid.values()))

    def __len__(self) -> int:
        return len(self._by_tid)

    def get(self, tid: int) -> Task | None:
        """The task with this id, if it is followed and alive."""
        return self._by_tid.get(tid)

    def start(self, tid: int, pid: int, parent: Task | None = None) -> Task:
        """A task is followed from now on: launched, attached to, or made by `parent`, whose events it inherits."""
        task = Task(tid, pid, self.pmu)
        task.unit.always_predict = self.always_predict
        task.unit.always_lbr = self.always_lbr
        self._by_tid[tid] = task
        if parent is not None:
            task.unit.inherit(parent.unit)
            self._inherit(parent, task)
        task.schedule_in()
        return task

    def _inherit(self, parent: Task, child: Task) -> None:
        copies: dict[PerfEvent, PerfEvent] = {}
        for event in parent.events():
            if not event.attr.inherit or (event.attr.inherit_thread and child.pid != parent.pid):
                continue
            if event.state == State.EXIT:
                continue
            copy = self.pmu.inherit(event, child)
            if copy is not None:
                copies[event] = copy
        for event, copy in copies.items():
            leader = copies.get(event.leader)
            if leader is not None and leader is not copy:
                copy.leader = leader
                leader.siblings.append(copy)

    def executed(self, task: Task, *, former_tid: int | None = None) -> None:
        """A task executed a new program; call at its first instruction.

        :param former_tid: its id before, where a thread that was not the leader executed and took the leader's id. The
            other threads must have been reported by :meth:`exited`.
        """
        if former_tid is not None and former_tid != task.tid:
            self._by_tid.pop(former_tid, None)
            self._by_tid[task.tid] = task
        task.unit.executed()
        for event in list(task.events()):
            event.executed()
            if event.attr.remove_on_exec:
                event.task_exited()
        self.pmu.reschedule(task, changed=True)

    def exited(self, task: Task, status: int = 0) -> None:
        """A task ended, or the source let it go: its events get their last counts."""
        task.clock()
        task.ended = True
        for listener in list(self.on_exit):
            listener(task, status)
        for event in list(task.events()):
            event.task_exited()
        if self._by_tid.get(task.tid) is task:
            del self._by_tid[task.tid]
        self.ended_windows += task.unit.state[WINDOWS]
        for i, value in enumerate(task.unit.totals):
            self.ended_totals[i] += value

    def totals(self) -> list[int]:
        """``Unit.totals`` of all tasks, ended and living, added up."""
        totals = list(self.ended_totals)
        for task in self:
            for i, value in enumerate(task.unit.totals):
                totals[i] += value
        return totals

    def instructions(self) -> int:
        """Instructions retired while monitored, of all tasks."""
        return self.totals()[INSTRUCTIONS]
