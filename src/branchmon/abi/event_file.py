"""The file behind an event descriptor: what read, ioctl, poll and close of it do.

Source: ``perf_read``, ``_perf_ioctl``, ``perf_poll`` in ``kernel/events/core.c``; SPEC section 2 for poll.
"""

import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from branchmon.abi import event_attr
from branchmon.abi.fuse import Session, ioctl_out
from branchmon.abi.jobs import Job, Jobs
from branchmon.abi.nodes import Later, Node, OpenFlag, Request
from branchmon.abi.sigio import Holder
from branchmon.driver.perf_event import PerfEvent

POLLIN = 0x041
"""POLLIN and POLLRDNORM."""
POLLHUP = 0x010

IOC_ENABLE = 0x2400
IOC_DISABLE = 0x2401
IOC_REFRESH = 0x2402
IOC_RESET = 0x2403
IOC_PERIOD = 0x40082404
IOC_SET_OUTPUT = 0x2405
IOC_SET_FILTER = 0x40082406
IOC_ID = 0x80082407
IOC_SET_BPF = 0x40042408
IOC_PAUSE_OUTPUT = 0x40042409
IOC_QUERY_BPF = 0xC008240A
IOC_MODIFY_ATTRIBUTES = 0x4008240B
FLAG_GROUP = 1

_MEANINGLESS = frozenset(
    (IOC_REFRESH, IOC_PERIOD, IOC_SET_FILTER, IOC_SET_BPF, IOC_PAUSE_OUTPUT, IOC_QUERY_BPF, IOC_MODIFY_ATTRIBUTES)
)
"""Commands for sampling, tracing, filtering or breakpoint events: EINVAL for all others."""


class Face(Protocol):
    """What event files need of the server."""

    session: Session
    jobs: Jobs

    def on_driver(self, function: Callable[[], bytes]) -> bytes:
        """Run on the driving thread, with the units brought up to date."""
        ...

    def closed(self, file: "EventFile") -> None:
        """The last descriptor is gone: the event has to be closed."""
        ...

    def is_event(self, tid: int, descriptor: int) -> bool:
        """A task's descriptor is a perf event, ours or the kernel's.

        :raises OSError: EBADF: it is not open.
        """
        ...

    def signal(self, file: "EventFile") -> None:
        """Tell those who asked for SIGIO."""
        ...


