"""A live source for tests of the command line: it plays a script of branches instead of watching programs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from branchmon.driver.tasks import Task, Tasks
from branchmon.errors import TargetError
from branchmon.events import BranchKind
from branchmon.sources.base import ExitReport, LaunchOptions

FIRST_PID = 4_194_300  # above any pid that the kernel gives out


@dataclass
class ScriptedSource:
    """Plays one step of the script a ``run`` that has a timeout, or all of them.

    A step is a function of the source; it may retire branches on ``source.tasks``, start and end tasks, stop the run.
    """

    tasks: Tasks
    script: Sequence[Callable[["ScriptedSource"], Any]]
    status: int = 0
    warnings: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    at: int = 0
    interrupted: bool = False
    clock: int = 0

    def launch(self, options: LaunchOptions) -> Task:
        if options.argv[0] == "/nonexistent":
            raise TargetError("/nonexistent: not found", slug="not-found", exit_code=127)
        self.calls.append(f"launch {' '.join(options.argv)}")
        return self.start(FIRST_PID, FIRST_PID)

    def attach(self, pid: int) -> list[Task]:
        self.calls.append(f"attach {pid}")
        return [self.start(pid, pid), self.start(pid + 1, pid)]

    def attach_task(self, tid: int) -> Task:
        self.calls.append(f"attach_task {tid}")
        return self.start(tid, tid)

    def start(self, tid: int, pid: int, parent: Task | None = None) -> Task:
        task = self.tasks.start(tid, pid, parent)
        task.comm = f"task{tid - FIRST_PID}"
        task.read_clock = lambda: self.clock
        return task

    def run(self, *, timeout: float | None = None) -> bool:
        first = self.tasks.get(FIRST_PID)
        if self.at == 0 and first is not None:
            self.tasks.executed(first)
        steps = 1 if timeout is not None else len(self.script)
        for _ in range(steps):
            if self.interrupted or self.at >= len(self.script):
                break
            self.clock += 1000
            self.script[self.at](self)
            self.at += 1
        interrupted, self.interrupted = self.interrupted, False
        if interrupted or self.at < len(self.script):
            return False
        for task in self.tasks:
            self.tasks.exited(task, self.status)
        return True

    def call(self, function: Callable[[], Any]) -> Any:
        return function()

    def interrupt(self) -> None:
        self.interrupted = True

    def sync(self) -> None:
        pass

    def release(self, pid: int, *, stop: bool = False) -> None:
        self.calls.append(f"release {pid}")

    def close(self) -> None:
        self.calls.append("close")

    def report(self, pid: int) -> ExitReport:
        return ExitReport(self.status if not len(self.tasks) else None, 0.25, 0.125)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def returns(number: int, tid: int = FIRST_PID, gap: int = 0) -> Callable[[ScriptedSource], None]:
    """A step: the task retires so many near returns, each after `gap` plain instructions."""
    return branches(BranchKind.RETURN, number, tid, gap)


def branches(kind: BranchKind, number: int, tid: int = FIRST_PID, gap: int = 0) -> Callable[[ScriptedSource], None]:
    """A step: the task retires so many branches of one kind."""

    def step(source: ScriptedSource) -> None:
        task = source.tasks.get(tid)
        assert task is not None
        for _ in range(number):
            task.unit.retire(gap, kind, 1, 0x1000, 1, 0x2000)

    return step


def signals_us(number: int) -> Callable[[ScriptedSource], None]:
    """A step: a signal arrives at this process."""
    return lambda source: os.kill(os.getpid(), number)


def use_script(
    monkeypatch: Any, script: Sequence[Callable[[ScriptedSource], None]], **settings: Any
) -> list[ScriptedSource]:
    """Let every session play `script`; the list has the sources that sessions made."""
    made: list[ScriptedSource] = []

    def choose(name: str | None = None) -> Callable[[Tasks, Any], ScriptedSource]:
        def make(tasks: Tasks, sink: Any = None) -> ScriptedSource:
            made.append(ScriptedSource(tasks, script, **settings))
            return made[-1]

        return make

    monkeypatch.setattr("branchmon.session.default_source", choose)
    return made
