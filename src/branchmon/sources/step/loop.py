"""The stepper's loop: a stop comes in, what retired is told, the task is resumed."""

import contextlib
import ctypes
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from branchmon.driver.tasks import Task, Tasks
from branchmon.sources import ptrace
from branchmon.sources.base import BranchSink
from branchmon.sources.decode import INT80, SYSCALL, Op
from branchmon.sources.doorbell import Inbox
from branchmon.sources.maps import VSYSCALL, caught_signals
from branchmon.sources.ptrace import GETSIGINFO, MASK64, PEEKUSER, RIP_OFFSET, SINGLESTEP, TRAP_TRACE, Vanished
from branchmon.sources.step import calls, family, stops, trapmask
from branchmon.sources.step.ledger import Ledger
from branchmon.sources.step.thread import Mode, Thread

if TYPE_CHECKING:
    from branchmon.sources.translate.engine import Engine

TRAP_STOP = signal.SIGTRAP << 8 | 0x7F
SYSCALL_STOP = TRAP_STOP | 0x8000
SPINS = 100
"""How often to ask for a stop before sleeping until there is one: a step ends sooner than a sleeper wakes up."""

OWN_STOP = signal.SIGSTOP << 8 | 0x7F
"""How a thread in translated code leaves it."""
_STEP, _STOPPED, _INSIDE = int(Mode.STEP), int(Mode.STOPPED), int(Mode.INSIDE)
_STOP_SIGNALS = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


