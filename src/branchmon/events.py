"""The words every part shares: kinds of branches, the retired-branch record, the six branch-monitoring events."""

from enum import IntEnum
from typing import NamedTuple


class BranchKind(IntEnum):
    """What a retired instruction is to the branch monitoring unit.

    The values are part of the trace format: they never change meaning.
    """

    PLAIN = 0
    """Not a branch."""
    CONDITIONAL = 1
    """``jcc``, ``loop``, ``jrcxz``: taken or not."""
    JUMP = 2
    """Direct near ``jmp``."""
    CALL = 3
    """Direct near ``call``."""
    RETURN = 4
    """Near ``ret``."""
    INDIRECT_JUMP = 5
    """Near ``jmp`` through a register or memory."""
    INDIRECT_CALL = 6
    """Near ``call`` through a register or memory."""
    FAR = 7
    """Far branch: ``syscall``, ``sysenter``, ``int n``, ``int3``, ``int1``, ``into``, ``iret``, far ``call``, ``jmp``
    and ``ret``."""


class Branch(NamedTuple):
    """One retired branch instruction, taken or not, of one task.

    A stream of these is all that the device needs: what retired between two branches is a number.
    """

    gap: int
    """Instructions that retired since the task's last branch, this one not included (0 and up)."""
    kind: BranchKind
    taken: bool
    """True but for a ``CONDITIONAL`` that fell through."""
    source: int
    """Address of the branch instruction's first byte."""
    size: int
    """Length of the branch instruction in bytes (1-15); 0 where a recording does not tell."""
    target: int
    """Address of the instruction that the task executes next in user mode (for FAR usually source + size)."""


class BmEvent(IntEnum):
    """The six events of the unit, as ``CntrEvSel`` encodes them (SDM vol. 4, MSR 354H bits 7:1)."""

    RETS = 0
    CALL_RET = 1
    RET_MISP = 2
    BRANCH_MISP = 3
    INDIRECT_BRANCH_MISP = 4
    FAR_BRANCH = 5

    @property
    def perf_name(self) -> str:
        """The event's name under ``events/`` of the PMU, as perf spells it: ``rets``, ``call-ret``, …"""
        return self.name.lower().replace("_", "-")

    @property
    def meaning(self) -> str:
        """One line for people: what the event counts."""
        return EVENT_MEANINGS[self]


EVENT_MEANINGS: dict[BmEvent, str] = {
    BmEvent.RETS: "near returns",
    BmEvent.CALL_RET: "near returns minus near calls (signed)",
    BmEvent.RET_MISP: "mispredicted near returns",
    BmEvent.BRANCH_MISP: "all mispredicted branches",
    BmEvent.INDIRECT_BRANCH_MISP: "mispredicted near indirect jumps and calls",
    BmEvent.FAR_BRANCH: "far branches",
}

EVENTS_BY_NAME: dict[str, BmEvent] = {event.perf_name: event for event in BmEvent}


class WindowClass(IntEnum):
    """What the window counter counts, as ``WindowCntSel`` encodes it (SDM vol. 4, MSR 350H bits 25:24); all retired."""

    INSTRUCTIONS = 0
    BRANCHES = 1
    RETURNS = 2
    INDIRECT_BRANCHES = 3
