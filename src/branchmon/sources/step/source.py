"""The single-step source as others see it: launch, attach, run, let go."""

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from branchmon.driver.tasks import Task, Tasks
from branchmon.sources import access, launch, ptrace
from branchmon.sources.base import BranchSink, Capabilities, ExitReport, LaunchOptions, Warnings
from branchmon.sources.step import family
from branchmon.sources.step.loop import Stepper
from branchmon.sources.step.space import AddressSpace
from branchmon.sources.step.thread import Mode, Thread

T = TypeVar("T")

OPTIONS = (
    ptrace.O_TRACESYSGOOD
    | ptrace.O_TRACEFORK
    | ptrace.O_TRACEVFORK
    | ptrace.O_TRACECLONE
    | ptrace.O_TRACEEXEC
    | ptrace.O_TRACEEXIT
)


class StepSource:
    """Executes programs one instruction at a time under ptrace: see :class:`~branchmon.sources.base.LiveSource`.

    Without an event of its own, a task is followed instruction by instruction only if there is a sink.
    """

    options = OPTIONS
    """PTRACE_O_ bits for what is followed."""

    def __init__(self, tasks: Tasks, sink: BranchSink | None = None) -> None:
        self.tasks = tasks
        self._warnings = Warnings()
        self._stepper = Stepper(tasks, sink, self.warn)
        self._stepper.ended = self._ended
        self._launched: dict[int, launch.Launched] = {}
        self._starting: list[Thread] = []
        self._killed_with_us: set[int] = set()
        self._reports: dict[int, ExitReport] = {}

    @property
    def warnings(self) -> list[str]:
        """What could not be counted exactly, each message once."""
        return self._warnings.messages

    def warn(self, message: str) -> None:
        """Note what could not be counted exactly."""
        self._warnings.add(message)

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What single-stepping can do here."""
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return Capabilities("step", False, "single-stepping needs Linux on x86-64")
        return Capabilities("step", True, "executes one instruction at a time under ptrace: slow, always exact")

    # ---- what is followed --------------------------------------------------------------------------------------------

    def launch(self, options: LaunchOptions) -> Task:
        """Start a program, stopped before its first instruction after exec."""
        launched = launch.launch(options, self.options)
        pid = launched.pid
        self._launched[pid] = launched
        if options.kill_on_exit:
            self._killed_with_us.add(pid)
        self._reports[pid] = ExitReport()
        thread = family.add(self._stepper, pid, pid, AddressSpace(pid))
        thread.mode = Mode.STOPPED
        thread.in_call, thread.call = True, -1
        thread.rip = ptrace.peek_user(pid, ptrace.RIP_OFFSET)
        self._starting.append(thread)
        return thread.task

    def attach(self, pid: int, *, interrupted: Callable[[], None] | None = None) -> list[Task]:
        """Follow a running process: all threads, and what they start later."""
        access.check_process(pid)
        return self._attach(pid, access.seize_process(pid, self.options), interrupted)

    def attach_task(self, tid: int, *, interrupted: Callable[[], None] | None = None) -> Task:
        """Follow one thread, and what it starts."""
        pid = access.check_thread(tid)
        access.seize_thread(tid, self.options)
        return self._attach(pid, [tid], interrupted)[0]

    def _attach(self, pid: int, tids: list[int], interrupted: Callable[[], None] | None) -> list[Task]:
        stepper = self._stepper
        known = [thread for thread in stepper.threads.values() if thread.pid == pid]
        space = known[0].space if known else AddressSpace(pid)
        for tid in tids:
            with contextlib.suppress(ptrace.Vanished):
                ptrace.interrupt(tid)
        if interrupted is not None:
            interrupted()
        threads = []
        for tid in tids:
            status = family.wait_patiently(tid, family.PATIENCE)
            thread = family.add(stepper, tid, pid, space)
            thread.task.unit.missed()
            if status is not None:
                stepper.pending.append((tid, status))
            threads.append(thread)
        self._refuse_32_bit(pid, threads)
        if stepper.sink is not None and threads:
            stepper.sink.mapped(threads[0].task, space.refresh())
        return [thread.task for thread in threads]

    def _refuse_32_bit(self, pid: int, threads: list[Thread]) -> None:
        with contextlib.suppress(ptrace.Vanished):
            if any(family.refuse_32_bit(thread) for thread in threads):
                self.release(pid)
                family.release_all(self._stepper)
                raise launch.refuse_32_bit(f"Process {pid}")

    # ---- driving -----------------------------------------------------------------------------------------------------

    def run(self, *, timeout: float | None = None) -> bool:
        """Drive everything until no task is left, :meth:`interrupt` was called, or `timeout` seconds passed."""
        for thread in self._starting:
            family.begin_program(self._stepper, thread)
        self._starting.clear()
        if timeout is None:
            return self._stepper.drive(None)
        timer = threading.Timer(timeout, self._ring)
        timer.daemon = True
        deadline = time.monotonic() + timeout
        timer.start()
        try:
            return self._stepper.drive(deadline)
        finally:
            timer.cancel()

    def _ring(self) -> None:
        bell = self._stepper.inbox.bell
        if bell is not None:
            bell.ring()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the driving thread between two stops, and return what it returns."""

        def settled() -> T:
            self._stepper.settle()
            try:
                return function()
            finally:
                self._stepper.review_all()

        return self._stepper.inbox.call(settled)

    def interrupt(self) -> None:
        """Make :meth:`run` return soon, the next one if none is active."""
        self._stepper.inbox.interrupt()

    def sync(self) -> None:
        """Bring every task's unit and event counts up to date."""
        self._stepper.settle()

    # ---- letting go --------------------------------------------------------------------------------------------------

    def release(self, pid: int, *, stop: bool = False) -> None:
        """Detach from a process and leave it running natively; with `stop`, stopped by SIGSTOP.

        It takes effect before the next instruction: when the trip listener that called returns, or when :meth:`run`
        goes on.
        """
        self._stepper.released[pid] = stop
        if not self._stepper.driving:
            family.release_all(self._stepper)

    def close(self) -> None:
        """Detach from everything, kill what was to be killed with us, free what is held."""
        stepper = self._stepper
        for pid in {thread.pid for thread in stepper.threads.values()}:
            if pid in self._killed_with_us:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            stepper.released.setdefault(pid, False)
        family.release_all(stepper)
        deadline = time.monotonic() + family.PATIENCE
        while stepper.threads and time.monotonic() < deadline:
            self._let_go_of_stragglers()
        stepper.inbox.close()

    def _let_go_of_stragglers(self) -> None:
        """Tasks that would not stop: killed ones, and those that waited in vfork for a child that is free now."""
        for thread in list(self._stepper.threads.values()):
            status = family.wait_patiently(thread.tid, 0.01)
            if status is not None:
                with contextlib.suppress(ptrace.Vanished):
                    self._stepper.take(thread, status)
                    if thread.mode == Mode.STOPPED and thread.tid in self._stepper.threads:
                        family.let_go(self._stepper, thread)

    # ---- reports -----------------------------------------------------------------------------------------------------

    def report(self, pid: int) -> ExitReport:
        """How a launched program ended; its status is None while it runs, or when it was let go."""
        return self._reports.get(pid, ExitReport())

    def _ended(self, thread: Thread, status: int) -> None:
        launched = self._launched.get(thread.pid)
        if launched is not None and thread.tid == thread.pid and not self._other_threads(thread):
            self._reports[thread.pid] = launch.exit_report(launched, status)

    def _other_threads(self, thread: Thread) -> bool:
        return any(other.pid == thread.pid for other in self._stepper.threads.values())
