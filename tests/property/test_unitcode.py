"""The generated unit against :class:`branchmon.device.unit.Unit`: random settings, random streams, the whole state."""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from branchmon.device import counters as c
from branchmon.device import predictor as p
from branchmon.device.registers import (
    MSR_BR_DETECT_COUNTER_CONFIG_0,
    MSR_BR_DETECT_COUNTER_CONFIG_1,
    MSR_BR_DETECT_CTRL,
    MSR_BR_DETECT_STATUS,
    Control,
    CounterConfig,
    Status,
)
from branchmon.device.unit import Unit
from branchmon.events import BmEvent, Branch, BranchKind
from branchmon.sources.translate.unitcode import Program, layout
from branchmon.sources.translate.unitcode.program import Family
from unitcode_machine import Machine, pack_words
from unitcode_script import CONTEXT, LOG, PATTERNS, UNIT, Generated, Outcome, Script

HAS_AVX512VL = "avx512vl" in Path("/proc/cpuinfo").read_text()
SCHEMES = [
    pytest.param(False, id="memory"),
    pytest.param(True, id="vector", marks=pytest.mark.skipif(not HAS_AVX512VL, reason="no AVX-512VL here")),
]
KINDS = [kind for kind in BranchKind if kind != BranchKind.PLAIN]


@dataclass(frozen=True)
class Setting:
    """How both units are programmed, and what of the generated one is wanted."""

    control: int
    configs: tuple[int, int]
    always_lbr: bool
    always_predict: bool
    stops: bool
    totals: bool
    recording: bool
    handled: bool
    """There is an interrupt handler."""

    def program(self, unit: Unit) -> None:
        """Write the registers."""
        unit.always_lbr, unit.always_predict = self.always_lbr, self.always_predict
        unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, self.configs[0])
        unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_1, self.configs[1])
        unit.wrmsr(MSR_BR_DETECT_CTRL, self.control)


def rarely() -> st.SearchStrategy[bool]:
    """True one time in eight."""
    return st.integers(0, 7).map(lambda n: n == 7)


@st.composite
def all_settings(draw: st.DrawFn) -> Setting:
    """Any setting that generated code takes; small thresholds and windows more often than large ones."""
    size = draw(st.one_of(st.integers(0, 12), st.integers(0, 64), st.integers(0, 1023)))
    control = Control.MONITORING.put(1) | Control.EXCEPT.put(not draw(rarely())) | Control.WINDOW_SIZE.put(size)
    control |= Control.FREEZE_LBR.put(draw(rarely())) | Control.AND_MODE.put(draw(st.booleans()))
    control |= Control.WINDOW_SELECT.put(draw(st.integers(0, 3)))
    configs = []
    both = draw(st.booleans())
    for enabled in (True, both) if draw(st.booleans()) else (both, True):
        threshold = draw(st.one_of(st.integers(1, 5), st.integers(1, 127)))
        config = CounterConfig.ENABLED.put(enabled) | CounterConfig.SELECT.put(draw(st.integers(0, 5)))
        configs.append(
            config | CounterConfig.THRESHOLD.put(threshold) | CounterConfig.CONSECUTIVE.put(draw(st.booleans()))
        )
    return Setting(
        control,
        (configs[0], configs[1]),
        always_lbr=draw(rarely()),
        always_predict=draw(rarely()),
        stops=draw(st.booleans()),
        totals=draw(st.booleans()),
        recording=draw(rarely()),
        handled=not draw(rarely()),
    )


def random_stream(rng: random.Random, length: int, window_size: int) -> list[Branch]:
    """A stream in which calls mostly return to where they came from, at a few places: predictions succeed, too."""
    stack: list[int] = []
    sites = [rng.choice((0x401000, 0x7F1234567000, 0xFFFFFFFFFF600000)) + rng.randrange(4096) for _ in range(12)]
    weights = [rng.choice((0, 1, 4)) for _ in KINDS]
    if not any(weights):
        weights[rng.randrange(len(weights))] = 1
    stream = []
    for _ in range(length):
        kind = rng.choices(KINDS, weights)[0]
        source = rng.choice(sites)
        size = rng.randint(1, 15)
        taken = kind != BranchKind.CONDITIONAL or rng.random() < 0.6
        target = rng.choice(sites)
        if kind == BranchKind.RETURN and stack and rng.random() < 0.7:
            target = stack.pop()
        elif kind in (BranchKind.CALL, BranchKind.INDIRECT_CALL):
            if rng.random() < 0.1:
                target = source + size
            else:
                stack.append(source + size)
        elif not taken:
            target = source + size
        gap = rng.choice((0, 0, rng.randrange(8), rng.randrange(40), max(0, window_size - rng.randrange(3))))
        if rng.random() < 0.03:
            gap = rng.choice((5 * window_size, rng.randrange(100_000), rng.randrange(1 << 31)))
        stream.append(Branch(gap, kind, taken, source, size, target))
    return stream


