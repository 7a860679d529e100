"""Tracing a process that runs already: attaching to its threads, and saying why it is refused when it is."""

import contextlib
import errno
import os

from branchmon.errors import TargetError
from branchmon.sources import ptrace
from branchmon.sources.launch import refuse_32_bit
from branchmon.sources.maps import ELF_CLASS_32, elf_class, process_of, program_name, status_fields, threads, tracer_of

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PF_KTHREAD = 0x00200000
USER_CODE_64 = 0x33
"""The code segment of 64-bit user code; anything else is compatibility mode."""


def check_process(pid: int) -> None:
    """Refuse what cannot be followed, before anything is done to it.

    :raises TargetError: no such process, ourselves, a kernel thread, a zombie, already traced, 32-bit.
    """
    fields = status_fields(pid) if pid > 0 else {}
    if not fields:
        raise _no_such_process(pid)
    owner = int(fields["Tgid"])
    if owner != pid:
        raise TargetError(
            f"{pid} is a thread of process {owner}, no process",
            slug="not-a-process",
            remedy=f"Use `-p {owner}` for the process, or `-t {pid}` for this thread.",
        )
    if pid == os.getpid():
        raise TargetError("branchmon cannot follow itself", slug="itself", remedy="Name another process.")
    if fields.get("State", "").startswith(("Z", "X")):
        raise TargetError(f"Process {pid} ({fields.get('Name', '')}) has ended already (a zombie)", slug="zombie")
    if _is_kernel_thread(pid):
        raise TargetError(f"{pid} ({fields.get('Name', '')}) is a kernel thread: it has no user code", slug="kernel")
    if int(fields.get("TracerPid", "0")):
        raise _already_traced(pid)
    if elf_class(f"/proc/{pid}/exe") == ELF_CLASS_32:
        raise refuse_32_bit(f"Process {pid} ({fields.get('Name', '')})")


def check_thread(tid: int) -> int:
    """The process of a thread that can be followed.

    :raises TargetError: as :func:`check_process`.
    """
    pid = process_of(tid) if tid > 0 else None
    if pid is None:
        raise _no_such_process(tid, "thread")
    check_process(pid)
    return pid


def seize_process(pid: int, options: int) -> list[int]:
    """Trace every thread of a process, those that start meanwhile too; they go on running.

    :returns: the threads' ids. Threads that one of them makes later are traced by the options' TRACECLONE.
    :raises TargetError: refused; then none of the threads is traced any more.
    """
    seized: list[int] = []
    refused: set[int] = set()
    try:
        while True:
            fresh = [tid for tid in threads(pid) if tid not in seized and tid not in refused]
            if not fresh:
                break
            for tid in fresh:
                try:
                    ptrace.seize(tid, options)
                    seized.append(tid)
                except PermissionError as error:
                    # Traced by us already: a thread that one of the seized made. Its stop will come by itself.
                    if seized and tracer_of(tid) == os.getpid():
                        refused.add(tid)
                    else:
                        raise refusal(pid, error) from None
                except ProcessLookupError:
                    refused.add(tid)
    except BaseException:
        let_go(seized)
        raise
    if not seized:
        raise _no_such_process(pid)
    return seized


def seize_thread(tid: int, options: int) -> None:
    """Trace one thread; it goes on running.

    :raises TargetError: refused.
    """
    try:
        ptrace.seize(tid, options)
    except OSError as error:
        raise refusal(tid, error) from None


def let_go(tids: list[int]) -> None:
    """Stop running threads and detach from them, keeping the signals that arrive meanwhile."""
    for tid in tids:
        with contextlib.suppress(OSError):
            ptrace.interrupt(tid)
            status = ptrace.wait_for(tid)
            if os.WIFSTOPPED(status):
                ptrace.detach(tid, 0 if ptrace.stop_event(status) else os.WSTOPSIG(status))


def refusal(pid: int, error: OSError) -> TargetError:
    """What the kernel's refusal to trace `pid` means, to be raised."""
    if error.errno == errno.ESRCH:
        return _no_such_process(pid)
    if tracer_of(pid):
        return _already_traced(pid)
    name = program_name(pid)
    uid = status_fields(pid).get("Uid", "?").split()[0]
    remedies = [f"Run branchmon as root (sudo), or with CAP_SYS_PTRACE, or as the process's owner (uid {uid})."]
    scope = _yama_scope()
    if scope:
        meaning = {1: "only descendants may be traced", 2: "only with CAP_SYS_PTRACE", 3: "nobody may trace"}[scope]
        remedies.append(f"{_YAMA} is {scope}: {meaning}; `sysctl kernel.yama.ptrace_scope=0` lifts that.")
    remedies.append("In a container, start it with `--cap-add=SYS_PTRACE` (and a seccomp profile that allows ptrace).")
    return TargetError(
        f"No permission to trace process {pid}" + (f" ({name})" if name else ""),
        slug="no-permission",
        remedy=" ".join(remedies),
    )


def _no_such_process(pid: int, what: str = "process") -> TargetError:
    return TargetError(
        f"There is no {what} {pid}",
        slug="no-such-process",
        remedy="Check the number with `ps` (`ps -L` for threads); it may have ended.",
    )


def _already_traced(pid: int) -> TargetError:
    tracer = tracer_of(pid)
    return TargetError(
        f"Process {pid} ({program_name(pid)}) is already traced by process {tracer} ({program_name(tracer)})",
        slug="already-traced",
        remedy=f"A process has one tracer at a time: end the debugger or tracer {tracer} first.",
    )


def _yama_scope() -> int:
    try:
        with open(_YAMA, encoding="ascii") as file:
            return min(max(int(file.read()), 0), 3)
    except (OSError, ValueError):
        return 0


def _is_kernel_thread(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return False
    flags = int(text[text.rindex(b")") + 2 :].split()[6])
    return bool(flags & _PF_KTHREAD)
