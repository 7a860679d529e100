"""The unit's functions against a second model written from SPEC's prose, and against their compiled selves."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from branchmon.device import compiled, counters, predictor
from branchmon.device import replay as plain
from branchmon.device.registers import MSR_BR_DETECT_STATUS
from branchmon.device.stream import Predictions, Replay
from branchmon.device.unit import Unit
from branchmon.driver.config import EventConfig, packed_config
from branchmon.driver.perf_event import PerfEventAttr
from branchmon.driver.pmu import Pmu, Trip
from branchmon.driver.tasks import Tasks
from branchmon.events import BmEvent
from streams import Stream, make_stream

PLAIN, CONDITIONAL, JUMP, CALL, RETURN, INDIRECT_JUMP, INDIRECT_CALL, FAR = range(8)


# ---- the second model: nothing from the package, one sentence of the specification after the other -------------------


@dataclass
class ProseCounter:
    on: bool = False
    event: str = "rets"
    threshold: int = 0
    consecutive: bool = False
    count: int = 0
    hit: bool = False

    def see(self, kind: int, wrong: bool) -> None:
        near_return = kind == RETURN
        near_call = kind in (CALL, INDIRECT_CALL)
        if self.event == "rets":
            if near_return:
                self.count = min(255, self.count + 1)
        elif self.event == "call-ret":
            self.count = max(-128, min(127, self.count + near_return - near_call))
        elif self.event == "far-branch":
            if kind == FAR:
                self.count = min(255, self.count + 1)
        else:
            own = {
                "ret-misp": [RETURN],
                "branch-misp": [CONDITIONAL, JUMP, CALL, RETURN, INDIRECT_JUMP, INDIRECT_CALL],
                "indirect-branch-misp": [INDIRECT_JUMP, INDIRECT_CALL],
            }[self.event]
            if kind in own:
                if wrong:
                    self.count = min(255, self.count + 1)
                elif self.consecutive:
                    self.count = 0

    def window_ended(self) -> None:
        if not (self.consecutive and "misp" in self.event):
            self.count = 0


@dataclass
class Prose:
    """MSR fields as attributes, instructions one at a time."""

    monitoring: bool = False
    size: int = 0
    of: str = "instructions"
    all_must: bool = False
    event: bool = False
    window: int = 0
    counters: list[ProseCounter] = field(default_factory=lambda: [ProseCounter(), ProseCounter()])

    def retire(self, kind: int, wrong: bool) -> bool:
        """True if this instruction trips the unit."""
        if not self.monitoring or self.event:
            return False
        enabled = [counter for counter in self.counters if counter.on]
        for counter in enabled:
            counter.see(kind, wrong)
        members = {
            "instructions": range(8),
            "branches": range(1, 8),
            "near returns": [RETURN],
            "near indirect branches": [INDIRECT_JUMP, INDIRECT_CALL],
        }[self.of]
        if kind in members:
            self.window = min(1023, self.window + 1)
        met = [counter for counter in enabled if counter.count >= counter.threshold]
        for counter in met:
            counter.hit = True
        if met and (not self.all_must or len(met) == len(enabled)):
            self.event = True
            return True
        if self.window >= self.size:
            self.window = 0
            for counter in self.counters:
                counter.window_ended()
        return False

    def write(self, address: int, value: int) -> None:
        if address == 0x350:
            self.monitoring = bool(value & 1)
            self.size = value >> 8 & 1023
            self.of = ["instructions", "branches", "near returns", "near indirect branches"][value >> 24 & 3]
            self.all_must = bool(value >> 26 & 1)
        elif address == 0x351:
            self.event = bool(value & 1)
            self.window = value >> 16 & 1023
            for i, counter in enumerate(self.counters):
                counter.hit = bool(value >> 8 + i & 1)
                self._count(counter, value >> 32 + 8 * i & 255)
        else:
            counter = self.counters[address - 0x354]
            counter.on = bool(value & 1)
            names = ["rets", "call-ret", "ret-misp", "branch-misp", "indirect-branch-misp", "far-branch"]
            counter.event = names[value >> 1 & 127]
            counter.threshold = value >> 8 & 127
            counter.consecutive = bool(value >> 15)
            self._count(counter, counter.count & 255)

    def _count(self, counter: ProseCounter, byte: int) -> None:
        counter.count = byte - 256 if counter.event == "call-ret" and byte > 127 else byte

    @property
    def status(self) -> int:
        value = int(self.event) | self.window << 16
        for i, counter in enumerate(self.counters):
            value |= counter.hit << 8 + i | (counter.count & 255) << 32 + 8 * i
        return value


# ---- what is tried ---------------------------------------------------------------------------------------------------

small = st.one_of(st.integers(0, 6), st.integers(0, 127))
sizes = st.one_of(st.integers(0, 12), st.integers(0, 1023))


@st.composite
def controls(draw: st.DrawFn) -> int:
    on = draw(st.sampled_from([1, 1, 1, 1, 0]))
    return on | draw(sizes) << 8 | draw(st.integers(0, 3)) << 24 | draw(st.integers(0, 1)) << 26


@st.composite
def counter_configs(draw: st.DrawFn) -> int:
    on = draw(st.sampled_from([1, 1, 1, 0]))
    return on | draw(st.integers(0, 5)) << 1 | draw(small) << 8 | draw(st.integers(0, 1)) << 15


@st.composite
def statuses(draw: st.DrawFn) -> int:
    """Mostly what a handler writes."""
    if draw(st.booleans()):
        return 0
    counts = draw(st.integers(0, 255)) | draw(st.integers(0, 255)) << 8
    return draw(st.integers(0, 1)) | draw(st.integers(0, 3)) << 8 | draw(st.integers(0, 1023)) << 16 | counts << 32


writes = st.one_of(
    st.tuples(st.just(0x350), controls()),
    st.tuples(st.just(0x351), statuses()),
    st.tuples(st.sampled_from([0x354, 0x355]), counter_configs()),
)
branches = st.tuples(st.integers(1, 7), st.integers(0, 1))
runs = st.one_of(st.integers(0, 20), st.integers(0, 5000))
steps = st.one_of(branches, branches, branches, runs, writes.map(list))


def clear(unit: Unit) -> None:
    unit.wrmsr(MSR_BR_DETECT_STATUS, 0)


@given(controls(), counter_configs(), counter_configs(), st.lists(steps, max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_unit_is_what_the_prose_says_in_plain_python_and_compiled(
    control: int, first: int, second: int, script: list[object]
) -> None:
    """Every register after every step: prose one instruction at a time, retire and advance, and both compiled."""
    prose, unit = Prose(), Unit()
    start = [[0x354, first], [0x355, second], [0x350, control]]
    array = np.array(unit.state, np.int64)
    for step in [*start, *script]:
        if isinstance(step, list):
            prose.write(*step)
            unit.wrmsr(*step)
            array = np.array(unit.state, np.int64)
        elif isinstance(step, tuple):
            tripped = prose.retire(*step)
            assert counters.retire(unit.state, *step) == tripped
            assert compiled.retire(array, *step) == tripped
        else:
            assert isinstance(step, int)
            told = next((i + 1 for i in range(step) if prose.retire(PLAIN, False)), step)
            assert counters.advance(unit.state, step) == told
            assert compiled.advance(array, step) == told
        assert unit.rdmsr(MSR_BR_DETECT_STATUS) == prose.status
        assert array.tolist() == unit.state
        if prose.event and isinstance(step, tuple):  # as a handler would, most often
            prose.write(0x351, 0)
            clear(unit)
            array = np.array(unit.state, np.int64)


@given(controls(), counter_configs(), counter_configs(), st.lists(runs, max_size=8), statuses())
@settings(max_examples=200, deadline=None)
def test_advance_is_so_many_plain_retires(
    control: int, first: int, second: int, lengths: list[int], status: int
) -> None:
    unit = Unit()
    for address, value in ((0x354, first), (0x355, second), (0x350, control), (0x351, status)):
        unit.wrmsr(address, value)
    single, whole = list(unit.state), list(unit.state)
    for length in lengths:
        told = next((i + 1 for i in range(length) if counters.retire(single, PLAIN, 0)), length)
        assert counters.advance(whole, length) == told
        assert whole == single
        if single[counters.EVENT]:
            single[counters.EVENT] = whole[counters.EVENT] = 0


# ---- whole streams ---------------------------------------------------------------------------------------------------


def settings_of(event: int, control: tuple[int, int, int], threshold: int, consecutive: int) -> EventConfig:
    size, select, and_mode = control
    return EventConfig(
        BmEvent(event),
        window_size=size,
        threshold=threshold,
        window_cnt_sel=select,
        cnt_and_mode=and_mode,
        mispred_evt_cnt=consecutive,
    )


event_settings = st.tuples(st.integers(0, 5), small, st.integers(0, 1))
control_settings = st.tuples(sizes, st.integers(0, 3), st.integers(0, 1))


def live(stream: Stream, events: list[EventConfig]) -> tuple[list[tuple[int, ...]], list[int], Unit]:
    """Trips, what read() of each event gives, and the unit, from the driver and the unit fed branch by branch."""
    pmu = Pmu()
    tasks = Tasks(pmu)
    task = tasks.start(1, 1)
    task.read_clock = lambda: 0
    opened = [pmu.open(PerfEventAttr(pmu.type, packed_config(event)), task) for event in events]
    seen: list[tuple[int, ...]] = []

    def note(trip: Trip) -> None:
        hits = trip.status >> 8 & 3
        counts = (trip.status >> 32 & 255, trip.status >> 40 & 255)
        seen.append((task.unit.totals[0], hits, trip.window, *counts))

    pmu.listeners.append(note)
    for branch in zip(*stream.columns, strict=True):
        task.unit.retire(*branch)
    return seen, [event.read().value for event in opened], task.unit


def replayed(stream: Stream, replay: Replay, codes: np.ndarray, cuts: list[int]) -> list[tuple[int, ...]]:
    rows: list[tuple[int, ...]] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    gaps = np.array(stream.gaps, np.uint32)
    for start, end in pairwise(edges):
        for row in replay.feed(gaps[start:end], codes[start:end]).tolist():
            assert row[plain.TRIP_INDEX] < len(stream)
            counts = (row[plain.TRIP_COUNT_0] & 255, row[plain.TRIP_COUNT_1] & 255)
            rows.append((row[plain.TRIP_INSTRUCTION], row[plain.TRIP_HITS], row[plain.TRIP_WINDOW], *counts))
    return rows


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 400),
    control=control_settings,
    programmed=st.lists(event_settings, min_size=1, max_size=2),
    cuts=st.lists(st.integers(0, 1000), max_size=4),
    buffer=st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_replay_is_the_driver_and_the_unit_trip_for_trip(
    seed: int,
    length: int,
    control: tuple[int, int, int],
    programmed: list[tuple[int, int, int]],
    cuts: list[int],
    buffer: int,
) -> None:
    """In batches cut anywhere, with a trip buffer that overflows anywhere, in plain Python and compiled."""
    stream = make_stream(seed, length)
    events = [settings_of(event, control, threshold, more) for event, threshold, more in programmed]
    # A packed config of zeros cannot be told from event 0 under the attributes: see packed_config.
    events = [event for event in events if packed_config(event) > 0xFF]
    if not events:
        return
    expected, counts, unit = live(stream, events)
    configs = [event.counter_config for event in events]
    for fast in (False, True):
        predictions = Predictions(compiled=fast)
        codes = predictions.feed(*stream.columns)
        replay = Replay(events[-1].control, (configs[0], configs[1] if len(configs) > 1 else 0), compiled=fast)
        replay._buffer = np.zeros((buffer, plain.TRIP_SIZE), np.int64)
        assert replayed(stream, replay, codes, cuts) == expected
        assert list(replay.events)[: len(counts)] == counts
        assert replay.trips == len(expected)
        assert replay.state.tolist() == unit.state
        assert predictions.totals.tolist()[:8] == unit.totals[:8]
        if unit.predicting:
            assert predictions.predictor.tolist() == list(unit.predictor)
            assert int(predictions.totals[8]) == unit.totals[8]
        silent = Replay(
            events[-1].control, (configs[0], configs[1] if len(configs) > 1 else 0), record=False, compiled=fast
        )
        silent.feed(np.array(stream.gaps, np.uint32), codes)
        assert silent.trips == len(expected) and silent.state.tolist() == unit.state


@given(
    st.integers(0, 2**32),
    st.integers(0, 100),
    controls(),
    st.tuples(counter_configs(), counter_configs()),
    st.lists(st.tuples(st.integers(0, 100), writes), max_size=4),
)
@example(3, 2, 257, (32772, 257), [(0, (849, 4294967296))])  # a count written to a counter that is off
@settings(max_examples=200, deadline=None)
def test_replay_carries_on_from_any_register_write(
    seed: int, length: int, control: int, configs: tuple[int, int], rewrites: list[tuple[int, tuple[int, int]]]
) -> None:
    """Registers rewritten between batches, with and without EnExcept: the short cut, row by row, and compiled agree."""
    stream = make_stream(seed, length)
    codes = Predictions(compiled=True).feed(*stream.columns)
    gaps = np.array(stream.gaps, np.uint32)
    with_interrupts = control | (seed & 1) << 1
    unit = Unit()
    for address, value in ((0x354, configs[0]), (0x355, configs[1]), (0x350, with_interrupts)):
        unit.wrmsr(address, value)
    states = [np.array(unit.state, np.int64) for _ in range(3)]
    progress = [np.zeros(plain.PROGRESS_SIZE, np.int64) for _ in range(3)]
    trips = [np.zeros((10 * length * 10 + 1, plain.TRIP_SIZE), np.int64) for _ in range(3)]
    used = [0, 0, 0]
    for stop, write in [*sorted(rewrites), (length, (0x351, 0))]:
        end = max(min(stop, length), int(progress[0][plain.ROW]))
        out = trips[0][used[0] :]
        used[0] += plain.replay(gaps[:end], codes[:end], states[0], progress[0], out)
        used[1] += compiled.replay(gaps[:end], codes[:end], states[1], progress[1], trips[1][used[1] :])
        used[2] += plain.replay_rows(gaps[:end], codes[:end], end, states[2], progress[2], trips[2][used[2] :], 0)
        assert states[0].tolist() == states[2].tolist() == states[1].tolist()
        assert progress[0].tolist() == progress[2].tolist() == progress[1].tolist()
        address, value = write
        unit.state[:] = states[0].tolist()
        unit.wrmsr(address, value | 2 if address == 0x350 and seed & 1 else value)
        for state in states:
            state[:] = unit.state
    assert (trips[0] == trips[2]).all() and (trips[1] == trips[2]).all()


@given(st.integers(0, 2**32), st.integers(0, 2000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_compiled_predictor_is_the_plain_one(seed: int, length: int, late: bool) -> None:
    stream = make_stream(seed, length)
    one, other = predictor.new_predictor(), np.array(predictor.new_predictor(), np.int64)
    if late:
        predictor.forget(one)
        compiled.forget(other)
    for branch in zip(*(column for column in stream.columns[1:]), strict=True):
        assert predictor.predict(one, *branch) == compiled.predict(other, *branch)
    assert other.tolist() == one


def test_windows_run_without_a_counter_and_a_plain_tail_counts() -> None:
    replay = Replay(3 | 10 << 8, compiled=False)
    assert len(replay.feed([4, 4], [RETURN, RETURN])) == 0
    assert len(replay.plain(10)) == 0
    assert replay.windows == 2 and replay.trips == 0
    always = Replay(3 | 10 << 8, (1, 0), compiled=False)
    tail = always.plain(3)
    assert tail[:, plain.TRIP_INSTRUCTION].tolist() == [1, 2, 3] and always.events == (3, 0)
