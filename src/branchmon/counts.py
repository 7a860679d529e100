"""What was counted, whether live or replayed from a trace: the numbers that reports show."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from branchmon.device.unit import INSTRUCTIONS, MISPREDICTED, NOT_TAKEN
from branchmon.events import BranchKind


@dataclass
class EventCount:
    """One event's count, over all tasks or of one.

    :ivar name: as the user asked for it.
    :ivar trips: how often the unit tripped for it.
    :ivar enabled_ns: task time it was enabled, nanoseconds; over many tasks, the sum. 0: never enabled, so not counted.
    :ivar running_ns: task time it was on a counter.
    :ivar highest: the highest count that a window reached, trips included.
    """

    name: str
    trips: int = 0
    enabled_ns: int = 0
    running_ns: int = 0
    highest: int = 0

    def since(self, before: "EventCount") -> "EventCount":
        """What was added after `before`; `highest` stays that of the whole time."""
        return EventCount(
            self.name,
            self.trips - before.trips,
            self.enabled_ns - before.enabled_ns,
            self.running_ns - before.running_ns,
            self.highest,
        )


@dataclass
class TaskCount:
    """The events of one task alone, those of tasks that it made not included."""

    tid: int
    pid: int
    comm: str
    events: list[EventCount] = field(default_factory=list)


@dataclass
class Totals:
    """What retired while monitoring was on, over all tasks.

    :ivar branches: by kind, all retired, taken or not; PLAIN is not in it.
    :ivar mispredicted: by the predictor model; only if it ran for every task (``Tasks.always_predict``).
    :ivar windows: windows that ended without a trip.
    """

    instructions: int = 0
    branches: dict[BranchKind, int] = field(default_factory=dict)
    not_taken: int = 0
    mispredicted: int = 0
    windows: int = 0

    @classmethod
    def of(cls, totals: Sequence[int], windows: int) -> "Totals":
        """From ``Unit.totals`` (:meth:`branchmon.driver.tasks.Tasks.totals`) and the number of windows."""
        kinds: dict[BranchKind, int] = {kind: totals[kind] for kind in BranchKind if kind != BranchKind.PLAIN}
        return cls(totals[INSTRUCTIONS], kinds, totals[NOT_TAKEN], totals[MISPREDICTED], windows)

    @property
    def all_branches(self) -> int:
        """Branches of every kind."""
        return sum(self.branches.values())

    @property
    def near_calls(self) -> int:
        """Near calls, direct and indirect."""
        return self._sum(BranchKind.CALL, BranchKind.INDIRECT_CALL)

    @property
    def indirect_branches(self) -> int:
        """Near indirect jumps and calls; returns are not among them."""
        return self._sum(BranchKind.INDIRECT_JUMP, BranchKind.INDIRECT_CALL)

    def kind(self, kind: BranchKind) -> int:
        """Branches of one kind."""
        return self.branches.get(kind, 0)

    def named(self) -> dict[str, int]:
        """The totals by their names in output.

        ``near_calls`` has the indirect ones in it; ``indirect_branches`` are near indirect jumps and calls.
        """
        return {
            "instructions": self.instructions,
            "branches": self.all_branches,
            "near_returns": self.kind(BranchKind.RETURN),
            "near_calls": self.near_calls,
            "indirect_branches": self.indirect_branches,
            "far_branches": self.kind(BranchKind.FAR),
            "mispredicted": self.mispredicted,
        }

    def _sum(self, *kinds: BranchKind) -> int:
        return sum(self.kind(kind) for kind in kinds)


@dataclass
class CountResult:
    """The outcome of one run, or of one replay.

    :ivar events: in the order they were asked for.
    :ivar tasks: by task, in the order they started; only if asked for.
    :ivar elapsed: seconds of wall time.
    :ivar user: CPU seconds in user mode of the launched program and its waited-for children; None: none was launched.
    :ivar status: the launched program's wait status; None if it still runs or none was launched.
    :ivar warnings: what could not be counted exactly, for the user.
    """

    events: list[EventCount]
    totals: Totals
    tasks: list[TaskCount] = field(default_factory=list)
    elapsed: float = 0.0
    user: float | None = None
    system: float | None = None
    status: int | None = None
    warnings: list[str] = field(default_factory=list)
