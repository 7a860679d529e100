"""What the branch monitoring unit does when an instruction retires: the one meaning of the registers.

Everything faster (generated machine code, compiled replay) is tested against the two functions here. They are plain
Python over a flat sequence of integers, a ``list`` or an ``int64`` array, so that numba compiles the very same code
(:mod:`branchmon.device.compiled`).

Source: Intel SDM vol. 4, MSRs 350H-355H; SPEC section 1 and its numbered readings.
"""

from collections.abc import MutableSequence

from branchmon.device.registers import WINDOW_SIZE_MAX
from branchmon.events import BmEvent, BranchKind, WindowClass

# The unit's state, one integer a field. MSR_BR_DETECT_CTRL:
MONITORING = 0  # EnMonitoring
EXCEPT = 1  # EnExcept
FREEZE_LBR = 2  # EnLBRFrz
GUEST_DISABLE = 3  # DisableInGuest: kept, without effect in user mode
WINDOW_SIZE = 4
WINDOW_SELECT = 5  # WindowCntSel
AND_MODE = 6  # CntAndMode
# MSR_BR_DETECT_STATUS:
EVENT = 7
LBRS_VALID = 8
WINDOW = 9  # CountWindow
# Not in a register: windows that ended without a trip (for `stat -v`).
WINDOWS = 10
# Counter i stands at COUNTERS[i]; MSR_BR_DETECT_COUNTER_CONFIG_i and its part of STATUS, at these offsets:
COUNTER_0 = 11
COUNTER_1 = 18
COUNTERS = (COUNTER_0, COUNTER_1)
ENABLED = 0  # CntrEn
SELECT = 1  # CntrEvSel
THRESHOLD = 2
CONSECUTIVE = 3  # MispredEventCnt
COUNT = 4
HIT = 5  # CntrHit
HIGHEST = 6  # not in a register: the highest count seen (for `stat -v`)
STATE_SIZE = 25

SATURATION = 0xFF
BIAS_MAX, BIAS_MIN = 127, -128

# Plain integers: the enums' members are slow to read in Python and unknown to numba.
_PLAIN = int(BranchKind.PLAIN)
_CALL = int(BranchKind.CALL)
_RETURN = int(BranchKind.RETURN)
_INDIRECT_JUMP = int(BranchKind.INDIRECT_JUMP)
_INDIRECT_CALL = int(BranchKind.INDIRECT_CALL)
_FAR = int(BranchKind.FAR)
_RETS = int(BmEvent.RETS)
_CALL_RET = int(BmEvent.CALL_RET)
_RET_MISP = int(BmEvent.RET_MISP)
_BRANCH_MISP = int(BmEvent.BRANCH_MISP)
_INDIRECT_MISP = int(BmEvent.INDIRECT_BRANCH_MISP)
_FAR_BRANCH = int(BmEvent.FAR_BRANCH)
_BY_INSTRUCTIONS = int(WindowClass.INSTRUCTIONS)
_BY_BRANCHES = int(WindowClass.BRANCHES)
_BY_RETURNS = int(WindowClass.RETURNS)


def new_state() -> list[int]:
    """The unit's state after reset: every register 0."""
    return [0] * STATE_SIZE