class EventFile(Node):
    """One event's file. Only one open of it is ever made; everything else are duplicates of that descriptor.

    Requests come on the FUSE thread; what touches the event is done on the driving thread.
    """

    open_flags = OpenFlag.DIRECT_IO | OpenFlag.NONSEEKABLE | OpenFlag.STREAM | OpenFlag.NOFLUSH

    def __init__(self, event: PerfEvent, face: Face) -> None:
        super().__init__(stat.S_IFREG | 0o600)
        self.event = event
        self.face = face
        self._opened = False
        self._watched = False
        self._readable = False
        self._hung_up = False
        self._lock = threading.Lock()
        self.holder: Holder | None = None
        """Who asked for SIGIO (O_ASYNC), and on which of his descriptors."""

    # ---- open and close --------------------------------------------------------------------------------------------

    def open(self, flags: int) -> None:
        """A second open, through /proc/PID/fd, is refused as the kernel's anonymous inodes do."""
        if self._opened:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        self._opened = True

    def release(self) -> None:
        """The last descriptor was closed."""
        self.face.session.forget(self)
        self.face.jobs.submit(Job(0, lambda: self.face.closed(self)))

    # ---- read ------------------------------------------------------------------------------------------------------

    def read(self, request: Request, offset: int, size: int) -> bytes:
        """The counts in the event's read_format."""
        raise self._later(request, lambda: self.face.on_driver(lambda: self._counts(size)))

    def _counts(self, size: int) -> bytes:
        data = encode_counts(self.event)
        if size < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return data

    # ---- ioctl -----------------------------------------------------------------------------------------------------

    def ioctl(self, request: Request, command: int, argument: int, data: bytes, room: int) -> tuple[int, bytes]:
        """PERF_EVENT_IOC_*."""
        if command == IOC_ID:
            return 0, struct.pack("<Q", self.event.id)
        if command in _MEANINGLESS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if command == IOC_SET_OUTPUT:
            raise self._later(request, lambda: self._set_output(request.tid, argument))
        action = {
            IOC_ENABLE: self.event.enable,
            IOC_DISABLE: self.event.disable,
            IOC_RESET: self.event.reset,
        }.get(command)
        if action is None:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        group = bool(argument & FLAG_GROUP)

        def act() -> bytes:
            action(group=group)
            return ioctl_out(0, b"")

        raise self._later(request, lambda: self.face.on_driver(act))

    def _set_output(self, tid: int, argument: int) -> bytes:
        """No event of ours has a buffer that another's output could go to."""
        if argument & 0xFFFFFFFF == 0xFFFFFFFF:
            return ioctl_out(0, b"")
        if not self.face.is_event(tid, argument & 0x7FFFFFFF):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    # ---- poll ------------------------------------------------------------------------------------------------------

    def poll(self, request: Request, events: int) -> int:
        """POLLIN once for a batch of trips, POLLHUP when the last task has ended.

        The first poll makes the driver tell of every trip: from then on poll need not ask it.
        """
        if not self._watched:
            raise self._later(request, self._first_poll, given_up=self._poll_anew)
        return self._look()

    def _first_poll(self) -> bytes:
        self.watch()
        return struct.pack("<II", self._look(), 0)

    def _poll_anew(self) -> bytes:
        """The poller has to stop: nothing yet, but it is woken to look again."""

        def wake() -> None:
            self.watch()
            self.face.session.wake(self)

        self.face.jobs.submit(Job(0, wake))
        return struct.pack("<II", 0, 0)

    def _look(self) -> int:
        with self._lock:
            readable, self._readable = self._readable, False
            return (POLLIN if readable else 0) | (POLLHUP if self._hung_up else 0)

    def watch(self) -> None:
        """Have the driver tell of every trip from now on."""

        def add_waker() -> bytes:
            if not self._watched:
                self._watched = True
                self.event.wakers.append(self._woken)
            self._notice()
            return b""

        self.face.on_driver(add_waker)

    def _notice(self) -> None:
        with self._lock:
            self._readable = self.event.poll() or self._readable
            self._hung_up = self.event.hung_up

    def _woken(self, event: PerfEvent) -> None:
        self._notice()
        self.face.session.wake(self)
        if self.holder is not None:
            self.face.signal(self)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _later(self, request: Request, work: Callable[[], bytes], given_up: Callable[[], bytes] | None = None) -> Later:
        session = self.face.session

        def do() -> None:
            try:
                session.reply(request.unique, work())
            except OSError as error:
                session.refuse(request.unique, error.errno or errno.EIO)
            except Exception:  # a fault of ours: the caller must not hang
                session.refuse(request.unique, errno.EIO)

        def give_up() -> None:
            if given_up is None:
                session.refuse(request.unique, errno.EINTR)
            else:
                session.reply(request.unique, given_up())

        self.face.jobs.submit(Job(request.tid, do, give_up))
        return Later()


def encode_counts(event: PerfEvent) -> bytes:
    """What read() gives, as the event's read_format asks for; only on the driving thread.

    Source: ``perf_read_one``, ``perf_read_group`` in ``kernel/events/core.c``.
    """
    form = event.attr.read_format
    group = bool(form & event_attr.FORMAT_GROUP)
    members: Sequence[PerfEvent] = [event.leader, *event.leader.siblings] if group else [event]
    readings = [member.read() for member in members]
    first = readings[0]
    times = [
        value
        for bit, value in (
            (event_attr.FORMAT_TIME_ENABLED, first.enabled_ns),
            (event_attr.FORMAT_TIME_RUNNING, first.running_ns),
        )
        if form & bit
    ]
    words = [len(members), *times] if group else []
    for reading in readings:
        words.append(reading.value)
        if not group:
            words += times
        if form & event_attr.FORMAT_ID:
            words.append(reading.id)
        if form & event_attr.FORMAT_LOST:
            words.append(0)
    return struct.pack(f"<{len(words)}Q", *words)
