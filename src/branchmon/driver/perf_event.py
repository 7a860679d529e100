"""The little of perf's core that the driver needs: an event with its state, group, inherited children, times and poll.

Source: ``kernel/events/core.c`` of Linux; the numbered ABI of ``include/uapi/linux/perf_event.h``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from branchmon.driver.config import EventConfig

if TYPE_CHECKING:
    from branchmon.driver.pmu import Pmu
    from branchmon.driver.tasks import Task


@dataclass(frozen=True)
class PerfEventAttr:
    """The fields of ``struct perf_event_attr`` that have a meaning for this PMU."""

    type: int
    config: int
    config1: int = 0
    sample_period: int = 0
    sample_type: int = 0
    read_format: int = 0
    freq: bool = False
    disabled: bool = False
    inherit: bool = False
    inherit_thread: bool = False
    """Inherit by threads only (CLONE_THREAD), not by forked processes."""
    pinned: bool = False
    exclusive: bool = False
    exclude_user: bool = False
    exclude_kernel: bool = False
    exclude_hv: bool = False
    enable_on_exec: bool = False
    remove_on_exec: bool = False

    @property
    def sampling(self) -> bool:
        """A sampling event: it asks for a period or a frequency."""
        return self.sample_period != 0 or self.freq


class State(IntEnum):
    """An event's state (``enum perf_event_state``)."""

    EXIT = -3
    OFF = -1
    INACTIVE = 0
    """Enabled, its task (or group) not scheduled in."""
    ACTIVE = 1


@dataclass(frozen=True)
class Reading:
    """What read() of an event gives: trips, and nanoseconds of task time enabled and running."""

    value: int
    enabled_ns: int
    running_ns: int
    id: int


class PerfEvent:
    """One open event of one task, or the copy that a child task inherited.

    Made by :meth:`branchmon.driver.pmu.Pmu.open`; everything runs on the source's driving thread.
    """

    def __init__(
        self, pmu: "Pmu", attr: PerfEventAttr, config: EventConfig, task: "Task", slot: int, number: int
    ) -> None:
        self.pmu = pmu
        self.attr = attr
        self.config = config
        self.task = task
        self.slot = slot
        """Which of the task's counters: 0 or 1."""
        self.id = number
        """PERF_EVENT_IOC_ID; inherited copies share their parent's."""
        self.state = State.OFF if attr.disabled else State.INACTIVE
        self.on_exec = attr.enable_on_exec
        self.leader: PerfEvent = self
        self.siblings: list[PerfEvent] = []
        self.parent: PerfEvent | None = None
        self.children: list[PerfEvent] = []
        self.trips = 0
        """This task's own trips, without the children's."""
        self.saved_count = 0
        """The counter's value while scheduled out."""
        self.readable = False
        """Trips since poll() last looked."""
        self.highest = 0
        """The highest count seen in a window, up to when it was last scheduled out."""
        self.closed = False
        self.wakers: list[Callable[[PerfEvent], None]] = []
        """Called when the event became readable, and when its last task ended."""
        self._ended_trips = 0
        self._ended_ns = 0
        self._enabled_ns = 0
        self._since: int | None = None

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Switched on, by itself and by its group's leader."""
        return self.state >= State.INACTIVE and self.leader.state >= State.INACTIVE

    def enable(self, *, group: bool = False) -> None:
        """PERF_EVENT_IOC_ENABLE, for the inherited copies too; `group`: for the whole group (PERF_IOC_FLAG_GROUP)."""
        for event in self._reach(group):
            if event.state == State.OFF:
                event.state = State.INACTIVE
                event.pmu.reschedule(event.task)

    def disable(self, *, group: bool = False) -> None:
        """PERF_EVENT_IOC_DISABLE, likewise."""
        for event in self._reach(group):
            if event.state >= State.INACTIVE:
                event.keep_time()
                event.pmu.unschedule(event)
                event.state = State.OFF
                event.pmu.reschedule(event.task, changed=True)

    def reset(self, *, group: bool = False) -> None:
        """PERF_EVENT_IOC_RESET: the number of trips becomes 0; times and the running window stay.

        The kernel keeps what ended children had counted; here that becomes 0, too, as perf_event_open(2) says.
        """
        for event in self._reach(group):
            event.trips = 0
            event._ended_trips = 0

    def executed(self) -> bool:
        """Its task executed a new program: enable_on_exec fires, once. True if it did."""
        if not self.on_exec:
            return False
        self.on_exec = False
        if self.state == State.OFF:
            self.state = State.INACTIVE
            return True
        return False

    def _reach(self, group: bool) -> Iterator["PerfEvent"]:
        members = [self.leader, *self.leader.siblings] if group else [self]
        for member in members:
            yield member
            yield from list(member.children)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self) -> Reading:
        """Trips and times, with what ended and living inherited copies add."""
        self.keep_time()
        value = self.trips + self._ended_trips
        nanoseconds = self._enabled_ns + self._ended_ns
        for child in self.children:
            child.keep_time()
            value += child.trips
            nanoseconds += child._enabled_ns
        return Reading(value, nanoseconds, nanoseconds, self.id)

    def read_own(self) -> Reading:
        """Trips and times of this event's own task alone."""
        self.keep_time()
        return Reading(self.trips, self._enabled_ns, self._enabled_ns, self.id)

    def highest_count(self) -> int:
        """The highest count a window of this event reached, in any task, trips included."""
        return max([self.pmu.highest(self), *(self.pmu.highest(child) for child in self.children)])

    def stand_alone(self) -> None:
        """Leave the group; a leader's siblings become leaders of their own (``perf_group_detach`` of the kernel)."""
        for sibling in self.siblings:
            sibling.leader = sibling
        self.siblings.clear()
        if self.leader is not self and self in self.leader.siblings:
            self.leader.siblings.remove(self)
        self.leader = self

    def keep_time(self) -> None:
        """Bring the enabled time up to date; call before and after the event's state changes."""
        now = self.task.clock() if self.enabled or self._since is not None else 0
        if self._since is not None:
            self._enabled_ns += max(0, now - self._since)
        self._since = now if self.enabled else None

    # ---- poll ------------------------------------------------------------------------------------------------------

    @property
    def hung_up(self) -> bool:
        """Its task has ended, and so has every task that inherited it: POLLHUP."""
        return self.state == State.EXIT and not self.children

    def poll(self) -> bool:
        """True once a batch of trips: POLLIN; looking clears it."""
        readable, self.readable = self.readable, False
        return readable

    def tripped(self) -> None:
        """The driver's interrupt found this event's hit bit: count and wake."""
        self.trips += 1
        self.wake(readable=True)

    def wake(self, *, readable: bool) -> None:
        """Wake who waits for this event, or for the one it was inherited from."""
        origin = self.parent or self
        origin.readable = origin.readable or readable
        for waker in list(origin.wakers):
            waker(origin)

    # ---- end -------------------------------------------------------------------------------------------------------

    def task_exited(self) -> None:
        """The task ended, or executed a program that the event does not follow (remove_on_exec).

        An inherited copy gives its counts to its parent and is gone; an original is in state EXIT and can be read.
        """
        self.keep_time()
        self.pmu.unschedule(self)
        self.state = State.EXIT
        self._since = None
        if self.parent is not None:
            self.parent._absorb(self)
            self.pmu.forget(self)
        if self.hung_up or (self.parent is not None and self.parent.hung_up):
            self.wake(readable=False)

    def _absorb(self, child: "PerfEvent") -> None:
        self._ended_trips += child.trips
        self._ended_ns += child._enabled_ns
        self.highest = max(self.highest, child.highest)
        self.children.remove(child)