def registers_of(unit: Unit, program: Program) -> dict[str, object]:
    """What must be equal."""
    families = {
        Family.RETURNS: (p.TOP, p.PATH),
        Family.TARGETS: (p.PATH, p.OUTCOMES),
        Family.DIRECTIONS: (p.OUTCOMES, p.PREDICTOR_SIZE),
    }
    return {
        "state": list(unit.state),
        "totals": {i: unit.totals[i] for i in program.exact_totals},
        "predictor": {f: list(unit.predictor[slice(*families[f])]) for f in program.families},
        "last branches": unit.lbr.read() if program.lbr else (),
    }


def check(machine: Machine, setting: Setting, seed: int, length: int, vector: bool) -> int:
    """Run some random streams under a setting, in both ways; the number of trips."""
    rng = random.Random(seed)
    truth, seen = Unit(), Outcome()
    unit, outcome = Unit(), Outcome()
    if setting.handled:
        truth.pmi, unit.pmi = seen.interrupt, outcome.interrupt
    for each in (truth, unit):
        setting.program(each)
        if seed % 3 == 0:  # attached late: entries of the return stack are unknown
            each.missed()
        if seed % 5 == 0:  # somebody wrote STATUS
            counted = Status.WINDOW.mask | Status.COUNT[0].mask | Status.COUNT[1].mask
            each.wrmsr(MSR_BR_DETECT_STATUS, random.Random(seed).getrandbits(64) & counted)
    generated = Generated(machine, unit, outcome, setting.stops, setting.totals, setting.recording, vector)
    window_size = Control.WINDOW_SIZE.get(setting.control)
    rows: list[tuple[int, ...]] = []
    pending = 0  # instructions since the last branch
    for _ in range(rng.randint(1, 3)):
        stream = random_stream(rng, rng.randint(0, length), window_size)
        if settle(truth, unit, stream):
            pending = generated.gap = 0
        if Program.unsettled(unit):
            continue
        tail = rng.choice((0, rng.randrange(50), window_size, rng.randrange(10_000)))
        program = generated.retire(
            stream, tail, [rng.getrandbits(8) << 8 & 0xD500 | rng.getrandbits(1) for _ in stream]
        )
        for branch in stream:
            truth.retire(*branch)
        truth.retire_plain(tail)
        assert registers_of(unit, program) == registers_of(truth, program)
        assert outcome.counts == seen.counts
        if setting.stops and setting.handled and setting.control & Control.EXCEPT.mask:
            assert outcome.trips == seen.trips
        for gap, *rest in stream:
            rows.append((pending + gap, *map(int, rest)))
            pending = 0
        pending += tail
        if setting.recording:
            assert generated.rows == rows
    return len(seen.trips)


def settle(truth: Unit, unit: Unit, stream: list[Branch]) -> int:
    """As an engine does it: step until generated code can take over; the branches that were stepped."""
    stepped = 0
    while Program.unsettled(unit) and stream:
        branch = stream.pop(0)
        stepped += 1
        for each in (truth, unit):
            each.retire(*branch)
    return stepped


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as worker:
        yield worker


@pytest.mark.parametrize("vector", SCHEMES)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(setting=all_settings(), seed=st.integers(0, 1 << 32), length=st.sampled_from((4, 20, 120)))
def test_equals_the_unit(machine: Machine, vector: bool, setting: Setting, seed: int, length: int) -> None:
    check(machine, setting, seed, length, vector)


@pytest.mark.soak
@pytest.mark.parametrize("vector", SCHEMES)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(setting=all_settings(), seed=st.integers(0, 1 << 32), length=st.sampled_from((4, 20, 120, 800)))
def test_equals_the_unit_at_length(machine: Machine, vector: bool, setting: Setting, seed: int, length: int) -> None:
    check(machine, setting, seed, length, vector)


