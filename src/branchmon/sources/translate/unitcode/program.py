"""What the generated unit must do: the shape of the code that a unit's settings need."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from branchmon.device import counters as c
from branchmon.device import unit as u
from branchmon.device.unit import Unit
from branchmon.events import BmEvent, BranchKind, WindowClass

if TYPE_CHECKING:
    from branchmon.sources.translate.unitcode.state import Stored

Lanes = tuple[int, int, int, int]

BRANCHES = frozenset(BranchKind) - {BranchKind.PLAIN}
CALLS = frozenset({BranchKind.CALL, BranchKind.INDIRECT_CALL})
INDIRECTS = frozenset({BranchKind.INDIRECT_JUMP, BranchKind.INDIRECT_CALL})
RETURNS = frozenset({BranchKind.RETURN})
PREDICTED = frozenset({BranchKind.CONDITIONAL, BranchKind.RETURN}) | INDIRECTS
"""Kinds whose prediction can be wrong."""


class Effect(Enum):
    """What a branch of some kind does to a counter."""

    NONE = 0
    UP = 1
    BIAS_UP = 2
    BIAS_DOWN = 3
    JUDGED = 4
    """One up if it was mispredicted; else, in consecutive mode, back to 0."""
    RESET = 5
    """Back to 0: never mispredicted, in consecutive mode."""


class Family(Enum):
    """A part of the predictor that can run without the others."""

    RETURNS = "return stack"
    TARGETS = "target cache"
    DIRECTIONS = "direction predictor"


ALL_FAMILIES = frozenset(Family)
_NEEDS = {
    BmEvent.RET_MISP: frozenset({Family.RETURNS}),
    BmEvent.INDIRECT_BRANCH_MISP: frozenset({Family.TARGETS}),
    BmEvent.BRANCH_MISP: ALL_FAMILIES,
}


class Counter(NamedTuple):
    """An enabled counter: its event, and whether it counts consecutive mispredictions."""

    event: BmEvent
    consecutive: bool

    @property
    def clears_with_window(self) -> bool:
        """The end of a window sets it to 0."""
        return not self.consecutive or self.event not in _NEEDS

    def effect(self, kind: BranchKind) -> Effect:
        """What a branch of this kind does to the count (:func:`branchmon.device.counters.retire`)."""
        if self.event == BmEvent.RETS:
            return Effect.UP if kind == BranchKind.RETURN else Effect.NONE
        if self.event == BmEvent.FAR_BRANCH:
            return Effect.UP if kind == BranchKind.FAR else Effect.NONE
        if self.event == BmEvent.CALL_RET:
            if kind == BranchKind.RETURN:
                return Effect.BIAS_UP
            return Effect.BIAS_DOWN if kind in CALLS else Effect.NONE
        own = {
            BmEvent.RET_MISP: RETURNS,
            BmEvent.INDIRECT_BRANCH_MISP: INDIRECTS,
            BmEvent.BRANCH_MISP: BRANCHES - {BranchKind.FAR},
        }[self.event]
        if kind not in own:
            return Effect.NONE
        if kind in PREDICTED:
            return Effect.JUDGED
        return Effect.RESET if self.consecutive else Effect.NONE


@dataclass(frozen=True)
class Program:
    """The shape of a unit's code; see the package's documentation.

    :ivar counters: the enabled ones.
    :ivar window: what the window counts; one of size 0 ends with every instruction, as one of a single instruction.
    :ivar and_mode: both counters are enabled, and trip only together.
    :ivar families: the parts of the predictor that run.
    :ivar lbr: last branches are recorded.
    :ivar totals: every one of ``Unit.totals`` is wanted.
    :ivar recording: every branch goes to the thread's ring.
    :ivar vector: the lanes live in ymm31; else in memory.
    """

    counters: tuple[Counter | None, Counter | None]
    window: WindowClass
    and_mode: bool
    families: frozenset[Family]
    lbr: bool
    totals: bool
    recording: bool
    vector: bool

    @classmethod
    def of(cls, unit: Unit, *, totals: bool = False, recording: bool = False, vector: bool = True) -> "Program":
        """The program for a unit as it is programmed now."""
        s = unit.state
        monitored = unit.monitoring
        counters = [
            Counter(BmEvent(s[base + c.SELECT]), bool(s[base + c.CONSECUTIVE]))
            if monitored and s[base + c.ENABLED]
            else None
            for base in c.COUNTERS
        ]
        families: frozenset[Family] = frozenset()
        for counter in counters:
            if counter is not None:
                families |= _NEEDS.get(counter.event, frozenset())
        lbr = monitored and unit.recording_lbr
        if monitored and (unit.always_predict or lbr):
            families = ALL_FAMILIES
        return cls(
            counters=(counters[0], counters[1]),
            window=WindowClass(s[c.WINDOW_SELECT]) if s[c.WINDOW_SIZE] and monitored else WindowClass.INSTRUCTIONS,
            and_mode=bool(s[c.AND_MODE]) and all(counters),
            families=families,
            lbr=lbr,
            totals=totals and monitored,
            recording=recording and monitored,
            vector=vector,
        )

    @staticmethod
    def refusal(unit: Unit) -> str | None:
        """Why this unit cannot be executed by the program itself; None if it can."""
        if unit.monitoring and unit.trips_between_branches:
            return "a threshold of 0 can trip at instructions that are no branches"
        return None

    @staticmethod
    def unsettled(unit: Unit) -> bool:
        """The next instruction must be stepped: a register write left something that any instruction will change."""
        s = unit.state
        if not unit.monitoring or s[c.EVENT]:
            return False
        if s[c.WINDOW] >= max(1, s[c.WINDOW_SIZE]):
            return True
        enabled = [base for base in c.COUNTERS if s[base + c.ENABLED]]
        met = [base for base in enabled if s[base + c.COUNT] >= s[base + c.THRESHOLD]]
        if met and (not s[c.AND_MODE] or len(met) == len(enabled)):
            return True
        return any(not s[base + c.HIT] for base in met) or any(
            s[base + c.COUNT] > s[base + c.HIGHEST] for base in enabled
        )

    # ---- what the engine asks --------------------------------------------------------------------------------------

    @property
    def monitored(self) -> bool:
        """Anything is counted at all."""
        return any(self.counters)

    @cached_property
    def points(self) -> frozenset[BranchKind]:
        """The kinds of branches that are event points."""
        if not self.monitored:
            return frozenset()
        return frozenset(kind for kind in BRANCHES if self._is_point(kind))

    def _is_point(self, kind: BranchKind) -> bool:
        return self.lbr or self.recording or self.predicts(kind) or self.moves_state(kind) or kind in self.kept_totals

    def block_increment(self, instructions: int, kind: BranchKind) -> Lanes:
        """What a block adds to the lanes: `instructions` include the branch of this kind (or PLAIN) that ends it."""
        if not self.monitored:
            return (0, 0, 0, 0)
        conditional, jump, call = (
            int(kind == which) for which in (BranchKind.CONDITIONAL, BranchKind.JUMP, BranchKind.CALL)
        )
        if not self.vector and not self.totals:
            conditional = jump = call = 0
        if self.window == WindowClass.BRANCHES:
            last = 0 if self.lane_for_not_taken else jump
            return (-int(kind != BranchKind.PLAIN), instructions, conditional, last)
        return (-instructions, conditional, jump, 0 if self.lane_for_not_taken else call)

    @property
    def fallthrough_increment(self) -> Lanes | None:
        """What a conditional branch that is not taken adds to the lanes."""
        return (0, 0, 0, 1) if self.lane_for_not_taken else None

    @cached_property
    def exact_totals(self) -> frozenset[int]:
        """The indices of ``Unit.totals`` that :meth:`store` keeps right."""
        if not self.monitored:
            return frozenset()
        if self.totals:
            exact = set(range(u.TOTALS_SIZE)) - {u.MISPREDICTED}
        else:
            exact = {u.INSTRUCTIONS}
            if self.vector:
                exact |= {BranchKind.CONDITIONAL, BranchKind.JUMP}
                if self.window != WindowClass.BRANCHES:
                    exact.add(BranchKind.CALL)
        if self.families in (ALL_FAMILIES, frozenset()):  # without any, none are counted, here or there
            exact.add(u.MISPREDICTED)
        return frozenset(exact)

    # ---- what the generator asks -----------------------------------------------------------------------------------

    @property
    def lane_window(self) -> bool:
        """Lane 0 counts down the window."""
        return self.window in (WindowClass.INSTRUCTIONS, WindowClass.BRANCHES)

    @cached_property
    def lane_for_not_taken(self) -> bool:
        """The last lane counts conditionals that are not taken, because they are no points."""
        return self.totals and not (
            self.lbr
            or self.recording
            or self.predicts(BranchKind.CONDITIONAL)
            or self.moves_state(BranchKind.CONDITIONAL)
        )

    @cached_property
    def kept_totals(self) -> frozenset[BranchKind]:
        """The kinds whose totals are counted in memory, at their points."""
        if not self.totals:
            return frozenset()
        kept = RETURNS | INDIRECTS | {BranchKind.FAR}
        return kept | {BranchKind.CALL} if self.lane_for_not_taken else kept

    def effects(self, kind: BranchKind) -> tuple[Effect, Effect]:
        """What a branch of this kind does to each counter."""
        first, second = (Effect.NONE if each is None else each.effect(kind) for each in self.counters)
        return first, second

    def moves_counts(self, kind: BranchKind) -> bool:
        """A branch of this kind can change a count."""
        return any(effect != Effect.NONE for effect in self.effects(kind))

    def is_window_unit(self, kind: BranchKind) -> bool:
        """A branch of this kind is counted by a window that is not counted in lane 0."""
        return (self.window == WindowClass.RETURNS and kind in RETURNS) or (
            self.window == WindowClass.INDIRECT_BRANCHES and kind in INDIRECTS
        )

    def moves_state(self, kind: BranchKind) -> bool:
        """A branch of this kind can change a count or a window that lane 0 does not count."""
        return self.monitored and (self.moves_counts(kind) or self.is_window_unit(kind))

    def predicts(self, kind: BranchKind) -> bool:
        """A branch of this kind is predicted, or teaches the predictor."""
        return (
            (Family.DIRECTIONS in self.families and kind == BranchKind.CONDITIONAL)
            or (Family.RETURNS in self.families and kind in RETURNS | CALLS)
            or (Family.TARGETS in self.families and kind in INDIRECTS)
        )

    # ---- a thread's block ------------------------------------------------------------------------------------------

    def load(
        self, unit: Unit, *, stops: bool, exit_hook: int = 0, ring: tuple[int, int] = (0, 0), gap: int = 0
    ) -> bytes:
        """The block for a unit: see :func:`branchmon.sources.translate.unitcode.state.load`."""
        from branchmon.sources.translate.unitcode import state

        return state.load(self, unit, stops=stops, exit_hook=exit_hook, ring=ring, gap=gap)

    def idle(self) -> bytes:
        """A block for a thread that is not monitored but runs this program's code."""
        from branchmon.sources.translate.unitcode import state

        return state.idle(self)

    def store(self, block: bytes, unit: Unit, lanes: bytes | None = None) -> "Stored":
        """Bring a unit up to date: see :func:`branchmon.sources.translate.unitcode.state.store`."""
        from branchmon.sources.translate.unitcode import state

        return state.store(self, block, unit, lanes)
