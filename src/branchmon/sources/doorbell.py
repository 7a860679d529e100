"""Waking the driving thread out of waitpid, from other threads and from signal handlers, without a race.

A waitpid(2) that is about to block cannot be woken by a flag, and a signal that comes just before it is lost. So the
driving thread traces one more task, a child that only sleeps: a signal sent to the child stops it, and waitpid reports
the stop, sooner or later but always.
"""

import contextlib
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from branchmon.sources import ptrace

T = TypeVar("T")


class Doorbell:
    """The sleeping child. Made, answered and closed by the driving thread; rung by anyone."""

    def __init__(self) -> None:
        self.pid = _start_sleeper()
        try:
            ptrace.seize(self.pid, ptrace.O_EXITKILL)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise

    def ring(self) -> None:
        """Make the driving thread's wait return. Safe in signal handlers; nothing happens if the child is gone."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    def answered(self, status: int) -> bool:
        """The driving thread's wait reported :attr:`pid`: let the child sleep on. False if it has died."""
        if os.WIFSTOPPED(status):
            with contextlib.suppress(ProcessLookupError):
                ptrace.cont(self.pid)
            return True
        self.pid = 0
        return False

    def close(self) -> None:
        """End the child and reap it."""
        pid, self.pid = self.pid, 0
        if not pid:
            return
        os.kill(pid, signal.SIGKILL)
        while os.WIFSTOPPED(ptrace.wait_for(pid)):
            pass


def _start_sleeper() -> int:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # It only closes descriptors and sleeps, so the other threads' locks do not matter to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _sleep()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _sleep() -> None:
    """The child's whole life: hold nothing open, stay out of the terminal's process group, sleep."""
    try:
        os.setsid()
        os.closerange(0, 1 << 20)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
        while True:
            signal.pause()
    finally:
        os._exit(0)


class _Job:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        self.done.set()


class Inbox:
    """Work that other threads hand to the driving thread, and requests to stop.

    Exists before there is anything to wait for; the doorbell is hung up by :meth:`open` on the driving thread.
    """

    def __init__(self) -> None:
        self.bell: Doorbell | None = None
        self.interrupted = False
        self._jobs: deque[_Job] = deque()
        self._driver: int | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """The doorbell's process, as waitpid reports it; 0 if there is none."""
        return self.bell.pid if self.bell is not None else 0

    def open(self) -> None:
        """Take the calling thread as the driving thread; start the doorbell, or a new one if it died."""
        self._driver = threading.get_ident()
        if self.bell is None or not self.bell.pid:
            self.bell = Doorbell()
            if self._jobs or self.interrupted:
                self.bell.ring()

    def answer(self, status: int) -> None:
        """waitpid reported :attr:`pid`: let it sleep on and do what was asked for."""
        if self.bell is not None and not self.bell.answered(status):
            self.open()
        self.work()

    def work(self) -> None:
        """Run what other threads handed over."""
        while self._jobs:
            self._jobs.popleft().run()

    def interrupt(self) -> None:
        """Set :attr:`interrupted` and ring. Callable from any thread and from signal handlers."""
        self.interrupted = True
        if self.bell is not None:
            self.bell.ring()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the driving thread, return what it returns, raise what it raises.

        On the driving thread itself, or when nobody drives (before the first :meth:`open`, after :meth:`close`), it
        runs at once.
        """
        if self._driver is None or self._closed or self._driver == threading.get_ident():
            return function()
        job = _Job(function)
        self._jobs.append(job)
        if self.bell is not None:
            self.bell.ring()
        if self._closed:
            self.work()
        job.done.wait()
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def close(self) -> None:
        """Run what is left, and end the doorbell."""
        self._closed = True
        self.work()
        if self.bell is not None:
            self.bell.close()
            self.bell = None
