"""What a stop means: a step that retired, a handler's first instruction, a signal of the program's own.

Source: arch/x86/kernel/traps.c and signal.c, kernel/ptrace.c of Linux 6.
"""

import signal
import struct
from typing import TYPE_CHECKING

from branchmon.events import BranchKind
from branchmon.sources import decode, ptrace
from branchmon.sources.decode import (
    INT1,
    INT3,
    INT80,
    INVALID,
    IRET,
    OWN_NEXT,
    POPF,
    PUSHF,
    REP_STRING,
    SHADOW,
    SYSCALL,
    TRUNCATED,
    Op,
)
from branchmon.sources.ptrace import (
    HANDLER_ENTRY,
    MASK64,
    OFFSET,
    SI_KERNEL,
    TRAP_BRKPT,
    TRAP_TRACE,
)
from branchmon.sources.step import calls, trapmask
from branchmon.sources.step.thread import Mode

if TYPE_CHECKING:
    from branchmon.sources.step.loop import Stepper
    from branchmon.sources.step.thread import Thread

_TRAP_FLAG = 0x100
_SI_TKILL = -6


def interrupted(stepper: "Stepper", thread: "Thread") -> None:
    """EVENT_STOP: our PTRACE_INTERRUPT, a new task's first stop, a group-stop or its end."""
    regs = ptrace.get_regs(thread.tid, stepper.regs)
    thread.rip = regs.rip
    thread.in_call = False
    thread.restarting = regs.orig_rax != MASK64 and regs.rax in calls.RESTARTS
    if thread.trap_held is not None and not thread.trap_blocked:
        ptrace.send_signal(thread.pid, thread.tid, signal.SIGTRAP)  # delivered with the siginfo that is held


def trapped(stepper: "Stepper", thread: "Thread", was: int) -> None:
    """SIGTRAP: ours or the program's own."""
    info = stepper.siginfo(thread)
    code = ptrace.siginfo_code(info)
    rip = stepper.rip(thread)
    op = thread.op
    if code == HANDLER_ENTRY:
        entered_handler(stepper, thread)
        return
    if code == _SI_TKILL and thread.trap_held is not None and not thread.trap_blocked:
        _deliver_held(stepper, thread)
        return
    if code == TRAP_BRKPT and thread.restarting:
        calls.stepped_over(stepper, thread, rip)
        thread.rip = rip
        return
    if op is not None and (was == Mode.STEP or was == Mode.CALL):
        if code == TRAP_TRACE and was == Mode.STEP:
            own = thread.own_trap_flag
            source, thread.rip = thread.rip, rip
            retired(stepper, thread, op, source, rip)
            if own and thread.clearing:
                thread.trap_held = info
            elif own or op.flags & INT1:
                _deliver(stepper, thread, signal.SIGTRAP)
            elif thread.trap_held is not None and not thread.trap_blocked:
                _deliver_held(stepper, thread)
            if op.flags & INT1:
                ptrace.set_siginfo(thread.tid, info[:8] + struct.pack("i", TRAP_BRKPT) + info[12:])
            return
        if code == TRAP_BRKPT and rip != thread.rip and op.flags & (SYSCALL | INT80):
            calls.stepped_over(stepper, thread, rip)
            thread.rip = rip
            return
        if rip == thread.rip + op.size and op.flags & (INT1 | INT3) and code in (SI_KERNEL, TRAP_BRKPT):
            source, thread.rip = thread.rip, rip
            stepper.ledger.far(thread, source, op.size, rip)
            _deliver(stepper, thread, signal.SIGTRAP)
            return
    thread.rip = rip
    if thread.trap_blocked and code <= 0:
        thread.trap_held = info  # somebody sent it; natively it would wait
        return
    _deliver(stepper, thread, signal.SIGTRAP)


def signalled(stepper: "Stepper", thread: "Thread", number: int, was: int) -> None:
    """A signal is about to be delivered: whatever was being executed has not retired, or says so by rip."""
    rip = stepper.rip(thread)
    if (
        was == Mode.CALL
        and not thread.in_call
        and not thread.restarting
        and thread.op is not None
        and rip != thread.rip
    ):
        # Dispatched to the program itself (prctl PR_SET_SYSCALL_USER_DISPATCH): no entry, no exit, but SIGSYS.
        stepper.ledger.far(thread, thread.rip, thread.op.size, rip)
    thread.rip = rip
    _deliver(stepper, thread, number)


def _deliver(stepper: "Stepper", thread: "Thread", number: int) -> None:
    thread.resume_signal = number
    if stepper.sink is not None:
        stepper.ledger.flush_sink(thread)
        stepper.sink.signalled(thread.task, number)


def _deliver_held(stepper: "Stepper", thread: "Thread") -> None:
    assert thread.trap_held is not None
    ptrace.set_siginfo(thread.tid, thread.trap_held)
    thread.trap_held = None
    stepper.review(thread)
    _deliver(stepper, thread, signal.SIGTRAP)


def entered_handler(stepper: "Stepper", thread: "Thread") -> None:
    """The task stands at the first instruction of a signal handler."""
    regs = ptrace.get_regs(thread.tid, stepper.regs)
    thread.rip = regs.rip
    thread.restarting = False
    thread.own_trap_flag = False
    if thread.trap_adopted:
        trapmask.entered_handler(thread, regs.rsp)
    stepper.review(thread)


# ---- a step that ended ---------------------------------------------------------------------------------------------


def retired(stepper: "Stepper", thread: "Thread", op: Op, source: int, rip: int) -> None:
    """One step from `source` to `rip` ended: tell what retired in it."""
    flags = op.flags
    ledger = stepper.ledger
    if flags & REP_STRING and rip == source:
        return  # one iteration
    if flags & SHADOW and rip != source + op.size:
        ledger.plain(thread)
        following = thread.space.ops.get(source + op.size) or thread.space.op(source + op.size)
        retired(stepper, thread, following, source + op.size, rip)
        return
    if flags & OWN_NEXT:
        _retire_undecided(stepper, thread, op, source, rip)
    elif op.kind:
        ledger.branch(thread, op, source, rip)
    else:
        ledger.plain(thread)
        if flags & (INVALID | TRUNCATED):
            code = thread.space.read(source, decode.LONGEST).hex(" ")
            stepper.warn(f"an instruction at {source:#x} is unknown to the decoder ({code}): counted as no branch")
    if flags & PUSHF and not thread.own_trap_flag:
        stack = ptrace.peek_user(thread.tid, OFFSET["rsp"])
        thread.space.set_bits(stack + 1, _TRAP_FLAG >> 8, to=False)
    elif flags & (POPF | IRET):
        thread.own_trap_flag = bool(ptrace.peek_user(thread.tid, OFFSET["eflags"]) & _TRAP_FLAG)
        thread.clearing = not thread.own_trap_flag
        stepper.review(thread)


def _retire_undecided(stepper: "Stepper", thread: "Thread", op: Op, source: int, rip: int) -> None:
    regs = ptrace.get_regs(thread.tid, stepper.regs)
    code = thread.space.read(source, op.size)
    taken = len(code) == op.size and decode.taken(code, regs.eflags, regs.rcx)
    stepper.ledger.retire(thread, int(BranchKind.CONDITIONAL), int(taken), source, op.size, rip)
