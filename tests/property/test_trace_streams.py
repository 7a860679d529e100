"""Threads as arrays: trips and window counts equal those of the unit itself."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from branchmon.device import counters as c
from branchmon.device.unit import Unit
from branchmon.driver.config import EventConfig, packed_config
from branchmon.driver.syntax import EventRequest
from branchmon.events import BmEvent, WindowClass
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.streams import read_streams, window_counts
from branchmon.traces.trips import replay
from branchmon.traces.writer import TraceWriter
from streams import make_stream


def write(path: Path, seeds: list[int], *, attached: bool = False) -> Trace:
    with TraceWriter(FileStore(str(path)), Metadata(program=["p"]), batch_rows=64) as writer:
        writer.event(0, RowKind.START, 1, {"pid": 1, "parent": None, "attached": attached})
        for i, seed in enumerate(seeds):
            if i:
                writer.event(0, RowKind.START, 1 + i, {"pid": 1, "parent": i})
            writer.append(0, 1, *make_stream(seed, 90).columns)
            writer.append(0, 1 + i, *make_stream(seed + 1, 50).columns)
            writer.plain(0, 1 + i, 33)
            if seed % 3 == 0:
                writer.event(0, RowKind.GAP, 0 if seed % 2 else 1, {"why": "lost"})
            if seed % 5 == 0:
                writer.event(0, RowKind.EXEC, 1 + i, {"path": "/x", "pid": 1})
    return Trace(str(path))


@given(
    seeds=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    event=st.sampled_from(BmEvent),
    window=st.integers(0, 200),
    threshold=st.integers(0, 20),
    select=st.sampled_from(WindowClass),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trips_equal_those_of_a_replay(
    tmp_path: Path, seeds: list[int], event: BmEvent, window: int, threshold: int, select: WindowClass
) -> None:
    trace = write(tmp_path / "t", seeds)
    config = EventConfig(event, window_size=window, threshold=threshold, window_cnt_sel=select)
    packed = packed_config(config)
    if packed <= 0xFF:
        return  # such settings cannot be told from a plain event's number
    found = replay(trace, [EventRequest("e", packed)])
    assert read_streams(trace).trips(config) == found.result.events[0].trips


@given(
    seed=st.integers(0, 1000),
    event=st.sampled_from(BmEvent),
    window=st.integers(1, 120),
    select=st.sampled_from(WindowClass),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_window_counts_equal_the_units(
    tmp_path: Path, seed: int, event: BmEvent, window: int, select: WindowClass
) -> None:
    stream = make_stream(seed, 300)
    with TraceWriter(FileStore(str(tmp_path / "t")), Metadata()) as writer:
        writer.event(0, RowKind.START, 1, {"pid": 1})
        writer.append(0, 1, *stream.columns)
    (thread,) = read_streams(Trace(str(tmp_path / "t"))).threads
    config = EventConfig(event, window_size=window, threshold=127, window_cnt_sel=select)
    at, counts = window_counts(thread.segments[0], config)
    # At a trip the unit would freeze: 300 branches in short windows do not reach 127.
    unit = Unit()
    unit.wrmsr(0x354, config.counter_config)
    unit.wrmsr(0x350, config.control)
    windows: dict[int, int] = {}
    first: dict[int, int] = {}
    retired = 0
    for branch in zip(*stream.columns, strict=True):
        unit.retire_plain(branch[0])
        number = unit.state[c.WINDOWS]
        unit.state[c.COUNTER_0 + c.HIGHEST] = 0
        before = unit.state[c.COUNTER_0 + c.COUNT]
        unit.retire(0, *branch[1:])
        retired += branch[0] + 1
        highest = max(0, unit.state[c.COUNTER_0 + c.HIGHEST])
        del before
        if changes(branch[1], event, unit):
            first.setdefault(number, retired)
            windows[number] = max(windows.get(number, 0), highest)
    if unit.state[c.EVENT] or max(windows.values(), default=0) >= 120:
        return
    assert at.tolist() == list(first.values())
    assert counts.tolist() == list(windows.values())


def changes(kind: int, event: BmEvent, unit: Unit) -> bool:
    """Whether this branch moved the count; for mispredictions, by the unit's own total."""
    if event == BmEvent.RETS:
        return kind == 4
    if event == BmEvent.CALL_RET:
        return kind in (3, 4, 6)
    if event == BmEvent.FAR_BRANCH:
        return kind == 7
    missed = unit.totals[8]
    before = getattr(unit, "seen", 0)
    unit.seen = missed  # type: ignore[attr-defined]
    own = {BmEvent.RET_MISP: (4,), BmEvent.BRANCH_MISP: range(8), BmEvent.INDIRECT_BRANCH_MISP: (5, 6)}[event]
    return missed > before and kind in own


def test_the_limit_is_said(tmp_path: Path) -> None:
    trace = write(tmp_path / "t", [1, 2, 3])
    assert not read_streams(trace).limited
    limited = read_streams(trace, limit=100)
    assert limited.limited and 100 <= limited.rows < 200


@pytest.mark.parametrize("attached", [True, False])
def test_an_attached_thread_has_unknown_calls(tmp_path: Path, attached: bool) -> None:
    trace = write(tmp_path / "t", [4], attached=attached)
    streams = read_streams(trace)
    config = EventConfig(BmEvent.RET_MISP, threshold=1)
    returns = sum(int(np.count_nonzero((s.codes & 7) == 4)) for t in streams.threads for s in t.segments)
    assert 0 < streams.trips(config) <= returns
    late = replay(trace, [EventRequest("e", packed_config(config))])
    assert streams.trips(config) == late.result.events[0].trips
