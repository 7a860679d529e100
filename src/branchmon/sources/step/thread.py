"""One traced task, as the stepper keeps it."""

from enum import IntEnum
from typing import TYPE_CHECKING

from branchmon.sources.decode import Op

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task
    from branchmon.sources.step.space import AddressSpace


class Mode(IntEnum):
    """Where a task stands, or how it was resumed last."""

    STOPPED = 0
    """In a ptrace-stop, to be resumed."""
    STEP = 1
    """Executing the one instruction at ``rip``."""
    CALL = 2
    """Running to the entry or the exit of the system call at ``rip``."""
    RUN = 3
    """Running freely, not monitored."""
    LISTEN = 4
    """In a group-stop."""
    NEW = 5
    """Its first stop is still to come."""
    INSIDE = 6
    """Executing translated code."""


class Thread:
    """A traced task: what it executes, what it has retired since the unit was told.

    :ivar mode: see :class:`Mode`.
    :ivar resume_signal: when STOPPED, what to resume it with.
    :ivar group_stop: when STOPPED, it is in a group-stop.
    :ivar rip: where it stands, or the instruction that it is executing.
    :ivar op: the instruction that it is executing.
    :ivar gap: plain instructions that it retired and the unit was not told of.
    :ivar sink_gap: plain instructions that the unit was told of but the sink was not.
    :ivar rows: branches that the sink was not told of.
    :ivar monitored: every instruction is to be counted.
    :ivar between: each plain instruction is told at once: it may trip.
    :ivar fast: monitored, and nothing unusual to be done at a step.
    :ivar foreign: it executes a program that cannot be stepped (32-bit): it runs freely.
    :ivar leaving: it is let go at its next stop.
    :ivar in_call: between the entry and the exit of a system call.
    :ivar call: that call's number, and its ``arguments``.
    :ivar new_mask: of ``rt_sigprocmask``, the mask it is given.
    :ivar clearing: the kernel takes a stepped popf's trap flag for the program's: it has to forget.
    :ivar executing: an exec whose ``syscall`` is not retired yet: where it goes on is not known.
    :ivar exiting: it executes nothing more.
    :ivar restarting: the kernel interrupted a system call and restarts it, unless a signal handler runs first.
    :ivar vforking: it waits in vfork for its child: it cannot be stopped.
    :ivar own_trap_flag: the program set the trap flag itself.
    :ivar trap_adopted: SIGTRAP is kept out of its mask: see :mod:`branchmon.sources.step.trapmask`.
    :ivar trap_blocked: the program believes SIGTRAP blocked.
    :ivar trap_held: siginfo of a SIGTRAP that waits for the program to unblock it.
    :ivar inside: it executes translated code, or stands in it: its registers mean nothing to the program.
    :ivar area: address of its area for translated code; 0 if it has none.
    :ivar ids: process and thread id as the program knows them.
    :ivar gs_base: while inside, the program's.
    :ivar step_next: its next instruction has to be stepped.
    :ivar step_only: nothing of it can be translated.
    :ivar retired_at: the ``syscall`` that has retired inside and not executed; 0 if there is none.
    :ivar swallow: a SIGSTOP of our own is still to come.
    :ivar fork_version: the version of its translated code when it entered the system call.
    :ivar lost: a wait status that came out of turn.
    """

    __slots__ = (
        "area",
        "arguments",
        "between",
        "call",
        "clearing",
        "executing",
        "exiting",
        "fast",
        "foreign",
        "fork_version",
        "gap",
        "group_stop",
        "gs_base",
        "ids",
        "in_call",
        "inside",
        "leaving",
        "lost",
        "mode",
        "monitored",
        "new_mask",
        "op",
        "own_trap_flag",
        "pid",
        "restarting",
        "resume_signal",
        "retired_at",
        "rip",
        "rows",
        "sink_gap",
        "space",
        "step_next",
        "step_only",
        "swallow",
        "task",
        "tid",
        "trap_adopted",
        "trap_blocked",
        "trap_held",
        "vforking",
    )

    def __init__(self, tid: int, pid: int, task: "Task", space: "AddressSpace") -> None:
        self.tid = tid
        self.pid = pid
        self.task = task
        self.space = space
        space.users += 1
        self.mode: int = Mode.NEW
        self.resume_signal = 0
        self.group_stop = False
        self.rip = 0
        self.op: Op | None = None
        self.gap = 0
        self.sink_gap = 0
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.monitored = False
        self.between = False
        self.fast = False
        self.foreign = False
        self.leaving = False
        self.in_call = False
        self.call = -1
        self.arguments: tuple[int, ...] = ()
        self.new_mask = 0
        self.clearing = False
        self.executing = False
        self.exiting = False
        self.restarting = False
        self.vforking = False
        self.own_trap_flag = False
        self.trap_adopted = False
        self.trap_blocked = False
        self.trap_held: bytes | None = None
        self.inside = False
        self.area = 0
        self.ids = (pid, tid)
        self.gs_base = 0
        self.step_next = False
        self.step_only = False
        self.retired_at = 0
        self.swallow = False
        self.lost: int | None = None
        self.fork_version = -1
