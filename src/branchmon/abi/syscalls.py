"""System calls that Python does not offer, through ctypes. Each raises the ``OSError`` of its errno.

Source: the calls' manual pages; numbers from ``arch/x86/entry/syscalls/syscall_64.tbl``.
"""

import ctypes
import os

NR_IOCTL = 16
NR_FCNTL = 72
NR_PERF_EVENT_OPEN = 298
_NR_SECCOMP = 317
_NR_PIDFD_GETFD = 438

CLONE_FILES = 0x00000400
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_writev.restype = ctypes.c_ssize_t


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """``mount(2)``."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), target)


def unshare(flags: int) -> None:
    """``unshare(2)``."""
    _check(_libc.unshare(flags), "unshare")


def prctl(option: int, value: int) -> None:
    """``prctl(2)`` with one argument."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def seccomp_listener(program: bytes, flags: int) -> int:
    """``seccomp(SECCOMP_SET_MODE_FILTER)``: install a classic BPF program; the descriptor of its listener.

    :param flags: SECCOMP_FILTER_FLAG_ bits, NEW_LISTENER among them.
    """

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    fprog = Program(len(program) // 8, program)
    return _check(
        _libc.syscall(ctypes.c_long(_NR_SECCOMP), ctypes.c_uint(1), ctypes.c_uint(flags), ctypes.byref(fprog)),
        "seccomp",
    )


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """``pidfd_getfd(2)``: a duplicate of another process's descriptor, close-on-exec."""
    return _check(_libc.syscall(ctypes.c_long(_NR_PIDFD_GETFD), pidfd, descriptor, 0), "pidfd_getfd")


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(tid: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a task's memory; shorter where the next page is not mapped.

    :raises OSError: EFAULT: not even the first byte is; EPERM; ESRCH.
    """
    if size == 0:
        return b""
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = _Iovec(address, size)
    got = _check(
        _libc.process_vm_readv(tid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0),
        "process_vm_readv",
    )
    return buffer.raw[:got]


def write_memory(tid: int, address: int, data: bytes) -> None:
    """Write a task's memory, as the task itself could.

    :raises OSError: EFAULT: it could not, or not all of it; EPERM; ESRCH.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    local = _Iovec(ctypes.addressof(buffer), len(data))
    remote = _Iovec(address, len(data))
    put = _check(
        _libc.process_vm_writev(tid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0),
        "process_vm_writev",
    )
    if put != len(data):
        raise OSError(14, os.strerror(14), "process_vm_writev")
