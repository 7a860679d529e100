"""ptrace(2) and waitpid(2) through ctypes: what both live sources drive programs with.

Every call raises the ``OSError`` subclass of its errno: :class:`Vanished` where the task is gone or not in a
ptrace-stop (a task can be killed at any moment), :class:`PermissionError` where tracing is refused.

The bare :func:`request` is for loops that cannot afford a Python call more: it returns -1 on an error, without raising.

Source: ``man 2 ptrace``; ``include/uapi/linux/ptrace.h``, ``arch/x86/include/uapi/asm/ptrace.h``.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from branchmon.sources.base import Registers

PEEKUSER = 3
POKEUSER = 6
CONT = 7
SINGLESTEP = 9
GETREGS = 12
SETREGS = 13
DETACH = 17
SYSCALL = 24
SETOPTIONS = 0x4200
GETEVENTMSG = 0x4201
GETSIGINFO = 0x4202
SETSIGINFO = 0x4203
GETREGSET = 0x4204
SETREGSET = 0x4205
SEIZE = 0x4206
INTERRUPT = 0x4207
LISTEN = 0x4208
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B
GET_SYSCALL_INFO = 0x420E

O_TRACESYSGOOD = 0x01
O_TRACEFORK = 0x02
O_TRACEVFORK = 0x04
O_TRACECLONE = 0x08
O_TRACEEXEC = 0x10
O_TRACEVFORKDONE = 0x20
O_TRACEEXIT = 0x40
O_TRACESECCOMP = 0x80
O_EXITKILL = 0x00100000

EVENT_FORK = 1
EVENT_VFORK = 2
EVENT_CLONE = 3
EVENT_EXEC = 4
EVENT_VFORK_DONE = 5
EVENT_EXIT = 6
EVENT_SECCOMP = 7
EVENT_STOP = 128

NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202

WALL = 0x40000000
WNOTHREAD = 0x20000000
"""Only children and tracees of the calling thread: what other threads of the process started is left to them."""

# Offsets into `struct user`, for PEEKUSER and POKEUSER.
REGISTER_NAMES = tuple(Registers.__dataclass_fields__)
OFFSET = {name: 8 * i for i, name in enumerate(REGISTER_NAMES)}
OFFSET_DEBUG_REGISTERS = 848
RIP_OFFSET = OFFSET["rip"]

# si_code of the SIGTRAPs that a traced task can stop with (arch/x86/kernel/traps.c).
SI_KERNEL = 0x80  # int3
TRAP_BRKPT = 1  # int1; a step that ended a system call
TRAP_TRACE = 2  # a step
TRAP_HWBKPT = 4  # a debug register
HANDLER_ENTRY = 5  # ptrace_notify() at a signal handler's first instruction

MASK64 = (1 << 64) - 1


class UserRegs(ctypes.Structure):
    """``struct user_regs_struct``: the general registers of a stopped task; fields as :class:`Registers`."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTER_NAMES]
    r15: int
    rip: int
    rsp: int
    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rbp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    orig_rax: int
    eflags: int
    cs: int
    ss: int
    fs_base: int
    gs_base: int

    def registers(self) -> Registers:
        """The same as a plain dataclass."""
        return Registers(*struct.unpack("27Q", bytes(self)))

    def load(self, registers: Registers) -> None:
        """Take over every field of `registers`."""
        for name in REGISTER_NAMES:
            setattr(self, name, getattr(registers, name))


class SyscallInfo(NamedTuple):
    """``struct ptrace_syscall_info``, the part that all its stops share."""

    op: int
    """0 not in a system call's stop, 1 entry, 2 exit, 3 seccomp."""
    instruction_pointer: int
    stack_pointer: int
    number: int
    """Entry and seccomp: the call's number; exit: its result."""
    arguments: tuple[int, ...]


def _bind(library: ctypes.CDLL) -> Callable[[int, int, int, int], int]:
    function = library.ptrace
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong)
    call: Callable[[int, int, int, int], int] = function
    return call


_libc = ctypes.PyDLL(None, use_errno=True)
_TGKILL = 234

request = _bind(_libc)
"""``ptrace(request, tid, addr, data)`` bare: -1 on an error (:func:`fail` raises it). None of the requests block."""


class Vanished(ProcessLookupError):
    """The task was killed, or is not in a ptrace-stop of ours: waitpid will tell how it goes on."""


def fail(what: int, tid: int) -> OSError:
    """The error that the last :func:`request` left, to be raised."""
    number = ctypes.get_errno()
    text = f"{os.strerror(number)} (ptrace {what:#x} of task {tid})"
    return Vanished(number, text) if number == errno.ESRCH else OSError(number, text)


def _call(what: int, tid: int, address: int = 0, data: int = 0) -> None:
    if request(what, tid, address, data) == -1:
        raise fail(what, tid)


# ---- starting, stopping, letting go --------------------------------------------------------------------------------


def seize(tid: int, options: int) -> None:
    """Attach without stopping the task."""
    _call(SEIZE, tid, 0, options)


def set_options(tid: int, options: int) -> None:
    """Replace the PTRACE_O_ options."""
    _call(SETOPTIONS, tid, 0, options)


def interrupt(tid: int) -> None:
    """Make a running task stop soon, with EVENT_STOP; does nothing to the program."""
    _call(INTERRUPT, tid)