class Stepper:
    """Everything traced by one thread, and the loop that drives it."""

    def __init__(self, tasks: Tasks, sink: BranchSink | None, warn: Callable[[str], None]) -> None:
        self.tasks = tasks
        self.sink = sink
        self.warn = warn
        self.ledger = Ledger(sink)
        self.inbox = Inbox()
        self.threads: dict[int, Thread] = {}
        self.pending: deque[tuple[int, int]] = deque()
        """Stops that were waited for out of turn."""
        self.unborn: dict[int, list[int]] = {}
        """Stops of tasks whose maker's stop has not come yet."""
        self.released: dict[int, bool] = {}
        """Processes to be let go; whether stopped."""
        self.ended: Callable[[Thread, int], None] = lambda thread, status: None
        self.driving = False
        self.engine: Engine | None = None
        """Executes what it can as translated code."""
        self.regs = ptrace.UserRegs()
        self._siginfo = ctypes.create_string_buffer(128)
        self._siginfo_ints = memoryview(self._siginfo).cast("B").cast("i")

    # ---- the loop --------------------------------------------------------------------------------------------------

    def drive(self, deadline: float | None) -> bool:
        """Run until no task is left (True), an interrupt, or the deadline (monotonic; somebody has to ring then)."""
        self.inbox.open()
        self.settle_and_work()
        self.driving = True
        try:
            for thread in list(self.threads.values()):
                self._resume_if_stopped(thread)
            return self._loop(deadline)
        finally:
            self.driving = False

    def _loop(self, deadline: float | None) -> bool:
        threads, pending, inbox, wait = self.threads, self.pending, self.inbox, os.waitpid
        request, flags = ptrace.request, ptrace.WAIT
        codes, siginfo = self._siginfo_ints, ctypes.addressof(self._siginfo)
        watch = flags | os.WNOHANG
        spins = SPINS if len(os.sched_getaffinity(0)) > 1 else 0
        vain = doze = 0  # spins in vain in a row; waits that sleep at once
        while True:
            if self.released:
                family.release_all(self)
            if not threads:
                return True
            if inbox.interrupted:
                inbox.interrupted = False
                return False
            if pending:
                tid, status = pending.popleft()
            elif doze:
                doze -= 1
                tid, status = wait(-1, flags)
            else:
                for _ in range(spins):
                    tid, status = wait(-1, watch)
                    if tid:
                        vain = 0
                        break
                else:
                    vain = min(vain + 1, 6)
                    doze = 1 << vain if spins else 0
                    tid, status = wait(-1, flags)
            thread = threads.get(tid)
            if thread is None:
                self._stranger(tid, status)
                if tid == inbox.pid and deadline is not None and time.monotonic() >= deadline:
                    return False
                continue
            if thread.mode == _INSIDE and status == OWN_STOP and self.engine is not None:
                try:
                    if self.engine.left(thread):
                        continue
                    if thread.mode == _STOPPED:
                        self._resume_if_stopped(thread)
                        continue
                except Vanished:
                    thread.mode = Mode.RUN
                    continue
            # A plain step of a task with nothing unusual about it, without a call more than it takes.
            if status == TRAP_STOP and thread.fast and thread.mode == _STEP:
                op = thread.op
                if request(GETSIGINFO, tid, 0, siginfo) == -1:
                    continue  # killed; the wait tells
                if codes[2] == TRAP_TRACE and op is not None and not op[2]:
                    rip = request(PEEKUSER, tid, RIP_OFFSET, 0)
                    if rip > 0:
                        if op[0]:
                            source, thread.rip = thread.rip, rip
                            thread.mode = _STOPPED
                            self.ledger.branch(thread, op, source, rip)
                            if thread.pid in self.released:
                                continue  # its trip's listener asked for it: not one instruction more
                        else:
                            thread.gap += 1
                            thread.rip = rip
                        following = thread.space.ops.get(rip)
                        if following is not None and thread.fast and not following[2]:
                            thread.op = following
                            thread.mode = _STEP
                            request(SINGLESTEP, tid, 0, 0)
                            continue
                        thread.mode = _STOPPED
                        self._resume_if_stopped(thread)
                        continue
            self._stopped(thread, status)
            self._resume_if_stopped(threads.get(tid))

    def _stopped(self, thread: Thread, status: int) -> None:
        try:
            self.take(thread, status)
        except Vanished:
            thread.mode = Mode.RUN  # killed; the wait tells

    def take(self, thread: Thread, status: int) -> None:
        """Take account of a stop, or an end; a stopped task is left to be resumed.

        :raises Vanished: it was killed.
        """
        if not os.WIFSTOPPED(status):
            family.ended(self, thread, status)
            return
        if thread.inside and self.engine is not None and not self._stays_inside(status):
            self.engine.surface(thread, status)
        was = thread.mode
        thread.mode = Mode.STOPPED
        thread.resume_signal = 0
        thread.group_stop = False
        number, event = os.WSTOPSIG(status), status >> 16
        if thread.swallow and status == OWN_STOP:
            thread.swallow = False
            return
        if event == ptrace.EVENT_STOP:
            thread.group_stop = number in _STOP_SIGNALS
            stops.interrupted(self, thread)
        elif event == ptrace.EVENT_EXEC:
            family.executed(self, thread.tid)
        elif event == ptrace.EVENT_EXIT:
            thread.inside = False
            thread.task.clock()  # its last reading: when the wait tells of the end, /proc has forgotten it
            thread.in_call = thread.restarting = False
            thread.exiting = True
        elif event:
            family.made_task(self, thread)
        elif status == SYSCALL_STOP:
            if thread.in_call:
                calls.left(self, thread)
            else:
                calls.entered(self, thread)
        elif number == signal.SIGTRAP:
            stops.trapped(self, thread, was)
        else:
            stops.signalled(self, thread, number, was)

    def _stranger(self, tid: int, status: int) -> None:
        if tid == self.inbox.pid:
            self.settle()
            self.inbox.answer(status)
            self.review_all()
        elif status >> 16 == ptrace.EVENT_EXEC and ptrace.event_message(tid) in self.threads:
            family.executed(self, tid)  # the leader, whose id this is, was not followed
            self._resume_if_stopped(self.threads.get(tid))
        elif os.WIFSTOPPED(status) or tid in self.unborn:
            self.unborn.setdefault(tid, []).append(status)

    # ---- resuming --------------------------------------------------------------------------------------------------

    def _resume_if_stopped(self, thread: Thread | None) -> None:
        if thread is not None and thread.mode == _STOPPED and thread.pid not in self.released:
            try:
                self.resume(thread)
            except Vanished:
                thread.mode = Mode.RUN

    def resume(self, thread: Thread) -> None:
        """Let a stopped task go on: a step, to the next system call, freely, for good.

        :raises Vanished: it was killed.
        """
        tid, number = thread.tid, thread.resume_signal
        if thread.leaving:
            family.let_go(self, thread)
        elif thread.group_stop:
            thread.mode = Mode.LISTEN
            ptrace.listen(tid)
        elif thread.exiting:
            thread.mode = Mode.RUN
            ptrace.cont(tid)
        elif not thread.monitored:
            self._let_run(thread, number)
        elif thread.clearing and not number:
            # Only a resume without a step makes it forget; a pending interrupt keeps that from executing anything.
            thread.clearing = False
            thread.mode = Mode.RUN
            ptrace.interrupt(tid)
            ptrace.cont(tid)
        else:
            translatable = not (number or thread.in_call or thread.restarting)
            if self.engine is not None and translatable and self.engine.dive(thread):
                return
            if not thread.trap_adopted:
                trapmask.adopt(thread)
            op = None
            if not thread.in_call and not thread.restarting:
                op = self._next_op(thread)
            to_call = op is None or op.flags & (SYSCALL | INT80)
            if to_call and not (number and self._has_handler(thread, number)):
                thread.mode = Mode.CALL
                ptrace.syscall(tid, number)
            else:
                thread.mode = Mode.STEP
                ptrace.step(tid, number)
        thread.resume_signal = 0

    def _next_op(self, thread: Thread) -> Op:
        if thread.rip >= VSYSCALL:  # carried out by the kernel; then the instruction behind the call executes
            thread.rip = thread.space.read_u64(ptrace.get_regs(thread.tid, self.regs).rsp)
        op = thread.space.ops.get(thread.rip) or thread.space.op(thread.rip)
        thread.op = op
        return op

    def _let_run(self, thread: Thread, number: int) -> None:
        self.ledger.finish(thread)
        trapmask.hand_back(thread)
        thread.task.unit.missed()
        thread.in_call = thread.restarting = thread.executing = False
        thread.mode = Mode.RUN
        ptrace.cont(thread.tid, number)

    def _has_handler(self, thread: Thread, number: int) -> bool:
        return bool(caught_signals(thread.pid, thread.tid) >> (number - 1) & 1)

    def rip(self, thread: Thread) -> int:
        """Where a stopped task stands."""
        return ptrace.peek_user(thread.tid, RIP_OFFSET) & MASK64

    def siginfo(self, thread: Thread) -> bytes:
        """The signal a task stopped for."""
        return ptrace.get_siginfo(thread.tid)

    # ---- who is monitored ------------------------------------------------------------------------------------------

    def follow(self, thread: Thread) -> None:
        """Add a task; it reacts to its events from now on."""
        self.threads[thread.tid] = thread
        thread.task.on_change = self._changed
        self.ledger.watch_trips(thread)
        self.review(thread)
        if len(self.threads) == 2:
            self.review_all()

    def _changed(self, task: Task) -> None:
        thread = self.threads.get(task.tid)
        if thread is not None and thread.task is task:
            self.review(thread)

    def review_all(self) -> None:
        """Look at every task anew: listeners may have come."""
        for thread in list(self.threads.values()):
            self.review(thread)

    def review(self, thread: Thread) -> None:
        """A task's events changed: start or stop stepping it, and see what a step has to look at.

        Without any event, a task is stepped for the sink if there is one.
        """
        task, unit = thread.task, thread.task.unit
        recorded = self.sink is not None and not any(task.slots)
        thread.monitored = not thread.foreign and (task.monitored or recorded)
        # A listener may look at, and switch off, every other task: their units must be up to date then.
        thread.between = unit.trips_between_branches or (len(self.threads) > 1 and bool(self.tasks.pmu.listeners))
        thread.fast = (
            thread.monitored
            and (self.engine is None or thread.step_only)
            and not thread.between
            and not thread.own_trap_flag
            and not thread.leaving
            and (thread.trap_held is None or thread.trap_blocked)
        )
        if thread.monitored and thread.mode == Mode.RUN and not thread.exiting:
            with contextlib.suppress(Vanished):
                ptrace.interrupt(thread.tid)

    def settle(self) -> None:
        """Bring all units up to date."""
        if self.engine is not None:
            self.engine.halt()
        for thread in list(self.threads.values()):
            self.ledger.settle(thread)

    def settle_and_work(self) -> None:
        """Do what other threads handed over while nobody drove."""
        self.settle()
        self.inbox.work()
        self.review_all()

    def leave_space(self, thread: Thread) -> None:
        """A task uses its address space no more."""
        if self.engine is not None:
            self.engine.forget(thread)
        thread.space.left()

    @staticmethod
    def _stays_inside(status: int) -> bool:
        """A group-stop: the task is left where it stands, until something ends it."""
        return status >> 16 == ptrace.EVENT_STOP and os.WSTOPSIG(status) in _STOP_SIGNALS

    def tell_mappings(self, thread: Thread) -> None:
        """The executable mappings changed."""
        if self.sink is not None:
            self.ledger.flush_sink(thread)
            self.sink.mapped(thread.task, thread.space.refresh())
