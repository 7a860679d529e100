"""One branch monitoring unit: its registers as software sees them, fed with retired instructions."""

from collections.abc import Callable, MutableSequence
from copy import copy

from branchmon.device import counters as c
from branchmon.device.counters import COUNTERS, advance, new_state, retire
from branchmon.device.lbr import LbrStack
from branchmon.device.predictor import forget, new_predictor, predict
from branchmon.device.registers import (
    CONTROL_MASK,
    COUNTER_CONFIG_MASK,
    MSR_BR_DETECT_COUNTER_CONFIG_0,
    MSR_BR_DETECT_COUNTER_CONFIG_1,
    MSR_BR_DETECT_CTRL,
    MSR_BR_DETECT_STATUS,
    STATUS_MASK,
    Control,
    CounterConfig,
    Field,
    GeneralProtection,
    Status,
)
from branchmon.events import BmEvent

_CONTROL_FIELDS = (
    (c.MONITORING, Control.MONITORING),
    (c.EXCEPT, Control.EXCEPT),
    (c.FREEZE_LBR, Control.FREEZE_LBR),
    (c.GUEST_DISABLE, Control.GUEST_DISABLE),
    (c.WINDOW_SIZE, Control.WINDOW_SIZE),
    (c.WINDOW_SELECT, Control.WINDOW_SELECT),
    (c.AND_MODE, Control.AND_MODE),
)
_CONFIG_FIELDS = (
    (c.ENABLED, CounterConfig.ENABLED),
    (c.SELECT, CounterConfig.SELECT),
    (c.THRESHOLD, CounterConfig.THRESHOLD),
    (c.CONSECUTIVE, CounterConfig.CONSECUTIVE),
)
_STATUS_FIELDS = ((c.EVENT, Status.EVENT), (c.LBRS_VALID, Status.LBRS_VALID), (c.WINDOW, Status.WINDOW))
_CONFIGS = {MSR_BR_DETECT_COUNTER_CONFIG_0: COUNTERS[0], MSR_BR_DETECT_COUNTER_CONFIG_1: COUNTERS[1]}
_PREDICTED = (BmEvent.RET_MISP, BmEvent.BRANCH_MISP, BmEvent.INDIRECT_BRANCH_MISP)

# Indices of Unit.totals: one a BranchKind value (PLAIN's is every instruction, branches included), then:
INSTRUCTIONS = 0
MISPREDICTED = 8
NOT_TAKEN = 9
TOTALS_SIZE = 10