@pytest.mark.parametrize("vector", SCHEMES)
@pytest.mark.parametrize("event", BmEvent)
def test_counts_saturate(machine: Machine, vector: bool, event: BmEvent) -> None:
    """In AND mode a count goes on rising (or falling) while the other counter is not met."""
    unit, truth = Unit(), Unit()
    for each in (unit, truth):
        config = CounterConfig.ENABLED.put(1) | CounterConfig.THRESHOLD.put(127)
        each.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, config | CounterConfig.SELECT.put(event))
        each.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_1, config | CounterConfig.SELECT.put(BmEvent.FAR_BRANCH))
        control = Control.MONITORING.put(1) | Control.AND_MODE.put(1) | Control.WINDOW_SIZE.put(1023)
        each.wrmsr(MSR_BR_DETECT_CTRL, control)
    generated = Generated(machine, unit, Outcome(), False, True, False, vector)
    up = {BmEvent.INDIRECT_BRANCH_MISP: BranchKind.INDIRECT_JUMP, BmEvent.FAR_BRANCH: BranchKind.INDIRECT_JUMP}
    stream = [
        Branch(0, kind, True, 0x401000 + i, 2, 0x500000 + i * 7)
        for kind, times in ((up.get(event, BranchKind.RETURN), 300), (BranchKind.CALL, 400))
        for i in range(times)
    ]
    for part in (stream[:300], stream[300:]):
        program = generated.retire(part, 0, [0] * len(part))
        for branch in part:
            truth.retire(*branch)
        assert registers_of(unit, program) == registers_of(truth, program)
    expected = {BmEvent.CALL_RET: c.BIAS_MIN, BmEvent.FAR_BRANCH: 0}.get(event, c.SATURATION)
    assert unit.state[c.COUNTER_0 + c.COUNT] == expected


def test_refuses_a_threshold_of_0() -> None:
    unit = Unit()
    unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, CounterConfig.ENABLED.put(1))
    unit.wrmsr(MSR_BR_DETECT_CTRL, Control.MONITORING.put(1))
    assert "threshold" in (Program.refusal(unit) or "")
    unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, CounterConfig.ENABLED.put(1) | CounterConfig.THRESHOLD.put(1))
    assert Program.refusal(unit) is None


@pytest.mark.parametrize("vector", SCHEMES)
def test_idle_threads_change_nothing_and_never_leave(machine: Machine, vector: bool) -> None:
    """A thread without events runs the code made for its sibling."""
    unit = Unit()
    config = CounterConfig.ENABLED.put(1) | CounterConfig.THRESHOLD.put(1) | CounterConfig.SELECT.put(BmEvent.CALL_RET)
    unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, config)
    unit.wrmsr(MSR_BR_DETECT_CTRL, Control.MONITORING.put(1) | Control.EXCEPT.put(1) | Control.WINDOW_SIZE.put(5))
    program = Program.of(unit, recording=True, totals=True, vector=vector)
    script = Script(program)
    for i in range(100):
        script.retire(Branch(3, BranchKind(1 + i % 7), True, 0x401000 + i, 2, 0x500000), 0, 16 * i)
    machine.load(script.finish(10))
    head = pack_words(0, machine.blob_address + script.start).ljust(CONTEXT, b"\0")
    context = pack_words(*PATTERNS.values(), 0x4600)
    after = machine.run((head + context).ljust(UNIT, b"\0") + program.idle(), LOG)
    assert struct.unpack_from("<Q", after, UNIT + layout.TRIPS) == (0,)
    assert struct.unpack_from("<Q", after, UNIT + layout.REASON) == (0,)
    assert struct.unpack_from("<16Q", after, CONTEXT)[3:] == tuple(PATTERNS.values())[3:]


@pytest.mark.parametrize("vector", SCHEMES)
def test_a_bias_that_trips_alone_saturates_below(machine: Machine, vector: bool) -> None:
    """The short cut at calls knows the lowest bias, whatever the highest was."""
    unit, truth = Unit(), Unit()
    for each in (unit, truth):
        config = CounterConfig.ENABLED.put(1) | CounterConfig.THRESHOLD.put(9)
        config |= CounterConfig.SELECT.put(BmEvent.CALL_RET)
        each.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, config)
        each.wrmsr(MSR_BR_DETECT_CTRL, Control.MONITORING.put(1) | Control.WINDOW_SIZE.put(1023))
    generated = Generated(machine, unit, Outcome(), False, False, False, vector)
    call, back = (Branch(0, kind, True, 0x401000, 5, 0x500000) for kind in (BranchKind.CALL, BranchKind.RETURN))
    for part in ([back] * 7, [call] * 300, [back] * 3, [call], [back] * 140):
        program = generated.retire(part, 0, [0] * len(part))
        for branch in part:
            truth.retire(*branch)
        assert registers_of(unit, program) == registers_of(truth, program)
