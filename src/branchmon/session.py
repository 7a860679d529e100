"""One monitoring of live programs: the driver, its tasks, a source, and the events opened on them.

What ``stat``, ``watch`` and ``record`` have in common::

    with Session(parse_events(["rets"]), SessionOptions(attributes={"threshold": "100"})) as session:
        session.launch(["ls", "-l"])            # or session.attach(pids=[42])
        session.pmu.listeners.append(...)       # if every trip is to be looked at
        with session.stopped_by_signals():
            session.run()
        result = session.result()

Everything runs on the thread that made the session, but :meth:`Session.stop`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Self

from branchmon.counts import CountResult, EventCount, TaskCount, Totals
from branchmon.device.counters import WINDOWS
from branchmon.driver.attributes import SPECS
from branchmon.driver.perf_event import PerfEvent
from branchmon.driver.pmu import Pmu
from branchmon.driver.refusals import is_privileged, perf_event_paranoid, refusal, store_attributes
from branchmon.driver.syntax import EventRequest
from branchmon.driver.tasks import Task, Tasks
from branchmon.errors import BranchmonError, PerfError
from branchmon.sources.base import BranchSink, ExitReport, LaunchOptions, LiveSource

SourceFactory = Callable[[Tasks, BranchSink | None], LiveSource]
SLOW_ATTACH_SECONDS = 2.0


@dataclass(frozen=True)
class SessionOptions:
    """How to monitor.

    :ivar attributes: values for the sysfs attributes, as text (parsed as the kernel does) or numbers.
    :ivar source: name of the source; None: the one that :mod:`branchmon.sources.choose` picks.
    :ivar inherit: children and new threads of monitored tasks are monitored too.
    :ivar strict: as strict as the posted driver and the manual (SPEC section 1 reading 3, section 2).
    :ivar kill_on_exit: launched programs die with branchmon.
    :ivar totals: run the predictor for every branch, so that the total of mispredictions is known.
    :ivar per_task: keep the counts of each task apart, of ended ones too.
    :ivar evidence: record last branches even when lbr_freeze is 0.
    :ivar until_program_ends: stop when the launched process ends, as perf does; what it left running goes on.
    :ivar sink: gets every retired branch.
    :ivar progress: told what takes long.
    """

    attributes: Mapping[str, str | int] = field(default_factory=dict)
    source: str | None = None
    inherit: bool = True
    strict: bool = False
    kill_on_exit: bool = False
    totals: bool = False
    per_task: bool = False
    evidence: bool = False
    until_program_ends: bool = False
    sink: BranchSink | None = None
    progress: Callable[[str], None] | None = None


class Session:
    """Monitors one launched program or several running processes with the same events.

    :param requests: what to count in every task; may be empty for a pure recorder.
    :param make_source: for tests: makes the source instead of ``options.source``.
    :raises UsageError: an attribute that does not exist or a value it does not take; a config without meaning.
    :raises UnsupportedError: what the driver refuses for all tasks alike, such as a third event (EBUSY). Nothing has
        been started or attached to then.
    """

    def __init__(
        self,
        requests: Sequence[EventRequest],
        options: SessionOptions | None = None,
        *,
        make_source: SourceFactory | None = None,
    ) -> None:
        self.requests = list(requests)
        self.options = options or SessionOptions()
        self.pmu = Pmu(strict=self.options.strict)
        store_attributes(self.pmu.attributes, self.options.attributes)
        self._privileged, self._paranoid = is_privileged(), perf_event_paranoid()
        self._rehearse()
        self.tasks = Tasks(self.pmu)
        self.tasks.always_predict = self.options.totals
        self.tasks.always_lbr = self.options.evidence
        self.events: list[list[PerfEvent]] = [[] for _ in self.requests]
        """Of each request, the events opened for it: one a task that was launched or attached to."""
        self.launched: Task | None = None
        self.launched_pid: int | None = None
        self.stop_signal: int | None = None
        """The signal that told us to stop, once :meth:`stopped_by_signals` saw one."""
        self._index: dict[int, int] = {}
        self._keyboard_seen = False
        self._program_ended = False
        self._closed = False
        self._ended: list[TaskCount] = []
        self._began: int | None = None
        self._finished: int | None = None
        if self.options.per_task:
            self.tasks.on_exit.append(lambda task, status: self._ended.append(self._task_count(task)))
        if self.options.until_program_ends:
            self.tasks.on_exit.append(self._notice_end)
        if make_source is None:
            make_source = default_source(self.options.source)
        self.source = make_source(self.tasks, self.options.sink)

    # ---- what is monitored -----------------------------------------------------------------------------------------

    def launch(self, argv: Sequence[str], *, env: dict[str, str] | None = None, cwd: str | None = None) -> Task:
        """Start a program with the events on it; it waits before its first instruction until :meth:`run`.

        :raises TargetError: as :meth:`branchmon.sources.base.LiveSource.launch`.
        """
        options = LaunchOptions(argv, env=env, cwd=cwd, kill_on_exit=self.options.kill_on_exit)
        with self._telling(f"starting {argv[0]}"):
            task = self.source.launch(options)
        self.launched, self.launched_pid = task, task.pid
        self._open(task, on_exec=True)
        return task

    def attach(self, *, pids: Iterable[int] = (), tids: Iterable[int] = ()) -> list[Task]:
        """Put the events on every thread of running processes, and on single threads; all wait until :meth:`run`.

        :raises TargetError: as :meth:`branchmon.sources.base.LiveSource.attach`.
        """
        tasks: dict[int, Task] = {}
        for pid in dict.fromkeys(pids):
            with self._telling(f"attaching to process {pid}"):
                tasks.update({task.tid: task for task in self.source.attach(pid)})
        for tid in dict.fromkeys(tids):
            if tid not in tasks:
                with self._telling(f"attaching to thread {tid}"):
                    tasks[tid] = self.source.attach_task(tid)
        for task in tasks.values():
            self._open(task, on_exec=False)
        return list(tasks.values())

    def replay(self) -> list[Task]:
        """Put the events on every thread that a trace begins with; for a session made with a trace as its source."""
        tasks = self.source.attach(0)
        self.launched_pid = tasks[0].pid
        for task in tasks:
            self._open(task, on_exec=False)
        return tasks

    def _open(self, task: Task, *, on_exec: bool) -> None:
        for i, event in enumerate(self._open_all(task, on_exec=on_exec)):
            self.events[i].append(event)
            self._index[event.id] = i

    def _open_all(self, task: Task, *, on_exec: bool) -> list[PerfEvent]:
        leaders: dict[int, PerfEvent] = {}
        opened: list[PerfEvent] = []
        for request in self.requests:
            leader = None if request.group is None else leaders.get(request.group)
            waits = on_exec and leader is None  # siblings follow their leader
            attr = request.attr(self.pmu.type, inherit=self.options.inherit, disabled=waits, enable_on_exec=waits)
            try:
                event = self.pmu.open(attr, task, leader=leader, privileged=self._privileged, paranoid=self._paranoid)
            except PerfError as error:
                raise refusal(error, request.name) from error
            if request.group is not None:
                leaders.setdefault(request.group, event)
            opened.append(event)
        return opened

    def _rehearse(self) -> None:
        """Open everything on a task that nobody runs, so that a refusal comes before a program is started."""
        scratch = Task(0, 0, self.pmu)
        scratch.read_clock = lambda: 0
        for event in reversed(self._open_all(scratch, on_exec=True)):
            self.pmu.close(event)

    def replace_events(self, requests: Sequence[EventRequest], attributes: Mapping[str, str | int]) -> None:
        """Watch for something else from now on: close all events, open these on every task, with these attributes.

        Between two calls of :meth:`run`. Attributes that are not named get their defaults; counts start at 0.

        :raises BranchmonError: as the constructor; everything stays as it was then.
        """
        before, kept = self.requests, dict(self.pmu.attributes)
        defaults = {name: spec.default for name, spec in SPECS.items()}
        try:
            store_attributes(self.pmu.attributes, {**defaults, **attributes})
            self.requests = list(requests)
            self._rehearse()
        except BranchmonError:
            self.requests = before
            store_attributes(self.pmu.attributes, kept)
            raise
        for events in self.events:
            for event in events:
                self.pmu.close(event)
        self.events = [[] for _ in self.requests]
        for task in self.tasks:
            self._open(task, on_exec=False)

    # ---- running ---------------------------------------------------------------------------------------------------

    def run(self, timeout: float | None = None) -> bool:
        """Drive the programs until all have ended, `timeout` seconds passed, or :meth:`stop` was called.

        :returns: True if no task is left; with ``until_program_ends``, if the launched process ended.
        """
        if self._began is None:
            self._began = time.monotonic_ns()
        if self.stop_signal is not None:
            return False
        done = self.source.run(timeout=timeout) or self._program_ended
        if done:
            self._finished = time.monotonic_ns()
        return done

    def _notice_end(self, task: Task, status: int) -> None:
        same_process = (other for other in self.tasks if other.pid == task.pid and other is not task)
        if task.pid == self.launched_pid and next(same_process, None) is None:
            self._program_ended = True
            self.source.interrupt()

    def stop(self, signal_number: int | None = None) -> None:
        """Make :meth:`run` return soon; from any thread and from signal handlers."""
        if signal_number is not None:
            self.stop_signal = signal_number
        self.source.interrupt()

    @contextmanager
    def stopped_by_signals(self, *signals: int) -> Iterator[None]:
        """While this lasts, SIGTERM and SIGINT (or `signals`) stop the run instead of killing branchmon.

        A ^C from the keyboard reaches a launched program too: it decides, as under perf. The second one stops the run.
        """
        wanted = signals or (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in wanted}
        # An ignored signal stays ignored (nohup, a shell's background job): so it is for the program, too.
        taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first_interrupt = number == signal.SIGINT and not self._keyboard_seen
        if first_interrupt and self.launched_pid is not None and _from_keyboard():
            self._keyboard_seen = True
        else:
            self.stop(number)

    def close(self) -> None:
        """Let go of everything; a launched program that still runs goes on, or dies if kill_on_exit asked for it.

        Best called while :meth:`stopped_by_signals` lasts: a signal that kills us amid detaching harms the program.
        """
        if not self._closed:
            self._closed = True
            self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what was counted ------------------------------------------------------------------------------------------

    def counts(self) -> list[EventCount]:
        """Every request's count so far, over all its tasks."""
        self.source.sync()
        return [self._sum(request.name, events) for request, events in zip(self.requests, self.events, strict=True)]

    def totals(self) -> Totals:
        """What retired so far while monitored, over all tasks."""
        self.source.sync()
        windows = self.tasks.ended_windows + sum(task.unit.state[WINDOWS] for task in self.tasks)
        return Totals.of(self.tasks.totals(), windows)

    def task_counts(self) -> list[TaskCount]:
        """The counts of each task, ended ones too; only with ``per_task``."""
        self.source.sync()
        living = [self._task_count(task) for task in self.tasks]
        return sorted((*self._ended, *living), key=lambda count: (count.pid, count.tid))

    @property
    def elapsed(self) -> float:
        """Seconds since :meth:`run` was first called, up to when the last task ended."""
        if self._began is None:
            return 0.0
        end = time.monotonic_ns() if self._finished is None else self._finished
        return (end - self._began) / 1e9

    def exit_report(self) -> ExitReport | None:
        """How the launched program ended; None if none was launched."""
        return None if self.launched_pid is None else self.source.report(self.launched_pid)

    def result(self) -> CountResult:
        """Everything that was counted so far."""
        elapsed, report = self.elapsed, self.exit_report()
        return CountResult(
            self.counts(),
            self.totals(),
            self.task_counts() if self.options.per_task else [],
            elapsed,
            None if report is None else report.user,
            None if report is None else report.system,
            None if report is None else report.status,
            list(self.source.warnings),
        )

    @staticmethod
    def _sum(name: str, events: Sequence[PerfEvent]) -> EventCount:
        count = EventCount(name)
        for event in events:
            reading = event.read()
            count.trips += reading.value
            count.enabled_ns += reading.enabled_ns
            count.running_ns += reading.running_ns
            count.highest = max(count.highest, event.highest_count())
        return count

    def _task_count(self, task: Task) -> TaskCount:
        counts = TaskCount(task.tid, task.pid, task.comm or _comm(task.tid))
        by_request = {self._index[event.id]: event for event in task.events() if event.id in self._index}
        for i, request in enumerate(self.requests):
            event = by_request.get(i)
            if event is None:
                counts.events.append(EventCount(request.name))
            else:
                own, highest = event.read_own(), self.pmu.highest(event)
                counts.events.append(EventCount(request.name, own.value, own.enabled_ns, own.running_ns, highest))
        return counts

    # ---- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Say `what` is going on if it takes long."""
        if self.options.progress is None:
            yield
            return
        timer = threading.Timer(SLOW_ATTACH_SECONDS, self.options.progress, [f"{what} takes a while …"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def default_source(name: str | None) -> SourceFactory:
    """The source of this name, or the best one here; imported only now, as it is large."""
    from branchmon.sources.choose import choose

    return choose(name).__call__


def _comm(tid: int) -> str:
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _from_keyboard() -> bool:
    """A SIGINT now probably came from the terminal, to the whole foreground process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
