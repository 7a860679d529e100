"""perf_event_open for the PMU: the checks of perf's core, then the driver's, then a new event and its file.

Source: ``SYSCALL_DEFINE5(perf_event_open)`` in ``kernel/events/core.c`` (order of the checks); SPEC section 2 (the
driver's). The caller's right to watch the target is checked before the driver is asked, as in Linux 4.14.
"""

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from branchmon.abi import event_attr
from branchmon.abi.credentials import Credentials, credentials, may_trace
from branchmon.abi.driving import Driving
from branchmon.abi.event_attr import AttrSizeError, RawAttr, copy_attr
from branchmon.abi.event_file import EventFile
from branchmon.abi.files import EventFiles
from branchmon.abi.jobs import Jobs
from branchmon.abi.seccomp import ERESTARTNOINTR, Caught, Listener
from branchmon.abi.syscalls import read_memory, write_memory
from branchmon.driver.perf_event import PerfEvent, PerfEventAttr
from branchmon.driver.pmu import Pmu
from branchmon.driver.refusals import perf_event_paranoid
from branchmon.driver.tasks import Task
from branchmon.errors import PerfError, TargetError
from branchmon.sources.maps import tracer_of

_CLOCKS = frozenset((0, 1, 4, 7, 11))  # REALTIME, MONOTONIC, MONOTONIC_RAW, BOOTTIME, TAI
_ERRNO_OF_SLUG = {
    "no-such-process": errno.ESRCH,
    "zombie": errno.ESRCH,
    "no-permission": errno.EACCES,
    "32-bit": errno.EOPNOTSUPP,
    "kernel": errno.EINVAL,
}
"""Of a source's refusal to follow a task; EPERM for the rest (already traced, branchmon itself)."""


@dataclass(frozen=True)
class _Wish:
    """A call for our PMU, understood."""

    caught: Caught
    raw: RawAttr
    caller: Credentials
    target: Credentials | None
    leader: EventFile | None

    @property
    def attr(self) -> PerfEventAttr:
        return self.raw.driver_attr()

    @property
    def cpu(self) -> int:
        return self.caught.signed(2)


