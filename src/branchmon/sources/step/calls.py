"""System calls of a stepped task: each one's ``syscall`` retires once, and some change what the stepper knows.

A ``syscall`` is not stepped over but run to its entry and to its exit (PTRACE_SYSCALL): so no trap flag gets into r11,
and no step's SIGTRAP meets a mask that the call has just changed.

A call that the kernel restarts without a signal handler in between (SIGCHLD ignored, SIGSTOP and SIGCONT, our own
PTRACE_INTERRUPT) retires once: natively most of these restarts would not happen. After a handler, the ``syscall``
that is executed again retires again.

Source: ``man 2 syscalls``; arch/x86/entry/syscalls/syscall_64.tbl; arch/x86/kernel/signal.c.
"""

from typing import TYPE_CHECKING

from branchmon.sources import ptrace
from branchmon.sources.decode import INT80
from branchmon.sources.ptrace import MASK64, OFFSET
from branchmon.sources.step import trapmask

if TYPE_CHECKING:
    from branchmon.sources.step.loop import Stepper
    from branchmon.sources.step.thread import Thread

MMAP, MPROTECT, MUNMAP, MREMAP, PKEY_MPROTECT = 9, 10, 11, 25, 329
SHMAT, SHMDT, REMAP_FILE_PAGES = 30, 67, 216
RT_SIGPROCMASK, RT_SIGRETURN = 14, 15
CLONE, FORK, VFORK, CLONE3, EXECVE, EXECVEAT = 56, 57, 58, 435, 59, 322
PTRACE, PROCESS_VM_WRITEV = 101, 311
CALL_32_BIT = -80
"""Stands for any ``int 0x80``: its numbers are others."""

CLONE_VM, CLONE_VFORK, CLONE_THREAD, CLONE_UNTRACED = 0x100, 0x4000, 0x10000, 0x00800000
RESTARTS = frozenset(MASK64 + 1 - code for code in (512, 513, 514, 516))
"""What rax holds when the kernel may restart a call: ERESTARTSYS and its kin."""

_PROT_EXEC, _SHM_EXEC = 4, 0o100000
_FRAME_RIP = 40 + 16 * 8  # of struct ucontext: uc_mcontext.gregs[REG_RIP]
_TRAP_FLAG = 0x100


def entered(stepper: "Stepper", thread: "Thread") -> None:
    """The task stands at the entry of a call: retire its instruction, unless the kernel restarts the call."""
    regs = ptrace.get_regs(thread.tid, stepper.regs)
    thread.in_call = True
    thread.fork_version = thread.space.code.version if thread.space.code is not None else -1
    if thread.restarting:
        thread.restarting = False
        return
    counted = thread.retired_at and thread.retired_at == thread.rip
    thread.arguments = (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9)
    thread.call = call = regs.orig_rax if thread.op is None or not thread.op.flags & INT80 else CALL_32_BIT
    target = regs.rip
    if call == RT_SIGRETURN:
        target = thread.space.read_u64(regs.rsp + _FRAME_RIP) or target
    elif call in (EXECVE, EXECVEAT):
        thread.executing = True
        return
    elif call == RT_SIGPROCMASK:
        thread.new_mask = thread.space.read_u64(regs.rsi) if regs.rsi else 0
    elif call in (VFORK, CLONE, CLONE3):
        flags = clone_flags(thread)
        thread.vforking = bool(flags & CLONE_VFORK)
        if flags & CLONE_UNTRACED:
            stepper.warn("a program started a task with CLONE_UNTRACED: it cannot be followed")
    elif call == PTRACE:
        stepper.warn("a program used ptrace itself: it finds that it, or what it traces, is traced already")
    if counted:
        thread.retired_at = 0
        return
    stepper.ledger.far(thread, thread.rip, regs.rip - thread.rip, target)


