"""Puts the parts together: a command inside, and the threads that serve it from outside.

Threads: the FUSE thread answers requests on the tree; the notifier answers caught system calls; the jobs thread waits
for the driving thread on behalf of event descriptors; the driving thread owns ptrace and the driver; the main thread
waits for the command. See :mod:`branchmon.abi.jobs` for who may wait for whom.
"""

import errno
import os
import select
import struct
import threading
from collections.abc import Callable

from branchmon.abi.credentials import credentials, user_namespace
from branchmon.abi.driving import Driving
from branchmon.abi.event_file import IOC_PAUSE_OUTPUT, IOC_SET_BPF, EventFile
from branchmon.abi.files import EventFiles
from branchmon.abi.fuse import Session
from branchmon.abi.jobs import Jobs
from branchmon.abi.opener import Opener
from branchmon.abi.seccomp import FIOASYNC, Caught, Listener
from branchmon.abi.sigio import Holder, Signaller
from branchmon.abi.syscalls import NR_FCNTL, NR_IOCTL, NR_PERF_EVENT_OPEN, read_memory
from branchmon.abi.sysfs import pmu_tree
from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Tasks
from branchmon.sources.base import LiveSource


class Server:
    """Serves one shell.

    :param make_source: makes the source that events are counted by.
    :param refused: told of each refused perf_event_open: the caller's task id, and why.
    """

    def __init__(
        self,
        pmu: Pmu,
        make_source: Callable[[Tasks], LiveSource],
        refused: Callable[[int, str], None] = lambda tid, why: None,
    ) -> None:
        self.pmu = pmu
        self.tasks = Tasks(pmu)
        self.driving = Driving(self.tasks, lambda: make_source(self.tasks))
        self.jobs = Jobs(self._let_go)
        self.files = EventFiles(lambda event: EventFile(event, self))
        self.session: Session
        self._refused = refused
        self._signaller = Signaller()
        self._listener: Listener | None = None
        self._opener: Opener | None = None
        self._stop = os.pipe2(os.O_CLOEXEC)
        self._some_closed = False
        self._threads: list[threading.Thread] = []

    # ---- starting and ending ---------------------------------------------------------------------------------------

    def serve_tree(self, connection: int, uid: int, gid: int) -> None:
        """Answer FUSE requests from now on.

        :param connection: the FUSE device, owned from now on.
        :param uid: the files' owner; likewise `gid`.
        """
        self.session = Session(
            connection, pmu_tree(self.pmu, self.files.hidden, self.driving.prepare), uid=uid, gid=gid
        )
        self._run("fuse", self.session.serve)

    def serve_calls(self, listener: int, directory: int, inside_pid: int) -> None:
        """Answer caught system calls from now on.

        :param listener: of the seccomp filter; owned from now on, as is `directory`, the mounted root.
        :param inside_pid: a process inside.
        """
        self.files.start(self.session, directory)
        self._listener = Listener(listener)
        outside, inside = user_namespace("self"), user_namespace(inside_pid)
        self._opener = Opener(
            self.pmu,
            self.driving,
            self.jobs,
            self.files,
            self._listener,
            self._refused,
            inside=0 if inside == outside else inside,
            outside=outside,
        )
        self.driving.start()
        self.jobs.start()
        self._run("notifier", self._notify)

    def close(self) -> None:
        """Let everything go: what still runs inside has no PMU any more."""
        os.write(self._stop[1], b"x")
        for thread in self._threads:
            if thread.name == "notifier":
                thread.join()
        self.jobs.close()
        self.driving.close()
        self._signaller.close()
        self.files.close()

    def _run(self, name: str, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # ---- caught system calls ---------------------------------------------------------------------------------------

    def _notify(self) -> None:
        assert self._listener is not None
        poll = select.poll()
        poll.register(self._listener.descriptor, select.POLLIN)
        poll.register(self._stop[0], select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop[0] in ready or not ready.get(self._listener.descriptor, 0) & select.POLLIN:
                break  # POLLHUP: nobody is left inside
            with self.jobs.turn:
                try:
                    caught = self._listener.receive()
                except OSError:
                    break
                if caught is not None:
                    self._handle(caught)
        self._listener.close()

    def _handle(self, caught: Caught) -> None:
        assert self._listener is not None and self._opener is not None
        try:
            if caught.number == NR_PERF_EVENT_OPEN:
                self._opener.handle(caught)
            elif caught.number == NR_FCNTL:
                self._set_flags(caught)
            elif caught.number == NR_IOCTL:
                self._ioctl(caught)
            else:
                self._listener.pass_on(caught)
        except Exception:  # a fault of ours: the caller must not hang
            self._listener.refuse(caught, errno.EIO)

    def _find(self, caught: Caught) -> EventFile | None:
        try:
            return self.files.find(caught.tid, caught.signed(0))
        except OSError:
            return None

    def _set_flags(self, caught: Caught) -> None:
        """``fcntl(F_SETFL)``: the kernel does it, but forgets O_ASYNC."""
        assert self._listener is not None
        file = self._find(caught)
        if file is not None:
            self._set_async(file, caught, bool(caught.arguments[2] & os.O_ASYNC))
        self._listener.pass_on(caught)

    def _set_async(self, file: EventFile, caught: Caught, on: bool) -> None:
        if not on:
            file.holder = None
            return
        self._signaller.start()
        file.holder = Holder(credentials(caught.tid), caught.signed(0))
        file.watch()

    def _ioctl(self, caught: Caught) -> None:
        assert self._listener is not None
        file = self._find(caught)
        if file is None:
            self._listener.pass_on(caught)
            return
        command = caught.arguments[1] & 0xFFFFFFFF
        if command in (IOC_SET_BPF, IOC_PAUSE_OUTPUT):
            self._listener.refuse(caught, errno.EINVAL)
        elif command == FIOASYNC:
            try:
                on = struct.unpack("<i", read_memory(caught.tid, caught.arguments[2], 4))[0] != 0
                self._set_async(file, caught, on)
                self._listener.answer(caught)
            except (OSError, struct.error) as error:
                self._listener.refuse(caught, getattr(error, "errno", None) or errno.EFAULT)

    # ---- what event files need -------------------------------------------------------------------------------------

    def on_driver(self, function: Callable[[], bytes]) -> bytes:
        """Run on the driving thread, with the units brought up to date."""

        def work() -> bytes:
            self.driving.source.sync()
            return function()

        return self.driving.call(work)

    def closed(self, file: EventFile) -> None:
        """The last descriptor is gone: close the event."""
        self.files.closed(file)
        self.driving.call(lambda: self.pmu.close(file.event))
        self._some_closed = True

    def is_event(self, tid: int, descriptor: int) -> bool:
        """A task's descriptor is a perf event, ours or the kernel's."""
        return self.files.is_event(tid, descriptor)

    def signal(self, file: EventFile) -> None:
        """Send SIGIO to whom the file's owner named."""
        if file.holder is not None:
            self._signaller.signal(file.holder)

    def _let_go(self) -> None:
        """Detach from processes that have no event any more. Under the jobs' turn."""
        if not self._some_closed:
            return
        self._some_closed = False
        assert self._opener is not None
        awaited = self._opener.awaited

        def let_go() -> None:
            busy = {task.pid for task in self.tasks if any(task.events())}
            for pid in {task.pid for task in self.tasks} - busy - awaited:
                with self.jobs.stopping({pid}):
                    self.driving.source.release(pid)

        self.driving.call(let_go)