def retire(s: MutableSequence[int], kind: int, mispredicted: int) -> int:
    """Retire one instruction; 1 if it trips the unit, else 0.

    :param s: the unit's state, changed in place.
    :param kind: a :class:`~branchmon.events.BranchKind` value.
    :param mispredicted: 1 if the branch was predicted wrongly, else 0.

    The order is that of SPEC section 1, reading 2: counters, window, hits, trip, end of window. After a trip (``EVENT``
    set) nothing moves until software clears ``EVENT``.
    """
    if s[MONITORING] == 0 or s[EVENT] != 0:
        return 0
    if kind != _PLAIN:
        for c in COUNTERS:
            if s[c + ENABLED] != 0:
                event = s[c + SELECT]
                count = s[c + COUNT]
                if event == _RETS:
                    if kind == _RETURN and count < SATURATION:
                        count += 1
                elif event == _CALL_RET:
                    if kind == _RETURN:
                        if count < BIAS_MAX:
                            count += 1
                    elif kind in (_CALL, _INDIRECT_CALL) and count > BIAS_MIN:
                        count -= 1
                elif event == _FAR_BRANCH:
                    if kind == _FAR and count < SATURATION:
                        count += 1
                else:
                    if event == _RET_MISP:
                        own = kind == _RETURN
                    elif event == _BRANCH_MISP:
                        own = kind != _FAR  # a far branch is not predicted
                    else:
                        own = kind in (_INDIRECT_JUMP, _INDIRECT_CALL)
                    if own:
                        if mispredicted != 0:
                            if count < SATURATION:
                                count += 1
                        elif s[c + CONSECUTIVE] != 0:
                            count = 0
                s[c + COUNT] = count
                if count > s[c + HIGHEST]:
                    s[c + HIGHEST] = count
    select = s[WINDOW_SELECT]
    if (
        select == _BY_INSTRUCTIONS
        or (select == _BY_BRANCHES and kind != _PLAIN)
        or (select == _BY_RETURNS and kind == _RETURN)
        or (select > _BY_RETURNS and kind in (_INDIRECT_JUMP, _INDIRECT_CALL))
    ):
        # The field has no more bits; it gets there only if software writes it.
        s[WINDOW] = min(s[WINDOW] + 1, WINDOW_SIZE_MAX)
    enabled = 0
    met = 0
    for c in COUNTERS:
        if s[c + ENABLED] != 0:
            enabled += 1
            if s[c + COUNT] >= s[c + THRESHOLD]:
                met += 1
                s[c + HIT] = 1
    if met > 0 and (s[AND_MODE] == 0 or met == enabled):
        s[EVENT] = 1
        return 1
    if s[WINDOW] >= s[WINDOW_SIZE]:
        s[WINDOW] = 0
        s[WINDOWS] += 1
        for c in COUNTERS:
            clears_with_window = s[c + CONSECUTIVE] == 0 or s[c + SELECT] < _RET_MISP or s[c + SELECT] > _INDIRECT_MISP
            if clears_with_window:
                s[c + COUNT] = 0
    return 0


def advance(s: MutableSequence[int], instructions: int) -> int:
    """Retire up to `instructions` that are not branches; how many retired before, and with, the first trip.

    Equal to so many calls of :func:`retire` with kind 0, in constant time: between two branches the counts move only
    where a window ends. If ``EVENT`` became set, the last one counted in the result tripped; else the result is
    `instructions`.
    """
    if instructions <= 0:
        return 0
    if s[MONITORING] == 0 or s[EVENT] != 0:
        return instructions
    # The first instruction can trip, by a count that a register write left at its threshold.
    windows = s[WINDOWS]
    if retire(s, _PLAIN, 0) != 0 or instructions == 1:
        return 1
    done = 1
    if s[WINDOWS] == windows:
        # Counts stay as they are to the window's end, so no trip before it.
        if s[WINDOW_SELECT] != _BY_INSTRUCTIONS:
            return instructions
        to_end = s[WINDOW_SIZE] - s[WINDOW]
        if instructions - done < to_end:
            s[WINDOW] += instructions - done
            return instructions
        s[WINDOW] += to_end - 1
        retire(s, _PLAIN, 0)
        done += to_end
        if done == instructions:
            return done
    # A window has just ended and the counts are clear. One more instruction decides whether clear counts trip.
    if retire(s, _PLAIN, 0) != 0:
        return done + 1
    rest = instructions - done - 1
    if s[WINDOW_SELECT] != _BY_INSTRUCTIONS:
        if s[WINDOW_SIZE] == 0:
            s[WINDOWS] += rest
        return instructions
    size = max(s[WINDOW_SIZE], 1)  # 0 clears after every instruction, and so does 1
    moved = s[WINDOW] + rest
    s[WINDOWS] += moved // size
    s[WINDOW] = moved % size
    return instructions