class Opener:
    """Answers perf_event_open calls.

    :param refused: told of every refusal, for people: the caller's task, and why.
    :param inside: the user namespace made for the shell, 0 if none was; `outside`: the one that branchmon is in.
    """

    def __init__(
        self,
        pmu: Pmu,
        driving: Driving,
        jobs: Jobs,
        files: EventFiles,
        listener: Listener,
        refused: Callable[[int, str], None],
        inside: int,
        outside: int,
    ) -> None:
        self.pmu = pmu
        self.driving = driving
        self.jobs = jobs
        self.files = files
        self.listener = listener
        self.refused = refused
        self.inside = inside
        self.outside = outside
        self._unattached: dict[int, OSError] = {}
        self.awaited: set[int] = set()
        """Processes that were attached to for an event that is yet to be opened: their caller comes again."""

    def handle(self, caught: Caught) -> None:
        """Answer one call; the caller has the turn of :class:`Jobs`."""
        try:
            raw = copy_attr(lambda offset, size: read_memory(caught.tid, caught.arguments[0] + offset, size))
        except AttrSizeError:
            self._wrong_size(caught)
            return
        except OSError:
            self.listener.pass_on(caught)  # the kernel says EFAULT itself
            return
        if not self.listener.valid(caught):
            return
        if raw.type != self.pmu.type:
            self._foreign(caught)
            return
        try:
            self._open(caught, raw)
        except OSError as error:
            self.refused(caught.tid, error.strerror or str(error))
            self.listener.refuse(caught, error.errno or errno.EIO)

    def _wrong_size(self, caught: Caught) -> None:
        address = caught.arguments[0]
        try:
            ours = struct.unpack("<I", read_memory(caught.tid, address, 4))[0] == self.pmu.type
            if not ours or not self.listener.valid(caught):
                self.listener.pass_on(caught)
                return
            write_memory(caught.tid, address + 4, struct.pack("<I", event_attr.SIZE))
            self.listener.refuse(caught, errno.E2BIG)
        except OSError as error:
            self.listener.refuse(caught, error.errno or errno.EFAULT)

    def _foreign(self, caught: Caught) -> None:
        """Another PMU's event. It cannot join an event of ours: that is what the kernel says of unlike PMUs."""
        group = caught.signed(3)
        if group != -1 and self.files.find(caught.tid, group) is not None:
            self.listener.refuse(caught, errno.EINVAL)
        else:
            self.listener.pass_on(caught)

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _open(self, caught: Caught, raw: RawAttr) -> None:
        flags = caught.arguments[4]
        wish = self._understand(caught, raw, flags)
        try:
            event = self.driving.call(lambda: self._make(wish))
        except PerfError as error:
            if error.errno != errno.EBUSY:
                raise
            # A close just before this call may still be on its way: a request that waits for those before it.
            self.files.barrier()
            self.jobs.drain()
            event = self.driving.call(lambda: self._make(wish))
        if event is not None:
            self._deliver(caught, event, close_on_exec=bool(flags & event_attr.FLAG_FD_CLOEXEC))

    def _understand(self, caught: Caught, raw: RawAttr, flags: int) -> _Wish:
        """The checks of perf's core, in its order."""
        pid, cpu = caught.signed(1), caught.signed(2)
        if flags & ~event_attr.FLAGS_ALL:
            raise _error(errno.EINVAL)
        raw.check()
        caller = credentials(caught.tid)
        if raw.has("namespaces") and not caller.privileged(self.outside):
            raise _error(errno.EACCES)
        if raw.sample_period > _sample_rate() if raw.has("freq") else raw.sample_period >> 63:
            raise _error(errno.EINVAL)
        cgroup = bool(flags & event_attr.FLAG_PID_CGROUP)
        if cgroup and (pid == -1 or cpu == -1):
            raise _error(errno.EINVAL)
        related = self._related(caught)
        leader = None if flags & event_attr.FLAG_FD_NO_GROUP else related
        target = None if pid == -1 or cgroup else credentials(self._target_id(caught, pid))
        if target is not None:
            if leader is not None and leader.event.attr.inherit != raw.has("inherit"):
                raise _error(errno.EINVAL)
            if not may_trace(caller, target, inside=self.inside, outside=self.outside):
                raise OSError(errno.EACCES, f"the caller may not trace task {target.tid}")
        self._check_alloc(raw, cpu, target)
        if leader is not None and (raw.has("pinned") or raw.has("exclusive")):
            raise _error(errno.EINVAL)
        if related is not None and flags & event_attr.FLAG_FD_OUTPUT:
            raise _error(errno.EINVAL)  # no event of ours has a buffer to share
        return _Wish(caught, raw, caller, target, leader)

    def _related(self, caught: Caught) -> EventFile | None:
        group = caught.signed(3)
        if group == -1:
            return None
        file = self.files.find(caught.tid, group)
        if file is None:
            if self.files.is_event(caught.tid, group):
                raise OSError(errno.EINVAL, "an event of the kernel cannot lead one of this PMU")
            raise _error(errno.EBADF)
        return file

    @staticmethod
    def _target_id(caught: Caught, pid: int) -> int:
        if pid < 0:
            raise _error(errno.ESRCH)
        return pid or caught.tid

    @staticmethod
    def _check_alloc(raw: RawAttr, cpu: int, target: Credentials | None) -> None:
        """``perf_event_alloc``, where it says EINVAL without asking the driver."""
        refused = (
            not -1 <= cpu < (os.cpu_count() or 1)
            or (cpu == -1 and target is None)
            or (raw.has("sigtrap") and target is None)
            or (raw.has("inherit") and raw.sample_type & event_attr.SAMPLE_READ and not raw.has("inherit_thread"))
            or (raw.has("use_clockid") and raw.clockid not in _CLOCKS)
        )
        if refused:
            raise _error(errno.EINVAL)

    # ---- on the driving thread -------------------------------------------------------------------------------------

    def _make(self, wish: _Wish) -> PerfEvent | None:
        """Open the event; None if the caller had to be let go to be attached to, and will call again."""
        leader = None if wish.leader is None else wish.leader.event
        scratch = None
        if wish.target is not None:
            scratch = Task(0, 0, self.pmu)
            scratch.read_clock = lambda: 0
        # What the driver refuses in any case, before anything is done to the target.
        self.pmu.close(self._driver_open(wish, scratch, None))
        assert wish.target is not None
        task = self.driving.tasks.get(wish.target.tid)
        if task is None:
            task = self._attach(wish, wish.target)
        if task is None:
            return None
        self.awaited.discard(task.pid)
        self.driving.source.sync()
        return self._driver_open(wish, task, leader)

    def _driver_open(self, wish: _Wish, task: Task | None, leader: PerfEvent | None) -> PerfEvent:
        attr = wish.attr
        return self.pmu.open(
            attr,
            task,
            # perf record asks for a task on each CPU: that it samples is then the reason to give.
            cpu=-1 if attr.sampling and task is not None else wish.cpu,
            leader=leader,
            privileged=wish.caller.privileged(self.outside),
            paranoid=perf_event_paranoid(),
        )

    def _attach(self, wish: _Wish, target: Credentials) -> Task | None:
        failed = self._unattached.pop(wish.caught.tid, None)
        if failed is not None:
            raise failed
        if tracer_of(target.tid):
            raise OSError(errno.EPERM, f"task {target.tid} is already traced")
        restarted = False

        def let_go() -> None:
            nonlocal restarted
            restarted = True
            self.listener.refuse(wish.caught, ERESTARTNOINTR)

        held = target.pid == wish.caller.pid
        try:
            with self.jobs.stopping({target.pid}):
                task = self.driving.source.attach_task(target.tid, interrupted=let_go if held else None)
        except TargetError as error:
            refusal = OSError(_ERRNO_OF_SLUG.get(error.slug, errno.EPERM), error.message)
            if not restarted:
                raise refusal from error
            self._unattached[wish.caught.tid] = refusal
            return None
        if restarted:
            self.awaited.add(target.pid)
            return None
        return task

    # ---- the descriptor --------------------------------------------------------------------------------------------

    def _deliver(self, caught: Caught, event: PerfEvent, *, close_on_exec: bool) -> None:
        try:
            descriptor = self.files.open(event)
        except OSError:
            self.driving.call(lambda: self.pmu.close(event))
            raise
        try:
            self.listener.give(caught, descriptor, close_on_exec=close_on_exec)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        finally:
            os.close(descriptor)  # the caller has his own; without one, the event is closed now


def _sample_rate() -> int:
    try:
        with open("/proc/sys/kernel/perf_event_max_sample_rate", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 100000


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
