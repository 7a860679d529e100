"""System calls carried out by the program on our behalf: to map our memory in it, and to unmap it again."""

import os
import signal
import struct
from typing import TYPE_CHECKING

from branchmon.sources import ptrace
from branchmon.sources.ptrace import MASK64

if TYPE_CHECKING:
    from branchmon.sources.step.space import AddressSpace
    from branchmon.sources.step.thread import Thread

MMAP, MUNMAP = 9, 11
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x02, 0x20, 0x4000, 0x100000
_SYSCALL = b"\x0f\x05"
_EVENT_STOP = ptrace.EVENT_STOP << 16


class Refused(Exception):
    """The program's kernel refused one of our system calls: :attr:`errno` says why."""

    def __init__(self, number: int, errno: int) -> None:
        super().__init__(f"system call {number}: {os.strerror(errno)}")
        self.errno = errno


def inject(thread: "Thread", number: int, *arguments: int) -> int:
    """Have a stopped task carry out a system call, and stand as it stood.

    It must not stand in a system call itself, nor have a signal to be resumed with.

    :raises Refused: it returned an error, or there is no ``syscall`` instruction to be used.
    :raises Vanished: the task was killed.
    """
    tid = thread.tid
    saved = ptrace.get_regs(tid)
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, MASK64)
    regs = ptrace.UserRegs.from_buffer_copy(saved)
    regs.rip = find_syscall(thread.space)
    regs.rax, regs.orig_rax = number, MASK64
    regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9 = (*arguments, *(0,) * (6 - len(arguments)))
    ptrace.set_regs(tid, regs)
    stopped = False
    for _ in ("entry", "exit"):
        ptrace.syscall(tid)
        while True:
            status = ptrace.wait_for(tid)
            if not os.WIFSTOPPED(status) or status >> 16 == ptrace.EVENT_EXIT:
                thread.lost = status
                raise ptrace.Vanished
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                break
            stopped = stopped or (os.WSTOPSIG(status) == signal.SIGSTOP and not status >> 16)
            ptrace.syscall(tid)
    result: int = struct.unpack("q", struct.pack("Q", ptrace.peek_user(tid, ptrace.OFFSET["rax"])))[0]
    saved.orig_rax = MASK64
    ptrace.set_regs(tid, saved)
    ptrace.set_sigmask(tid, mask)
    if stopped:
        ptrace.send_signal(thread.pid, tid, signal.SIGSTOP)
    if -4096 < result < 0:
        raise Refused(number, -result)
    return result


def find_syscall(space: "AddressSpace") -> int:
    """The address of a ``syscall`` instruction in the program's code: the vdso has one, and so has nearly anything.

    :raises Refused: there is none.
    """
    if space.syscall_at:
        return space.syscall_at
    mappings = space.refresh()
    for mapping in sorted(mappings, key=lambda mapping: mapping.path != "[vdso]"):
        if mapping.path == "[vsyscall]":
            continue
        at = space.read(mapping.start, min(mapping.end - mapping.start, 4 << 20)).find(_SYSCALL)
        if at >= 0:
            space.syscall_at = mapping.start + at
            return space.syscall_at
    raise Refused(0, 38)


def map_memory(thread: "Thread", address: int, size: int, protection: int) -> int:
    """Private anonymous memory at `address`; at an address of the kernel's choice for 0.

    :raises Refused: something is there already (EEXIST), or there is not enough memory.
    """
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (MAP_FIXED_NOREPLACE if address else 0)
    made = inject(thread, MMAP, address, size, protection, flags, MASK64, 0)
    if address and made != address:  # a kernel before 4.17 takes the address as a hint
        inject(thread, MUNMAP, made, size)
        raise Refused(MMAP, 17)
    return made


def unmap_memory(thread: "Thread", address: int, size: int) -> None:
    """Undo :func:`map_memory`."""
    inject(thread, MUNMAP, address, size)
