"""The unit by hand: short sequences whose outcome was worked out from SPEC section 1 on paper."""

import pytest

from branchmon.device.unit import Unit
from branchmon.events import BranchKind

RETURN, CALL, FAR, JUMP = BranchKind.RETURN, BranchKind.CALL, BranchKind.FAR, BranchKind.JUMP
INDIRECT = BranchKind.INDIRECT_JUMP
CTRL, STATUS, CONFIG_0, CONFIG_1 = 0x350, 0x351, 0x354, 0x355
RETS, CALL_RET, RET_MISP, BRANCH_MISP, INDIRECT_MISP, FAR_BRANCH = range(6)
LBR, AND = 1 << 2, 1 << 26


def config(event: int, threshold: int, *, consecutive: bool = False) -> int:
    return 1 | event << 1 | threshold << 8 | consecutive << 15


def unit(*configs: int, window: int = 1023, of: int = 0, control: int = 0, strict: bool = False) -> Unit:
    made = Unit(strict=strict)
    for register, value in zip((CONFIG_0, CONFIG_1), configs, strict=False):
        made.wrmsr(register, value)
    made.wrmsr(CTRL, 3 | window << 8 | of << 24 | control)
    made.trips = []  # type: ignore[attr-defined]
    made.pmi = lambda u: made.trips.append((u.ip, u.rdmsr(STATUS)))  # type: ignore[attr-defined]
    return made


def feed(u: Unit, *kinds: BranchKind, gap: int = 0, source: int = 0x1000, target: int = 0x2000) -> None:
    for i, kind in enumerate(kinds):
        u.retire(gap, kind, 1, source + 16 * i, 5, target)


def status(u: Unit) -> dict[str, int]:
    value = u.rdmsr(STATUS)
    return {
        "event": value & 1, "lbrs": value >> 1 & 1, "hits": value >> 8 & 3, "window": value >> 16 & 1023,
        "count0": value >> 32 & 255, "count1": value >> 40 & 255,
    }  # fmt: skip


def test_the_documents_example():
    u = unit(config(RETS, 3), window=20)
    feed(u, RETURN, RETURN, RETURN, gap=2)
    assert u.trips == [(0x1020, 0x300090101)]


def test_counting_comes_before_the_windows_end():
    u = unit(config(RETS, 2), window=2)
    feed(u, RETURN, RETURN)  # the second one is the window's last instruction: it counts, and trips
    assert status(u) == {"event": 1, "lbrs": 0, "hits": 1, "window": 2, "count0": 2, "count1": 0}


def test_a_window_is_placed_and_does_not_slide():
    u = unit(config(RETS, 3), window=4)
    feed(u, JUMP, JUMP, RETURN, RETURN, RETURN, RETURN)  # two in the first window, two in the next
    assert not u.trips and status(u)["count0"] == 2 and status(u)["window"] == 2


@pytest.mark.parametrize("size", [0, 1])
def test_a_window_of_size_0_or_1_is_cleared_after_every_instruction(size):
    u = unit(config(RETS, 2), window=size)
    feed(u, RETURN, RETURN, RETURN)
    assert not u.trips and status(u)["count0"] == 0 and status(u)["window"] == 0


@pytest.mark.parametrize(("of", "expected"), [(0, 10), (1, 5), (2, 2), (3, 1)])
def test_what_the_window_counts(of, expected):
    u = unit(config(RETS, 100), of=of)
    feed(u, RETURN, CALL, INDIRECT, RETURN, FAR, gap=1)
    assert status(u)["window"] == expected


def test_nothing_moves_while_event_is_set_and_status_starts_afresh():
    u = unit(config(RETS, 1))
    feed(u, RETURN)
    before = u.rdmsr(STATUS)
    feed(u, RETURN, RETURN, FAR, gap=3)
    assert u.rdmsr(STATUS) == before and len(u.trips) == 1
    u.wrmsr(STATUS, 0)
    assert status(u) == dict.fromkeys(("event", "lbrs", "hits", "window", "count0", "count1"), 0)
    feed(u, RETURN)
    assert len(u.trips) == 2


def test_without_enexcept_event_is_set_in_silence():
    u = unit(config(RETS, 1))
    u.wrmsr(CTRL, 1 | 1023 << 8)
    feed(u, RETURN)
    assert status(u)["event"] == 1 and not u.trips


