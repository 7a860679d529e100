"""Catching system calls by seccomp user notification: the filter, and the calls taken from its listener.

Caught are ``perf_event_open``; ``fcntl(F_SETFL)`` and ``ioctl(FIOASYNC)``, whose O_ASYNC the kernel drops silently on a
FUSE file; and the two perf ioctls whose argument is no address, which FUSE cannot pass on.

Source: ``man 2 seccomp_unotify``; ``include/uapi/linux/seccomp.h``.
"""

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from branchmon.abi.event_file import IOC_PAUSE_OUTPUT, IOC_SET_BPF
from branchmon.abi.syscalls import (
    NR_FCNTL,
    NR_IOCTL,
    NR_PERF_EVENT_OPEN,
    PR_SET_NO_NEW_PRIVS,
    prctl,
    seccomp_listener,
)

_AUDIT_ARCH_X86_64 = 0xC000003E
_RET_ALLOW = 0x7FFF0000
_RET_USER_NOTIF = 0x7FC00000
_FLAG_NEW_LISTENER = 8
_FLAG_WAIT_KILLABLE = 32  # Linux 5.19

F_SETFL = 4
FIOASYNC = 0x5452

_RECEIVE, _SEND, _ID_VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_SEND_CONTINUE = 1
_ADDFD_SEND = 2
ERESTARTNOINTR = 513
"""An errno that never reaches the program: the kernel starts the call again, if the task had to stop meanwhile."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


def filter_program() -> bytes:
    """The classic BPF program: notify for the calls above, allow everything else."""
    notify, allow = "notify", "allow"
    lines: list[tuple[int, int, str | None, str | None]] = [
        (_LOAD, _OFFSET_ARCH, None, None),
        (_EQUAL, _AUDIT_ARCH_X86_64, None, allow),
        (_LOAD, _OFFSET_NR, None, None),
        (_EQUAL, NR_PERF_EVENT_OPEN, notify, None),
        (_EQUAL, NR_FCNTL, "fcntl", None),
        (_EQUAL, NR_IOCTL, None, allow),
        (_LOAD, _OFFSET_ARGUMENTS + 8, None, None),  # the low half of the second argument
        *((_EQUAL, command, notify, None) for command in (FIOASYNC, IOC_SET_BPF)),
        (_EQUAL, IOC_PAUSE_OUTPUT, notify, allow),
        (_LOAD, _OFFSET_ARGUMENTS + 8, None, None),
        (_EQUAL, F_SETFL, notify, allow),
        (_RETURN, _RET_ALLOW, None, None),
        (_RETURN, _RET_USER_NOTIF, None, None),
    ]
    places = {"fcntl": 10, allow: len(lines) - 2, notify: len(lines) - 1}
    program = b""
    for i, (code, operand, if_true, if_false) in enumerate(lines):
        jumps = [0 if name is None else places[name] - i - 1 for name in (if_true, if_false)]
        program += struct.pack("<HBBI", code, *jumps, operand)
    return program


def install() -> int:
    """Put the filter on this process and what it starts; the descriptor of its listener.

    :raises OSError: EBUSY: a filter with a listener is there already.
    """
    for flags in (_FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE, _FLAG_NEW_LISTENER):
        try:
            return seccomp_listener(filter_program(), flags)
        except OSError as error:
            if error.errno == errno.EACCES:  # no CAP_SYS_ADMIN
                prctl(PR_SET_NO_NEW_PRIVS, 1)
                return seccomp_listener(filter_program(), flags)
            if error.errno != errno.EINVAL or not flags & _FLAG_WAIT_KILLABLE:
                raise
    raise AssertionError


@dataclass(frozen=True)
class Caught:
    """One system call that waits for its answer.

    :ivar tid: the calling task.
    :ivar arguments: its six arguments, unsigned 64 bits each.
    """

    id: int
    tid: int
    number: int
    arguments: tuple[int, ...]

    def signed(self, index: int) -> int:
        """An argument that is an int."""
        return ctypes.c_int32(self.arguments[index] & 0xFFFFFFFF).value


class Listener:
    """The supervisor's end of the filter.

    :param descriptor: owned from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def receive(self) -> Caught | None:
        """Take the next call; blocks if there is none. None if it was interrupted meanwhile.

        :raises OSError: ENODEV, EBADF…: the listener has ended.
        """
        buffer = bytearray(80)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number_id, tid, _, nr, _, _, *arguments = struct.unpack("<QIIiIQ6Q", buffer)
        return Caught(number_id, tid, nr, tuple(arguments))

    def valid(self, caught: Caught) -> bool:
        """The caller still waits: what was read of it since :meth:`receive` is the caller's, not another task's."""
        try:
            fcntl.ioctl(self.descriptor, _ID_VALID, struct.pack("<Q", caught.id))
        except OSError:
            return False
        return True

    def pass_on(self, caught: Caught) -> None:
        """Let the kernel carry the call out."""
        self._send(caught, 0, 0, _SEND_CONTINUE)

    def answer(self, caught: Caught, value: int = 0) -> None:
        """Make the call return `value`."""
        self._send(caught, value, 0, 0)

    def refuse(self, caught: Caught, number: int) -> None:
        """Make the call fail with an errno."""
        self._send(caught, 0, -number, 0)

    def give(self, caught: Caught, descriptor: int, *, close_on_exec: bool) -> None:
        """Make the call return a new descriptor of the caller's, a duplicate of ours.

        :raises OSError: EMFILE and others of the caller's limits; ENOENT: he is gone.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        fcntl.ioctl(self.descriptor, _ADDFD, struct.pack("<QIIII", caught.id, _ADDFD_SEND, descriptor, 0, flags))

    def close(self) -> None:
        """Calls that are caught from now on fail with ENOSYS."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    def _send(self, caught: Caught, value: int, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, struct.pack("<QqiI", caught.id, value, error, flags))
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.EBADF, errno.ENODEV):  # gone meanwhile
                raise
