"""Programs that block SIGTRAP, which every step needs.

A step's SIGTRAP is forced: where the program blocks it, the kernel unblocks it and resets its handler to the default,
and nothing can undo that. So while a task is stepped, SIGTRAP is never blocked in the kernel; that the program believes
it to be is kept here, and shown to it wherever it can look: the old mask of ``rt_sigprocmask``, the mask saved in
signal frames. A SIGTRAP that somebody sends meanwhile is held until the program unblocks it.

Nearly every program blocks all signals now and then: the C library does so in fork, posix_spawn and pthread_create.

Source: ``force_sig_info_to_task`` in kernel/signal.c; ``struct rt_sigframe`` in arch/x86/include/asm/sigframe.h.
"""

import signal

from branchmon.sources import ptrace
from branchmon.sources.step.thread import Thread

SIGTRAP_BIT = 1 << (signal.SIGTRAP - 1)
_FRAME_MASK = 8 + 40 + 256  # pretcode; uc_flags, uc_link, uc_stack; uc_mcontext; then uc_sigmask
_SIG_UNBLOCK, _SIG_SETMASK = 1, 2


def adopt(thread: Thread) -> None:
    """Stepping begins: take SIGTRAP out of the task's mask."""
    if not thread.trap_adopted:
        thread.trap_adopted = True
        thread.trap_blocked = _unblock(thread.tid)


def hand_back(thread: Thread) -> None:
    """Stepping ends: the kernel's mask becomes what the program believes it to be."""
    if thread.trap_adopted:
        thread.trap_adopted = False
        if thread.trap_blocked:
            ptrace.set_sigmask(thread.tid, ptrace.get_sigmask(thread.tid) | SIGTRAP_BIT)


def inherit(child: Thread, parent: Thread) -> None:
    """A new task starts with its maker's mask."""
    child.trap_adopted = parent.trap_adopted
    child.trap_blocked = parent.trap_blocked


def entered_handler(thread: Thread, stack: int) -> None:
    """The task stands at a signal handler's first instruction: the frame holds the mask to come back to."""
    if thread.trap_blocked:
        thread.space.set_bits(stack + _FRAME_MASK, SIGTRAP_BIT, to=True)
    if _unblock(thread.tid):
        thread.trap_blocked = True


def returned_from_handler(thread: Thread) -> None:
    """``rt_sigreturn`` has loaded the mask of a frame."""
    thread.trap_blocked = _unblock(thread.tid)


def changed_mask(thread: Thread, result: int) -> None:
    """``rt_sigprocmask(how, set, old, size)`` ended; its arguments are the thread's ``arguments``."""
    if result != 0:
        return
    how, new, old = thread.arguments[:3]
    was_blocked = thread.trap_blocked
    if new and thread.new_mask & SIGTRAP_BIT:
        thread.trap_blocked = how != _SIG_UNBLOCK
    elif new and how == _SIG_SETMASK:
        thread.trap_blocked = False
    if thread.trap_blocked:
        _unblock(thread.tid)
    if old and was_blocked:
        thread.space.set_bits(old, SIGTRAP_BIT, to=True)


def _unblock(tid: int) -> bool:
    mask = ptrace.get_sigmask(tid)
    if mask & SIGTRAP_BIT:
        ptrace.set_sigmask(tid, mask & ~SIGTRAP_BIT)
        return True
    return False