def listen(tid: int) -> None:
    """Leave a task in its group-stop, and tell of what ends it."""
    _call(LISTEN, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped task go for good, with a signal delivered to it."""
    _call(DETACH, tid, 0, signal)


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped task run until something happens."""
    _call(CONT, tid, 0, signal)


def step(tid: int, signal: int = 0) -> None:
    """Let a stopped task execute one instruction, or enter `signal`'s handler (it stops before its first)."""
    _call(SINGLESTEP, tid, 0, signal)


def syscall(tid: int, signal: int = 0) -> None:
    """Let a stopped task run to the next entry or exit of a system call."""
    _call(SYSCALL, tid, 0, signal)


# ---- registers -----------------------------------------------------------------------------------------------------


def peek_user(tid: int, offset: int) -> int:
    """One word of ``struct user``, unsigned."""
    ctypes.set_errno(0)
    value = request(PEEKUSER, tid, offset, 0)
    if value == -1 and ctypes.get_errno():
        raise fail(PEEKUSER, tid)
    return value & MASK64


def poke_user(tid: int, offset: int, value: int) -> None:
    """Write one word of ``struct user``."""
    _call(POKEUSER, tid, offset, value & MASK64)


def get_regs(tid: int, regs: UserRegs | None = None) -> UserRegs:
    """All general registers, into `regs` if given."""
    regs = UserRegs() if regs is None else regs
    _call(GETREGS, tid, 0, ctypes.addressof(regs))
    return regs


def set_regs(tid: int, regs: UserRegs) -> None:
    """Write all general registers."""
    _call(SETREGS, tid, 0, ctypes.addressof(regs))


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def get_regset(tid: int, kind: int, room: int = 16384) -> bytes:
    """A register set as its note type gives it (:data:`NT_PRSTATUS`, :data:`NT_X86_XSTATE`)."""
    buffer = ctypes.create_string_buffer(room)
    vector = _Vector(ctypes.addressof(buffer), room)
    _call(GETREGSET, tid, kind, ctypes.addressof(vector))
    return buffer.raw[: vector.size]


def set_regset(tid: int, kind: int, data: bytes) -> None:
    """Write a register set that :func:`get_regset` gave."""
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Vector(ctypes.addressof(buffer), len(data))
    _call(SETREGSET, tid, kind, ctypes.addressof(vector))


# ---- signals and events --------------------------------------------------------------------------------------------


def get_siginfo(tid: int) -> bytes:
    """The 128 bytes of ``siginfo_t`` of the signal the task stopped for: int signo, int errno, int code, …"""
    buffer = ctypes.create_string_buffer(128)
    _call(GETSIGINFO, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def set_siginfo(tid: int, info: bytes) -> None:
    """Replace them: the next resume's signal is delivered so."""
    buffer = ctypes.create_string_buffer(info, 128)
    _call(SETSIGINFO, tid, 0, ctypes.addressof(buffer))


def siginfo_code(info: bytes) -> int:
    """``si_code``."""
    code: int = struct.unpack_from("i", info, 8)[0]
    return code


def send_signal(pid: int, tid: int, number: int) -> None:
    """tgkill(2): a signal to one thread; nothing happens if it is gone."""
    _libc.syscall(ctypes.c_long(_TGKILL), ctypes.c_long(pid), ctypes.c_long(tid), ctypes.c_long(number))


def get_sigmask(tid: int) -> int:
    """The signals the task blocks; bit n-1 is signal n."""
    mask = ctypes.c_uint64()
    _call(GETSIGMASK, tid, 8, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """Replace the task's blocked signals."""
    buffer = ctypes.c_uint64(mask)
    _call(SETSIGMASK, tid, 8, ctypes.addressof(buffer))


def event_message(tid: int) -> int:
    """What a PTRACE_EVENT stop tells: the new task's id, the former tid of an exec, the exit status."""
    message = ctypes.c_ulong()
    _call(GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def syscall_info(tid: int) -> SyscallInfo:
    """Where in a system call the task stands (Linux 5.3)."""
    buffer = ctypes.create_string_buffer(88)
    _call(GET_SYSCALL_INFO, tid, 88, ctypes.addressof(buffer))
    op, _arch, ip, sp, number, *arguments = struct.unpack_from("B3xIQQQ6Q", buffer.raw)
    return SyscallInfo(op, ip, sp, number, tuple(arguments))


# ---- waiting -------------------------------------------------------------------------------------------------------

WAIT = WALL | WNOTHREAD


def wait_any(flags: int = 0) -> tuple[int, int]:
    """The next stop or end of any task this thread traces: (tid, wait status); (0, 0) with WNOHANG and nothing there.

    Python signal handlers run while this waits. The thread must have no children but those it traces: theirs would
    be reaped.

    :raises ChildProcessError: there is nothing to wait for.
    """
    return os.waitpid(-1, WAIT | flags)


def wait_for(tid: int, flags: int = 0) -> int:
    """The next wait status of one task."""
    return os.waitpid(tid, WAIT | flags)[1]


def stop_event(status: int) -> int:
    """The PTRACE_EVENT of a stop's wait status; 0 for a signal-delivery or step stop."""
    return status >> 16
