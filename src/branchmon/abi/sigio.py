"""SIGIO for event descriptors: O_ASYNC, which a FUSE file accepts and forgets.

Owner and signal (F_SETOWN, F_SETSIG) are kept by the kernel with the open file; that somebody sets or clears O_ASYNC is
caught. To signal, a pipe takes the file's place: it gets the same owner and signal, and the
same number in a descriptor table of our own, so that the kernel sends the very signal, ``si_fd`` and ``si_band``
included, that it would send for a perf event.

Source: ``man 2 fcntl``; ``fs/fcntl.c`` (``kill_fasync``, ``send_sigio``).
"""

import contextlib
import fcntl
import os
import struct
import threading
from queue import SimpleQueue
from typing import NamedTuple

from branchmon.abi.credentials import Credentials, credentials
from branchmon.abi.syscalls import CLONE_FILES, pidfd_getfd, unshare

_F_SETSIG, _F_GETSIG, _F_SETOWN_EX, _F_GETOWN_EX = 10, 11, 15, 16
_OWNER_GROUP = 2


class Holder(NamedTuple):
    """Who set O_ASYNC, and on which of his descriptors."""

    caller: Credentials
    descriptor: int


class Signaller:
    """Sends SIGIO, from a thread with a descriptor table of its own."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Holder | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sigio", daemon=True)
            self._thread.start()

    def signal(self, holder: Holder) -> None:
        """Signal for the file that `holder`'s descriptor is of. Never blocks."""
        self._queue.put(holder)

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        unshare(CLONE_FILES)
        os.closerange(3, 1 << 20)  # above all the connections' descriptors, whose last copy must not be here
        while (holder := self._queue.get()) is not None:
            with contextlib.suppress(OSError):
                _signal(holder)


def _copy(pid: int, descriptor: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return pidfd_getfd(pidfd, descriptor)
    finally:
        os.close(pidfd)


def _signal(holder: Holder) -> None:
    copy = _copy(holder.caller.pid, holder.descriptor)
    try:
        owner = fcntl.fcntl(copy, _F_GETOWN_EX, bytes(8))
        signal_number = fcntl.fcntl(copy, _F_GETSIG)
    finally:
        os.close(copy)
    kind, receiver = struct.unpack("ii", owner)
    if not receiver:
        return
    # A group may hold processes of others: only the kernel can tell them apart, by credentials that must be ours then.
    allowed = (
        os.geteuid() in (holder.caller.uids[1], holder.caller.uids[0])
        if kind == _OWNER_GROUP
        else _may_signal(holder.caller, receiver)
    )
    if allowed:
        _send(holder.descriptor, owner, signal_number)


def _may_signal(caller: Credentials, receiver: int) -> bool:
    """``sigio_perm``: root, or one of his ids is the receiver's real or saved one."""
    target = credentials(receiver)
    mine = caller.uids[:2]
    return mine[1] == 0 or any(uid in (target.uids[0], target.uids[2]) for uid in mine)


def _send(number: int, owner: bytes, signal_number: int) -> None:
    reader, writer = os.pipe()
    try:
        if writer == number:
            writer = os.dup(writer)
        if reader != number:
            os.dup2(reader, number)
            os.close(reader)
            reader = number
        fcntl.fcntl(reader, _F_SETOWN_EX, owner)
        fcntl.fcntl(reader, _F_SETSIG, signal_number)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writer, b"x")
    finally:
        os.close(reader)
        os.close(writer)