class Unit:
    """The branch monitoring unit that one task sees.

    :param strict: a threshold below 2 is #GP, as the manual also says (SPEC section 1, reading 3).

    ``pmi`` is called at each trip while EnExcept is set: with the unit, at the instruction that tripped, before
    anything else retires. It is software's interrupt handler; until STATUS is cleared, nothing more is signalled.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.state: list[int] = new_state()
        """As laid out in :mod:`branchmon.device.counters`. Sources that count elsewhere write it before a trip."""
        self.predictor: MutableSequence[int] = new_predictor()
        self.lbr = LbrStack()
        self.always_lbr = False
        """Record last branches even when lbr_freeze is 0: set by who wants evidence."""
        self.always_predict = False
        """Run the predictor though no counter asks for it: set by who wants the total of mispredictions."""
        self.pmi: Callable[[Unit], None] | None = None
        self.totals: list[int] = [0] * TOTALS_SIZE
        """What retired while monitored: by BranchKind; [0] all instructions, [8] mispredicted, [9] not taken."""
        self.ip = 0
        """Address of the branch that retired last (that of a trip, when a branch tripped)."""
        self._predicts = False
        self._blind = False  # branches retired that the predictor did not see

    # ---- registers -------------------------------------------------------------------------------------------------

    def rdmsr(self, address: int) -> int:
        """Read a register: one of 350H, 351H, 354H, 355H; #GP for any other."""
        s = self.state
        if address == MSR_BR_DETECT_CTRL:
            return _join(s, 0, _CONTROL_FIELDS)
        if address == MSR_BR_DETECT_STATUS:
            value = _join(s, 0, _STATUS_FIELDS)
            for i, base in enumerate(COUNTERS):
                value |= Status.HIT[i].put(s[base + c.HIT]) | Status.COUNT[i].put(s[base + c.COUNT])
            return value
        if address in _CONFIGS:
            return _join(s, _CONFIGS[address], _CONFIG_FIELDS)
        raise GeneralProtection(address, None, "no such register")

    def wrmsr(self, address: int, value: int) -> None:
        """Write a register; on #GP nothing has changed.

        :raises GeneralProtection: no such register, a reserved bit set, an event above 5, or in strict mode a threshold
            below 2.
        """
        s = self.state
        if address == MSR_BR_DETECT_CTRL:
            _check_reserved(address, value, CONTROL_MASK)
            _split(s, 0, _CONTROL_FIELDS, value)
        elif address == MSR_BR_DETECT_STATUS:
            _check_reserved(address, value, STATUS_MASK)
            _split(s, 0, _STATUS_FIELDS, value)
            for i, base in enumerate(COUNTERS):
                s[base + c.HIT] = Status.HIT[i].get(value)
                s[base + c.COUNT] = _as_count(s[base + c.SELECT], Status.COUNT[i].get(value))
        elif address in _CONFIGS:
            _check_reserved(address, value, COUNTER_CONFIG_MASK)
            if CounterConfig.SELECT.get(value) > max(BmEvent):
                raise GeneralProtection(address, value, "CntrEvSel above 5")
            if self.strict and CounterConfig.THRESHOLD.get(value) < 2:
                raise GeneralProtection(address, value, "CntrThreshold below 2")
            base = _CONFIGS[address]
            _split(s, base, _CONFIG_FIELDS, value)
            s[base + c.COUNT] = _as_count(s[base + c.SELECT], s[base + c.COUNT] & 0xFF)
        else:
            raise GeneralProtection(address, value, "no such register")
        self._notice_prediction()

    # ---- what it is fed with ---------------------------------------------------------------------------------------

    @property
    def monitoring(self) -> bool:
        """EnMonitoring: retiring instructions have an effect."""
        return self.state[c.MONITORING] != 0

    @property
    def predicting(self) -> bool:
        """Somebody needs predictions: a counter of events 2-4, last-branch records, or ``always_predict``."""
        s = self.state
        return self.monitoring and (
            self.always_predict
            or self.recording_lbr
            or any(s[base + c.ENABLED] and s[base + c.SELECT] in _PREDICTED for base in COUNTERS)
        )

    @property
    def recording_lbr(self) -> bool:
        """Last branches are recorded: EnLBRFrz, or ``always_lbr``."""
        return self.always_lbr or self.state[c.FREEZE_LBR] != 0

    @property
    def trips_between_branches(self) -> bool:
        """An instruction that is no branch may trip: an enabled counter has threshold 0."""
        s = self.state
        return s[c.MONITORING] != 0 and any(s[base + c.ENABLED] and s[base + c.THRESHOLD] == 0 for base in COUNTERS)

    def retire_plain(self, instructions: int) -> None:
        """Retire so many instructions that are not branches, with every trip among them."""
        while instructions > 0 and self.monitoring:  # the interrupt handler may switch it off
            blocked = self.state[c.EVENT]
            retired = advance(self.state, instructions)
            self.totals[INSTRUCTIONS] += retired
            instructions -= retired
            if self.state[c.EVENT] and not blocked:
                self.trip()

    def retire(self, gap: int, kind: int, taken: int, source: int, size: int, target: int) -> None:
        """Retire `gap` plain instructions and then one branch: the fields of :class:`branchmon.events.Branch`."""
        if gap:
            self.retire_plain(gap)
        if not self.monitoring:
            self._blind = True
            return
        totals = self.totals
        totals[INSTRUCTIONS] += 1
        totals[kind] += 1
        if not taken:
            totals[NOT_TAKEN] += 1
        mispredicted = 0
        if not self._predicts:
            self._blind = True
        else:
            mispredicted = predict(self.predictor, kind, taken, source, size, target)
            totals[MISPREDICTED] += mispredicted
            if taken and self.recording_lbr and not self.state[c.LBRS_VALID]:
                self.lbr.record(source, target, mispredicted, kind)
        self.ip = source
        if retire(self.state, kind, mispredicted):
            self.trip()

    def executed(self) -> None:
        """The task executed a new program: registers stay, predictor and last branches start empty."""
        self.predictor = new_predictor()
        self.lbr.clear()
        self._blind = False

    def missed(self) -> None:
        """The task ran instructions that the unit was not shown: attach, or a time without monitoring."""
        self._blind = True
        if self._predicts:
            forget(self.predictor)

    def unpredicted(self) -> None:
        """Branches retired that the predictor was not shown, for sources that count elsewhere."""
        self._blind = True

    def inherit(self, parent: "Unit") -> None:
        """A new task starts with its maker's predictor; counts and last branches are its own."""
        self.predictor = copy(parent.predictor)
        self._blind = parent._blind

    def trip(self) -> None:
        """Freeze and signal a trip: `state` is as of it, with EVENT set. For sources that count elsewhere, too."""
        s = self.state
        if s[c.FREEZE_LBR]:
            s[c.LBRS_VALID] = 1
        if s[c.EXCEPT] and self.pmi is not None:
            self.pmi(self)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _notice_prediction(self) -> None:
        """Prediction switched on late knows nothing of the calls before: see :func:`predictor.forget`."""
        now = self.predicting
        if now and not self._predicts and self._blind:
            forget(self.predictor)
            self._blind = False
        self._predicts = now


def _join(state: list[int], base: int, fields: tuple[tuple[int, Field], ...]) -> int:
    value = 0
    for index, field in fields:
        value |= field.put(state[base + index])
    return value


def _split(state: list[int], base: int, fields: tuple[tuple[int, Field], ...], value: int) -> None:
    for index, field in fields:
        state[base + index] = field.get(value)


def _check_reserved(address: int, value: int, mask: int) -> None:
    if value & ~mask:
        raise GeneralProtection(address, value, f"reserved bits {value & ~mask:#x}")


def _as_count(event: int, raw: int) -> int:
    """The 8 bits of a count field as a number: signed for the bias."""
    return raw - 256 if event == BmEvent.CALL_RET and raw > 127 else raw
