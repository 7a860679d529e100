"""A trace's replay equals units that retired the same branches one by one, under any settings."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from branchmon.driver.config import EventConfig, packed_config
from branchmon.driver.perf_event import PerfEvent, PerfEventAttr
from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Tasks
from branchmon.events import BmEvent
from branchmon.sources.trace import TraceSource
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.writer import TraceWriter
from streams import make_stream

configs = st.builds(
    EventConfig,
    st.sampled_from(BmEvent),
    window_size=st.one_of(st.integers(0, 60), st.integers(0, 1023)),
    threshold=st.one_of(st.integers(0, 8), st.integers(0, 127)),
    lbr_freeze=st.integers(0, 1),
    window_cnt_sel=st.integers(0, 3),
    cnt_and_mode=st.integers(0, 1),
    mispred_evt_cnt=st.integers(0, 1),
).filter(lambda c: c.threshold or c.window_size)


class Both:
    """Writes a trace and, at the same time, does to one world what a live source would do."""

    def __init__(self, path: str, batch_rows: int) -> None:
        self.pmu = Pmu()
        self.tasks = Tasks(self.pmu)
        self.writer = TraceWriter(FileStore(path), Metadata(program=["prog"]), batch_rows=batch_rows)

    def start(self, tid: int, pid: int, parent: int | None) -> None:
        maker = self.tasks.get(parent) if parent is not None else None
        self.tasks.start(tid, pid, maker)
        self.writer.event(0, RowKind.START, tid, {"pid": pid, "parent": parent, "attached": False})

    def branches(self, tid: int, seed: int, length: int) -> None:
        stream = make_stream(seed, length)
        task = self.tasks.get(tid)
        assert task is not None
        self.writer.append(0, tid, *stream.columns)
        for branch in zip(*stream.columns, strict=True):
            task.unit.retire(*branch)

    def plain(self, tid: int, instructions: int) -> None:
        task = self.tasks.get(tid)
        assert task is not None
        self.writer.plain(0, tid, instructions)
        task.unit.retire_plain(instructions)

    def executed(self, tid: int) -> None:
        task = self.tasks.get(tid)
        assert task is not None
        self.tasks.executed(task)
        self.writer.event(0, RowKind.EXEC, tid, {"pid": task.pid, "path": "/bin/x"})

    def exited(self, tid: int) -> None:
        task = self.tasks.get(tid)
        assert task is not None
        self.tasks.exited(task, 0)
        self.writer.event(0, RowKind.EXIT, tid, {"status": 0})


def open_events(pmu: Pmu, tasks: Tasks, tid: int, wanted: list[EventConfig]) -> list[PerfEvent]:
    task = tasks.get(tid)
    assert task is not None
    return [pmu.open(PerfEventAttr(0, packed_config(config) | 1, inherit=True), task) for config in wanted]


def live(both: Both, seed: int, wanted: list[EventConfig]) -> list[PerfEvent]:
    """Threads that start, execute, end, interleave; what is done depends on `seed` alone."""
    rng = random.Random(seed)
    both.start(1, 1, None)
    events = open_events(both.pmu, both.tasks, 1, wanted)
    both.executed(1)
    alive, last = [1], 1
    for _ in range(rng.randrange(3, 14)):
        tid = rng.choice(alive)
        what = rng.random()
        if what < 0.6:
            both.branches(tid, rng.randrange(50), rng.randrange(1, 120))
        elif what < 0.75 and len(alive) < 4:
            last += 1
            both.start(last, rng.choice((1, last)), tid)
            alive.append(last)
        elif what < 0.85:
            both.executed(tid)
        elif what < 0.92:
            both.plain(tid, rng.randrange(1, 400))
        elif len(alive) > 1 and tid != 1:
            alive.remove(tid)
            both.exited(tid)
    for tid in alive:
        both.exited(tid)
    both.writer.close()
    return events


def thread(trip: tuple[object, ...]) -> object:
    return trip[0]


@pytest.mark.parametrize("compiled", [True, False])
@given(
    seed=st.integers(0, 1 << 20),
    wanted=st.lists(configs, min_size=1, max_size=2),
    listen=st.booleans(),
    rows=st.sampled_from([7, 100, 1 << 16]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replay_equals_live(
    tmp_path, compiled: bool, seed: int, wanted: list[EventConfig], listen: bool, rows: int
) -> None:
    path = str(tmp_path / "t")
    both = Both(path, rows)
    seen: list[list[tuple[object, ...]]] = [[], []]

    def note(into: list[tuple[object, ...]]):
        return lambda t: into.append((t.task.tid, t.ip, t.status, t.control, t.configs, t.lbr, len(t.events)))

    both.pmu.listeners.append(note(seen[0]))
    expected = live(both, seed, wanted)

    pmu = Pmu()
    tasks = Tasks(pmu)
    if listen:
        pmu.listeners.append(note(seen[1]))
    source = TraceSource(tasks, Trace(path), compiled=compiled)
    source.launch()
    found = open_events(pmu, tasks, 1, wanted)
    assert source.run()
    assert [event.read().value for event in found] == [event.read().value for event in expected]
    assert [event.highest_count() for event in found] == [event.highest_count() for event in expected]
    assert tasks.totals() == both.tasks.totals()
    assert tasks.ended_windows == both.tasks.ended_windows
    assert pmu.trips == both.pmu.trips
    if listen:
        # Between threads a trace does not keep the order of what they did at the same time; within each it does.
        assert sorted(seen[1], key=thread) == sorted(seen[0], key=thread)
    assert source.warnings == []


def test_a_gap_clears_the_window(tmp_path) -> None:
    path = str(tmp_path / "t")
    returns = [[0] * 6, [4] * 6, [1] * 6, [16] * 6, [1] * 6, [32] * 6]
    with TraceWriter(FileStore(path), Metadata(program=["prog"])) as writer:
        writer.event(0, RowKind.START, 1, {"pid": 1, "parent": None})
        writer.append(0, 1, *returns)
        writer.event(0, RowKind.GAP, 0, {"why": "lost"})
        writer.append(0, 1, *returns)
    for threshold, trips in ((5, 2), (6, 2), (7, 0), (12, 0)):
        pmu = Pmu()
        tasks = Tasks(pmu)
        source = TraceSource(tasks, Trace(path))
        source.launch()
        (event,) = open_events(pmu, tasks, 1, [EventConfig(BmEvent.RETS, threshold=threshold)])
        source.run()
        assert event.read().value == trips, threshold
        assert any("1 gaps" in warning for warning in source.warnings)
