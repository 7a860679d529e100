"""The four registers bit by bit: what can be written reads back, what is reserved is #GP and changes nothing."""

import pytest

from branchmon.device.registers import GeneralProtection
from branchmon.device.unit import Unit

CTRL, STATUS, CONFIGS = 0x350, 0x351, (0x354, 0x355)
WRITABLE = {
    CTRL: {0, 1, 2, 3, *range(8, 18), 24, 25, 26},
    STATUS: {0, 1, 8, 9, *range(16, 26), *range(32, 48)},
    CONFIGS[0]: {0, *range(1, 4), *range(8, 16)},
    CONFIGS[1]: {0, *range(1, 4), *range(8, 16)},
}
RETURN = 4


@pytest.mark.parametrize("address", WRITABLE, ids=hex)
def test_every_bit(address: int) -> None:
    for bit in range(64):
        unit = Unit()
        if bit in WRITABLE[address]:
            unit.wrmsr(address, 1 << bit)
            assert unit.rdmsr(address) == 1 << bit
        else:
            with pytest.raises(GeneralProtection):
                unit.wrmsr(address, 1 << bit)
            assert unit.rdmsr(address) == 0
        for other in WRITABLE:
            assert other == address or unit.rdmsr(other) == 0


@pytest.mark.parametrize("event", range(128))
def test_events_above_five(event: int) -> None:
    unit = Unit()
    if event <= 5:
        unit.wrmsr(0x354, event << 1)
        assert unit.rdmsr(0x354) == event << 1
    else:
        with pytest.raises(GeneralProtection):
            unit.wrmsr(0x354, event << 1)


@pytest.mark.parametrize("address", [0, 0x34F, 0x352, 0x353, 0x356, 0x1D9])
def test_no_such_register(address: int) -> None:
    with pytest.raises(GeneralProtection):
        Unit().rdmsr(address)
    with pytest.raises(GeneralProtection):
        Unit().wrmsr(address, 0)


def test_strict_thresholds() -> None:
    unit = Unit(strict=True)
    for threshold in (0, 1):
        with pytest.raises(GeneralProtection):
            unit.wrmsr(0x354, 1 | threshold << 8)
    unit.wrmsr(0x354, 1 | 2 << 8)
    assert unit.rdmsr(0x354) == 1 | 2 << 8


def test_a_trip_freezes_until_software_clears_event() -> None:
    interrupts = []
    unit = Unit()
    unit.pmi = lambda tripped: interrupts.append(tripped.rdmsr(STATUS))
    unit.wrmsr(0x354, 1 | 0 << 1 | 2 << 8)
    unit.wrmsr(CTRL, 3 | 100 << 8)
    for _ in range(5):
        unit.retire(3, RETURN, 1, 0x1000, 1, 0x2000)
    frozen = 1 | 1 << 8 | 8 << 16 | 2 << 32
    assert interrupts == [frozen]
    assert unit.rdmsr(STATUS) == frozen
    unit.wrmsr(STATUS, 0)
    unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert unit.rdmsr(STATUS) == 1 << 16 | 1 << 32


def test_hits_are_sticky_and_counting_goes_on() -> None:
    unit = Unit()
    unit.wrmsr(0x354, 1 | 0 << 1 | 1 << 8)
    unit.wrmsr(0x355, 1 | 5 << 1 | 9 << 8)
    unit.wrmsr(CTRL, 3 | 100 << 8 | 1 << 26)
    for _ in range(3):
        unit.retire(0, RETURN, 1, 0x1000, 1, 0x2000)
    assert unit.rdmsr(STATUS) == 1 << 8 | 3 << 16 | 3 << 32


@pytest.mark.parametrize(("event", "kind", "end"), [(0, 4, 0xFF), (5, 7, 0xFF), (1, 4, 127), (1, 3, 0x80)])
def test_saturation(event: int, kind: int, end: int) -> None:
    unit = Unit()
    unit.wrmsr(0x354, 1 | event << 1 | 127 << 8)
    unit.wrmsr(0x355, 1 | (4 << 1) | 127 << 8)
    unit.wrmsr(CTRL, 3 | 1023 << 8 | 1 << 26)
    for _ in range(300):
        unit.retire(0, kind, 1, 0x1000, 5, 0x2000)
    assert unit.rdmsr(STATUS) >> 32 & 0xFF == end


def test_threshold_zero_of_a_bias_trips_while_it_is_not_negative() -> None:
    trips = []
    unit = Unit()
    unit.pmi = lambda tripped: (trips.append(tripped.rdmsr(STATUS)), tripped.wrmsr(STATUS, 0))
    unit.wrmsr(0x354, 1 | 1 << 1)
    unit.wrmsr(CTRL, 3 | 4 << 8)
    unit.retire(0, 3, 1, 0x1000, 5, 0x2000)
    unit.retire_plain(2)
    assert not trips
    unit.retire_plain(3)  # the window of four ends with the first: a bias of 0 trips at both others
    assert len(trips) == 2
