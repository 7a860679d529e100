"""So that a single-stepped program outlives a killed branchmon.

When a tracer dies in the middle of a step, the kernel lets the program go with the trap flag set, and the next SIGTRAP
kills it; nothing in the dead process can prevent that. So the command's work is done in a child, and the process that
people see and kill only waits for it. When that one dies, the kernel tells the child (PR_SET_PDEATHSIG), which ends as
at any SIGTERM: it lets the program go as it should be.
"""

import contextlib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80

allowed = False
"""This process is a command of its own, started by a shell; set by the command line's entry."""


def stand() -> None:
    """Go on in a child and guard it; returns in the child. Nothing happens unless :data:`allowed`, nor twice."""
    global allowed
    if not allowed:
        return
    allowed = False
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    guard = os.getpid()
    worker = os.fork()
    if worker:
        _watch(worker)
    import ctypes  # not before it is needed: `list` is quick

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if os.getppid() != guard:
        os._exit(143)


def _watch(worker: int) -> None:
    """Pass on signals, stop and go on with the worker, end as it ends."""
    signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    while True:
        info = signal.sigwaitinfo(signals)
        if info.si_signo == signal.SIGCHLD:
            while _look(worker):
                pass
        elif info.si_code != _SI_KERNEL:  # the terminal's reach the worker by themselves
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, info.si_signo)


def _look(worker: int) -> bool:
    pid, status = os.waitpid(worker, os.WNOHANG | os.WUNTRACED)
    if not pid:
        return False
    if os.WIFSTOPPED(status):
        os.kill(os.getpid(), signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        return True
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))