def left(stepper: "Stepper", thread: "Thread") -> None:
    """The task stands at the exit of a call."""
    thread.in_call = False
    thread.vforking = False
    regs = ptrace.get_regs(thread.tid, stepper.regs)
    if thread.executing:
        retire_exec(stepper, thread, regs.rip)
    call, result = thread.call, regs.rax
    if call == RT_SIGRETURN:
        trapmask.returned_from_handler(thread)
        thread.own_trap_flag = bool(regs.eflags & _TRAP_FLAG)
        stepper.review(thread)
    elif result in RESTARTS:
        thread.restarting = True
    elif call == RT_SIGPROCMASK:
        trapmask.changed_mask(thread, result)
        stepper.review(thread)
    elif call in _CHANGES and result <= MASK64 - 4095 and _CHANGES[call](thread, result):
        if stepper.engine is not None:
            start, length = (result, thread.arguments[1]) if call == MMAP else thread.arguments[:2]
            stepper.engine.invalidate(thread, start, start + length if call in (MMAP, *_RANGES) else MASK64)
        stepper.tell_mappings(thread)
    thread.rip = regs.rip


def retire_exec(stepper: "Stepper", thread: "Thread", target: int) -> None:
    """The ``syscall`` of an exec retires when it is known where the task goes on."""
    thread.executing = False
    size = thread.op.size if thread.op is not None else 2
    stepper.ledger.far(thread, thread.rip, size, target)


def clone_flags(thread: "Thread") -> int:
    """The CLONE_ flags of the call that a task is in: fork, vfork, clone or clone3."""
    regs = ptrace.get_regs(thread.tid)
    if regs.orig_rax == VFORK:
        return CLONE_VM | CLONE_VFORK
    if regs.orig_rax == CLONE:
        return regs.rdi
    if regs.orig_rax == CLONE3:
        return thread.space.read_u64(regs.rdi)
    return 0


# ---- calls that change code ----------------------------------------------------------------------------------------


def _mapped(thread: "Thread", result: int) -> bool:
    return thread.space.changed(result, thread.arguments[1], executable=bool(thread.arguments[2] & _PROT_EXEC))


def _protected(thread: "Thread", result: int) -> bool:
    start, length, protection = thread.arguments[:3]
    return thread.space.changed(start, length, executable=bool(protection & _PROT_EXEC))


def _unmapped(thread: "Thread", result: int) -> bool:
    return thread.space.changed(thread.arguments[0], thread.arguments[1], executable=False)


def _moved(thread: "Thread", result: int) -> bool:
    old, old_size, new_size = thread.arguments[:3]
    was_code = thread.space.changed(old, old_size, executable=False)
    return thread.space.changed(result, new_size, executable=was_code) or was_code


def _attached(thread: "Thread", result: int) -> bool:
    if thread.arguments[2] & _SHM_EXEC:
        thread.space.forget()
    return bool(thread.arguments[2] & _SHM_EXEC)


def _anything(thread: "Thread", result: int) -> bool:
    thread.space.forget()
    return True


_CHANGES = {
    MMAP: _mapped,
    MPROTECT: _protected,
    PKEY_MPROTECT: _protected,
    MUNMAP: _unmapped,
    MREMAP: _moved,
    SHMAT: _attached,
    SHMDT: _anything,
    REMAP_FILE_PAGES: _anything,
    PROCESS_VM_WRITEV: _anything,
    CALL_32_BIT: _anything,
}


_RANGES = (MPROTECT, PKEY_MPROTECT, MUNMAP)


def stepped_over(stepper: "Stepper", thread: "Thread", target: int) -> None:
    """A call was executed in one step, which happens only where a signal turned out to have no handler."""
    if thread.restarting:
        thread.restarting = False
    else:
        assert thread.op is not None
        stepper.ledger.far(thread, thread.rip, thread.op.size, target)
    thread.space.forget()
    thread.trap_adopted = False
    trapmask.adopt(thread)
    if not thread.own_trap_flag:  # the step's trap flag went into r11 with the others
        flags = ptrace.peek_user(thread.tid, OFFSET["r11"])
        ptrace.poke_user(thread.tid, OFFSET["r11"], flags & ~_TRAP_FLAG)
