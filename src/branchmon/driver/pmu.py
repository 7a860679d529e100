"""The ``intel_bm`` PMU: opening events, scheduling them in and out of a unit, the interrupt handler.

Source: the driver as posted for Linux 4.14, without its faults (SPEC section 2).
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from branchmon.device import counters as c
from branchmon.device.counters import COUNTERS
from branchmon.device.lbr import LastBranch
from branchmon.device.registers import (
    MSR_BR_DETECT_COUNTER_CONFIG_0,
    MSR_BR_DETECT_COUNTER_CONFIG_1,
    MSR_BR_DETECT_CTRL,
    MSR_BR_DETECT_STATUS,
    CounterConfig,
    Status,
)
from branchmon.device.unit import Unit
from branchmon.driver.attributes import NUM_COUNTERS, Attributes
from branchmon.driver.config import event_config
from branchmon.driver.perf_event import PerfEvent, PerfEventAttr, State
from branchmon.errors import PerfError

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task

PMU_NAME = "intel_bm"
CONFIG_MSRS = (MSR_BR_DETECT_COUNTER_CONFIG_0, MSR_BR_DETECT_COUNTER_CONFIG_1)


@dataclass(frozen=True)
class Trip:
    """One trip of one task's unit, as the interrupt handler saw it.

    :ivar number: 1 and up, in the order of this PMU's trips.
    :ivar time_ns: CLOCK_MONOTONIC.
    :ivar ip: address of the branch that tripped (the last branch, if a plain instruction did).
    :ivar status: MSR_BR_DETECT_STATUS as read, before it was cleared.
    :ivar control: MSR_BR_DETECT_CTRL.
    :ivar configs: both MSR_BR_DETECT_COUNTER_CONFIG.
    :ivar events: the events whose hit bit was set.
    :ivar lbr: last branches, oldest first; empty if they are not recorded.
    """

    number: int
    time_ns: int
    task: "Task"
    ip: int
    status: int
    control: int
    configs: tuple[int, int]
    events: tuple[PerfEvent, ...]
    lbr: tuple[LastBranch, ...]

    @property
    def window(self) -> int:
        """CountWindow at the trip."""
        return Status.WINDOW.get(self.status)


TripListener = Callable[[Trip], None]


class Pmu:
    """The driver's state: attributes, and who owns which counter (kept in each task, never in a shared table).

    :param type: the PMU's number in ``perf_event_attr.type``.
    :param strict: as the posted driver and the manual's strict reading: unprivileged users are refused while
        ``perf_event_paranoid`` is above 0, and thresholds below 2 are EINVAL.
    """

    def __init__(self, type: int = 0, *, strict: bool = False) -> None:
        self.type = type
        self.strict = strict
        self.attributes = Attributes()
        self.listeners: list[TripListener] = []
        """Called at each trip, after the events were counted, while the task stands at the instruction."""
        self.trips = 0
        self._last_id = 0

    # ---- open and close --------------------------------------------------------------------------------------------

    def open(
        self,
        attr: PerfEventAttr,
        task: "Task | None",
        *,
        cpu: int = -1,
        leader: PerfEvent | None = None,
        privileged: bool = True,
        paranoid: int = 2,
    ) -> PerfEvent:
        """perf_event_open for this PMU.

        :param task: the task to watch; None where the call names none.
        :param privileged: the caller has CAP_SYS_ADMIN (or CAP_PERFMON); matters in strict mode.
        :param paranoid: ``/proc/sys/kernel/perf_event_paranoid``; matters in strict mode.
        :raises PerfError: in this order: EACCES, ENOENT, EINVAL (no task, or a CPU), ESRCH (it has ended), EOPNOTSUPP
            (sampling), EINVAL (config), EBUSY, EINVAL (the group, which the kernel looks at last).
        """
        if self.strict and paranoid > 0 and not privileged:
            raise PerfError(errno.EACCES, "perf_event_paranoid is above 0", slug="paranoid")
        if attr.type != self.type:
            raise PerfError(errno.ENOENT, f"not a type of this PMU: {attr.type}", slug="foreign-type")
        if task is None or cpu != -1:
            raise PerfError(
                errno.EINVAL,
                "the unit is saved and restored with a task: name one, and no CPU",
                slug="no-task",
            )
        if task.ended:
            raise PerfError(errno.ESRCH, f"task {task.tid} has ended", slug="no-such-task")
        if attr.sampling:
            raise PerfError(errno.EOPNOTSUPP, "the unit counts trips, it does not sample", slug="sampling")
        config = event_config(attr.config, attr.config1, self.attributes)
        if self.strict and config.threshold < 2:
            raise PerfError(errno.EINVAL, "a threshold below 2 is #GP in strict mode", slug="strict-threshold")
        slot = task.free_slot()
        if slot is None:
            raise PerfError(errno.EBUSY, f"both counters of task {task.tid} are taken", slug="counters-taken")
        if leader is not None:
            _check_group(leader, attr, task)
        self._last_id += 1
        event = PerfEvent(self, attr, config, task, slot, self._last_id)
        if leader is not None:
            event.leader = leader
            leader.siblings.append(event)
        task.slots[slot] = event
        self.reschedule(task)
        return event

    def close(self, event: PerfEvent) -> None:
        """The event's last descriptor was closed: free its counter, and those of its inherited copies."""
        if event.closed:
            return
        for removed in (*event.children, event):
            removed.keep_time()
            self.unschedule(removed)
            self.forget(removed)
            self.reschedule(removed.task, changed=True)
        event.children.clear()

    def forget(self, event: PerfEvent) -> None:
        """Free the counter of an event that is not scheduled in, and take it out of its group."""
        event.stand_alone()
        event.closed = True
        if event.task.slots[event.slot] is event:
            event.task.slots[event.slot] = None

    def inherit(self, event: PerfEvent, child: "Task") -> PerfEvent | None:
        """The copy of `event` in a task that its task made, in the same counter; None if that is taken.

        As ``inherit_event`` of the kernel: on or off as `event` is now; waiting for an exec as the original is.
        """
        if child.slots[event.slot] is not None:
            return None
        origin = event.parent or event
        copy = PerfEvent(self, event.attr, event.config, child, event.slot, event.id)
        copy.state = State.INACTIVE if event.state >= State.INACTIVE else State.OFF
        copy.on_exec = origin.on_exec
        copy.parent = origin
        origin.children.append(copy)
        child.slots[event.slot] = copy
        return copy

    # ---- schedule in and out ---------------------------------------------------------------------------------------

    def reschedule(self, task: "Task", *, changed: bool = False) -> None:
        """Schedule in what is enabled and not yet in, out what no longer is; tell the source if anything changed.

        :param changed: something has already changed.
        """
        for event in task.events():
            event.keep_time()
            if event.enabled and task.scheduled_in:
                if event.state != State.ACTIVE:
                    self._add(event)
                    changed = True
            elif event.state == State.ACTIVE:
                self.unschedule(event)
                changed = True
        if changed:
            self._control(task)
            task.changed()

    def unschedule(self, event: PerfEvent) -> None:
        """Schedule one event out: save its count, and with the task's last event the window.

        The window is the task's: while another event keeps it running, this one's count alone stands still.
        """
        if event.state != State.ACTIVE:
            return
        task, state = event.task, event.task.unit.state
        base = COUNTERS[event.slot]
        event.saved_count = state[base + c.COUNT]
        event.highest = max(event.highest, state[base + c.HIGHEST])
        event.state = State.INACTIVE
        task.unit.wrmsr(CONFIG_MSRS[event.slot], event.config.counter_config & ~CounterConfig.ENABLED.mask)
        status = task.unit.rdmsr(MSR_BR_DETECT_STATUS)
        task.unit.wrmsr(MSR_BR_DETECT_STATUS, status & ~(Status.COUNT[event.slot].mask | Status.HIT[event.slot].mask))
        if not any(other.state == State.ACTIVE for other in task.events()):
            task.saved_window = Status.WINDOW.get(status)
            task.unit.wrmsr(MSR_BR_DETECT_CTRL, 0)
            task.unit.wrmsr(MSR_BR_DETECT_STATUS, 0)

    def _add(self, event: PerfEvent) -> None:
        task, unit = event.task, event.task.unit
        first = not any(other.state == State.ACTIVE for other in task.events())
        unit.wrmsr(CONFIG_MSRS[event.slot], event.config.counter_config)
        status = 0 if first else unit.rdmsr(MSR_BR_DETECT_STATUS)
        if first:
            status |= Status.WINDOW.put(task.saved_window)
        status &= ~Status.COUNT[event.slot].mask
        unit.wrmsr(MSR_BR_DETECT_STATUS, status | Status.COUNT[event.slot].put(event.saved_count))
        unit.state[COUNTERS[event.slot] + c.HIGHEST] = event.highest
        event.state = State.ACTIVE

    def _control(self, task: "Task") -> None:
        """The task's events share CTRL: it is as the newest one that is scheduled in was opened."""
        active = [event for event in task.events() if event.state == State.ACTIVE]
        if active:
            newest = max(active, key=lambda event: event.id)
            task.unit.wrmsr(MSR_BR_DETECT_CTRL, newest.config.control)

    def highest(self, event: PerfEvent) -> int:
        """The highest count of this very event's counter so far, in any window."""
        if event.state == State.ACTIVE:
            return max(event.highest, event.task.unit.state[COUNTERS[event.slot] + c.HIGHEST])
        return event.highest

    # ---- the interrupt ---------------------------------------------------------------------------------------------

    def interrupt(self, task: "Task", unit: Unit) -> None:
        """The performance monitoring interrupt of a trip: read STATUS, write it 0, count and wake who was hit."""
        status = unit.rdmsr(MSR_BR_DETECT_STATUS)
        unit.wrmsr(MSR_BR_DETECT_STATUS, 0)
        hit = tuple(
            event
            for i in range(NUM_COUNTERS)
            if Status.HIT[i].get(status) and (event := task.slots[i]) is not None and event.state == State.ACTIVE
        )
        self.trips += 1
        # Made before anybody is woken: whoever is may reprogram the unit.
        trip = self._trip(task, unit, status, hit) if self.listeners else None
        for event in hit:
            event.tripped()
        if trip is not None:
            for listener in list(self.listeners):
                listener(trip)

    def _trip(self, task: "Task", unit: Unit, status: int, hit: tuple[PerfEvent, ...]) -> Trip:
        return Trip(
            number=self.trips,
            time_ns=time.monotonic_ns(),
            task=task,
            ip=unit.ip,
            status=status,
            control=unit.rdmsr(MSR_BR_DETECT_CTRL),
            configs=(unit.rdmsr(CONFIG_MSRS[0]), unit.rdmsr(CONFIG_MSRS[1])),
            events=hit,
            lbr=unit.lbr.read(),
        )


def _check_group(leader: PerfEvent, attr: PerfEventAttr, task: "Task") -> None:
    """What perf's core asks of an event that joins a group."""
    if leader.closed or leader.leader is not leader or leader.task is not task:
        raise PerfError(errno.EINVAL, "a group has one leader and one task", slug="bad-group")
    if leader.attr.inherit != attr.inherit:
        raise PerfError(errno.EINVAL, "a group is inherited as a whole or not at all", slug="bad-group")
    if attr.pinned or attr.exclusive:
        raise PerfError(errno.EINVAL, "only a group's leader can be pinned or exclusive", slug="bad-group")
