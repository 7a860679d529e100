"""The driver against a small model of its own: random open, close, enable, disable, switches, returns and forks."""

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from branchmon.device.unit import Unit
from branchmon.driver.perf_event import PerfEventAttr
from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Task, Tasks
from branchmon.errors import PerfError

TYPE = 77
RETURN = 4


class Watched:
    """The model of one event of one task: its counter counts returns; the window is longer than any test."""

    def __init__(self, threshold: int, enabled: bool) -> None:
        self.threshold = threshold
        self.enabled = enabled
        self.count = 0
        self.trips = 0


class Driver(RuleBasedStateMachine):
    """One physical unit, two tasks that take turns on it, windows of branches so long that only trips restart them."""

    @initialize()
    def start(self) -> None:
        self.pmu = Pmu(TYPE)
        self.pmu.attributes.store("window_size", "1023")
        self.pmu.attributes.store("window_cnt_sel", "3")
        self.unit = Unit()
        self.idle = Unit()
        self.tasks = [Task(number, number, self.pmu, Unit()) for number in (1, 2)]
        for task in self.tasks:
            task.read_clock = lambda: 0
        self.running = None
        self.model: dict[Task, dict] = {task: {} for task in self.tasks}

    @rule(which=st.integers(0, 1), threshold=st.integers(1, 6), disabled=st.booleans())
    def open(self, which: int, threshold: int, disabled: bool) -> None:
        task = self.tasks[which]
        self.pmu.attributes.store("threshold", str(threshold))
        attr = PerfEventAttr(TYPE, 0, disabled=disabled)
        if len(self.model[task]) == 2:
            with pytest.raises(PerfError) as caught:
                self.pmu.open(attr, task)
            assert caught.value.errno == errno.EBUSY
        else:
            self.model[task][self.pmu.open(attr, task)] = Watched(threshold, not disabled)

    def pick(self, data: st.DataObject):
        pairs = [(task, event) for task in self.tasks for event in self.model[task]]
        return data.draw(st.sampled_from(pairs)) if pairs else None

    @rule(data=st.data(), what=st.sampled_from(["close", "enable", "disable", "reset"]))
    def change(self, data: st.DataObject, what: str) -> None:
        picked = self.pick(data)
        if picked is None:
            return
        task, event = picked
        if what == "close":
            self.pmu.close(event)
            del self.model[task][event]
            return
        getattr(event, what)()
        mine = self.model[task][event]
        if what == "reset":
            mine.trips = 0
        else:
            mine.enabled = what == "enable"

    @rule(which=st.sampled_from([None, 0, 1]))
    def switch(self, which: int | None) -> None:
        if self.running is not None:
            self.running.schedule_out()
            self.running.unit = self.idle
        self.running = None if which is None else self.tasks[which]
        if self.running is not None:
            self.running.schedule_in(self.unit)

    @precondition(lambda self: self.running is not None)
    @rule(times=st.integers(1, 7))
    def returns(self, times: int) -> None:
        for _ in range(times):
            self.unit.retire(2, RETURN, 1, 0x1000, 1, 0x2000)
            active = [each for each in self.model[self.running].values() if each.enabled]
            for each in active:
                each.count += 1
            met = [each for each in active if each.count >= each.threshold]
            for each in met:
                each.trips += 1
            if met:
                for each in active:
                    each.count = 0

    @invariant()
    def same(self) -> None:
        for task in getattr(self, "tasks", ()):
            for event, mine in self.model[task].items():
                assert event.read().value == mine.trips


Driver.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDriver = Driver.TestCase


def test_errno_order() -> None:
    pmu = Pmu(TYPE, strict=True)
    task = Task(1, 1, pmu)
    task.read_clock = lambda: 0
    wrong = PerfEventAttr(TYPE + 1, 99, sample_period=1)
    steps = [
        (wrong, None, {"privileged": False}, errno.EACCES),
        (wrong, None, {}, errno.ENOENT),
        (PerfEventAttr(TYPE, 99, sample_period=1), None, {}, errno.EINVAL),
        (PerfEventAttr(TYPE, 99, sample_period=1), task, {}, errno.EOPNOTSUPP),
        (PerfEventAttr(TYPE, 6), task, {}, errno.EINVAL),
        (PerfEventAttr(TYPE, 1 << 40 | 1 << 4), task, {}, errno.EINVAL),
    ]
    for attr, target, more, number in steps:
        with pytest.raises(PerfError) as caught:
            pmu.open(attr, target, **more)
        assert caught.value.errno == number, attr


def test_a_child_adds_to_its_makers_event_and_enable_on_exec_fires_once() -> None:
    pmu = Pmu(TYPE)
    pmu.attributes.store("threshold", "1")
    tasks = Tasks(pmu)
    parent = tasks.start(1, 1)
    parent.read_clock = lambda: 5
    event = pmu.open(PerfEventAttr(TYPE, 0, disabled=True, inherit=True, enable_on_exec=True), parent)
    parent.unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert event.read().value == 0
    tasks.executed(parent)
    parent.unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert event.poll() and not event.poll()
    child = tasks.start(2, 2, parent)
    child.read_clock = lambda: 7
    child.unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert event.read().value == 2
    event.disable()
    tasks.executed(parent)
    parent.unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert event.read().value == 2
    tasks.exited(parent)
    assert not event.hung_up
    tasks.exited(child)
    assert event.hung_up
    assert event.read().value == 2