def test_hits_stay_when_the_count_is_cleared():
    u = unit(config(RETS, 1), config(FAR_BRANCH, 2), window=1, control=AND)
    feed(u, RETURN)  # one of two: no trip; the window's end clears the count, not the hit
    assert status(u) == {"event": 0, "lbrs": 0, "hits": 1, "window": 0, "count0": 0, "count1": 0}


def test_all_must_meet_at_one_moment_in_and_mode():
    u = unit(config(RETS, 2), config(FAR_BRANCH, 1), window=100, control=AND)
    feed(u, RETURN, RETURN)
    assert not u.trips
    feed(u, FAR)
    assert len(u.trips) == 1 and status(u)["hits"] == 3


def test_any_will_do_without_it():
    u = unit(config(RETS, 100), config(FAR_BRANCH, 1))
    feed(u, RETURN, FAR)
    assert status(u)["hits"] == 2 and status(u)["count0"] == 1


def test_the_bias_is_signed_and_saturates():
    u = unit(config(CALL_RET, 127), window=1023)
    feed(u, *[CALL] * 130)
    assert status(u)["count0"] == 0x80  # -128
    feed(u, RETURN)
    assert status(u)["count0"] == 0x81  # -127
    u.wrmsr(STATUS, 126 << 32)
    feed(u, RETURN)
    assert len(u.trips) == 1 and status(u)["count0"] == 127


def test_a_rising_count_saturates():
    u = unit(config(RETS, 127))
    u.wrmsr(CONFIG_0, config(RETS, 127) & ~1)
    u.wrmsr(CTRL, 1 | 1023 << 8)
    u.wrmsr(STATUS, 254 << 32)
    u.wrmsr(CONFIG_0, config(RETS, 127))
    feed(u, RETURN)
    assert status(u)["count0"] == 255
    u.wrmsr(STATUS, 255 << 32)
    feed(u, RETURN)
    assert status(u)["count0"] == 255


def test_a_threshold_of_0_trips_at_any_instruction_and_of_a_bias_when_not_negative():
    u = unit(config(RETS, 0))
    u.retire_plain(1)
    assert len(u.trips) == 1
    bias = unit(config(CALL_RET, 0))
    feed(bias, CALL, CALL, RETURN)
    assert not bias.trips
    feed(bias, RETURN)
    assert len(bias.trips) == 1


def test_consecutive_mispredictions_outlive_windows_and_end_with_a_right_one():
    u = unit(config(INDIRECT_MISP, 3, consecutive=True), window=1)
    feed(u, INDIRECT, target=0x5000)
    feed(u, INDIRECT, source=0x8000, target=0x6000)
    assert status(u)["count0"] == 2  # two windows ended meanwhile
    feed(u, RETURN, CALL)  # not its class
    assert status(u)["count0"] == 2
    u = unit(config(RET_MISP, 3, consecutive=True))
    feed(u, RETURN, RETURN)  # no call before: mispredicted
    assert status(u)["count0"] == 2
    u.retire(0, CALL, 1, 0x3000, 5, 0x4000)
    u.retire(0, RETURN, 1, 0x4000, 1, 0x3005)  # predicted
    assert status(u)["count0"] == 0


def test_strict_mode_refuses_small_thresholds():
    for threshold in (0, 1):
        with pytest.raises(Exception, match="CntrThreshold below 2"):
            unit(config(RETS, threshold), strict=True)
    unit(config(RETS, 2), strict=True)


def test_last_branches_freeze_at_a_trip():
    u = unit(config(RETS, 2), control=LBR)
    for i in range(40):
        u.retire(0, JUMP, 1, i, 2, 0x9000 + i)
    u.retire(0, BranchKind.CONDITIONAL, 0, 50, 2, 0x9999)  # not taken: no record
    feed(u, RETURN, RETURN)
    assert status(u)["lbrs"] == 1
    records = u.lbr.read()
    assert len(records) == 32 and records[0].source == 10 and [r.source for r in records[-2:]] == [0x1000, 0x1010]
    feed(u, JUMP)
    assert u.lbr.read() == records
    u.wrmsr(STATUS, 0)
    feed(u, JUMP, source=0x7000)
    assert u.lbr.read()[-1].source == 0x7000
