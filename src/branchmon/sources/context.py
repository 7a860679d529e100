"""A stopped task's machine state, read by ptrace: what trip listeners look at."""

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from branchmon.sources import ptrace
from branchmon.sources.base import Mapping, Registers
from branchmon.sources.maps import read_mappings

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task

_ENTRY = 1  # ptrace_syscall_info.op: the task stands at the entry of a system call


class PtraceContext:
    """The :class:`~branchmon.sources.base.TaskContext` of a task that runs its own code.

    :param siblings: stops the other tasks of the process and gives those that stand.
    """

    def __init__(self, tid: int, pid: int, memory: Callable[[], int], siblings: Callable[[], list["Task"]]) -> None:
        self.tid = tid
        self.pid = pid
        self._memory = memory
        self._siblings = siblings

    def registers(self) -> Registers:
        """The registers; at a ``syscall`` as they were when it was executed, rip behind it.

        :raises ProcessLookupError: the task has been killed.
        """
        registers = ptrace.get_regs(self.tid).registers()
        with contextlib.suppress(OSError):
            if registers.orig_rax != ptrace.MASK64 and ptrace.syscall_info(self.tid).op == _ENTRY:
                registers.rax = registers.orig_rax  # the kernel has put -ENOSYS there for the time being
        return registers

    def read(self, address: int, size: int) -> bytes:
        """Memory from `address`: as much of `size` bytes as is mapped."""
        return read_memory(self._memory(), address, size)

    def mappings(self) -> list[Mapping]:
        """The address space."""
        return read_mappings(self.pid)

    def siblings(self) -> list["Task"]:
        """The other tasks of the process, stopped."""
        return self._siblings()

    def xstate(self) -> bytes:
        """The extended state as the kernel gives it; empty if the task is gone."""
        try:
            return ptrace.get_regset(self.tid, ptrace.NT_X86_XSTATE)
        except OSError:
            return b""


def open_memory(pid: int, *, writable: bool = True) -> int:
    """A descriptor of a traced process's memory; stays with the address space it was opened on.

    :raises OSError: the process is gone.
    """
    return os.open(f"/proc/{pid}/mem", (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)


def read_memory(descriptor: int, address: int, size: int) -> bytes:
    """Memory up to the first byte that is not mapped; empty if that is the first."""
    if address < 0 or address >= 1 << 63:  # not reached by file offsets; no user memory there
        return b""
    parts = []
    while size > 0:
        try:
            part = os.pread(descriptor, size, address)
        except (OSError, OverflowError):
            break
        if not part:
            break
        parts.append(part)
        address += len(part)
        size -= len(part)
    return b"".join(parts)


def write_memory(descriptor: int, address: int, data: bytes) -> bool:
    """Write memory, read-only pages too; False if it is not mapped."""
    try:
        return os.pwrite(descriptor, data, address) == len(data)
    except (OSError, OverflowError):
        return False
