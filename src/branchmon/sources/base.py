"""What a source of retired branches is, and what it can promise.

A live source runs or follows programs and feeds each task's :class:`~branchmon.device.unit.Unit`; at a trip the unit
calls the driver's interrupt handler while the task stands at that very instruction. A source never guesses: what it
cannot count exactly it says through :meth:`LiveSource.warn` and its :class:`Capabilities`.

Threads: a live source is driven by one thread, the one that called :meth:`LiveSource.launch`/``attach`` and
:meth:`LiveSource.run` (ptrace binds a tracee to one thread). Everything that touches tasks, units or the driver runs on
it; other threads hand over work with :meth:`LiveSource.call`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task, Tasks

T = TypeVar("T")


@dataclass(frozen=True)
class Capabilities:
    """What a source can do on this machine."""

    name: str
    """As ``--source`` takes it: ``step``, ``translate``."""
    available: bool
    why: str
    """One sentence: why it cannot be used, or what it is when it can."""
    exact: bool = True
    attach: bool = True
    threads: bool = True
    survives: bool = True
    """The program can go on when branchmon is killed."""


@dataclass(frozen=True)
class LaunchOptions:
    """How to start a program.

    :ivar argv: program and arguments; the program is searched for in PATH as execvp does.
    :ivar env: its environment; None: ours, as it was when branchmon started.
    :ivar kill_on_exit: the program dies when branchmon does (PTRACE_O_EXITKILL).
    """

    argv: Sequence[str]
    env: dict[str, str] | None = None
    cwd: str | None = None
    kill_on_exit: bool = False


class Mapping(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    """``r-xp``; as the program set them, where a source changed them for its own ends."""
    offset: int
    device: str
    inode: int
    path: str


@dataclass
class Registers:
    """The general registers of a task, as the program sees them (``struct user_regs_struct``)."""

    r15: int = 0
    r14: int = 0
    r13: int = 0
    r12: int = 0
    rbp: int = 0
    rbx: int = 0
    r11: int = 0
    r10: int = 0
    r9: int = 0
    r8: int = 0
    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    orig_rax: int = 0
    rip: int = 0
    cs: int = 0
    eflags: int = 0
    rsp: int = 0
    ss: int = 0
    fs_base: int = 0
    gs_base: int = 0
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0


class TaskContext(Protocol):
    """A stopped task's machine state, for trip listeners; valid only until the listener returns.

    ``registers().rip`` is where the task goes on: the target of the branch that tripped.
    """

    def registers(self) -> Registers:
        """The registers, as the program sees them (never addresses of a code cache)."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """Memory as the program sees it; shorter than `size`, or empty, where nothing is mapped."""
        ...

    def mappings(self) -> list[Mapping]:
        """The address space."""
        ...

    def siblings(self) -> list["Task"]:
        """The other tasks of the process; each has a ``context`` of its own, stopped while you look."""
        ...

    def xstate(self) -> bytes:
        """The extended state as ``NT_X86_XSTATE`` gives it; empty if there is none to be had."""
        ...


class BranchSink(Protocol):
    """Who wants every retired branch of every monitored task: a recorder."""

    def branches(
        self,
        task: "Task",
        gaps: Sequence[int],
        kinds: Sequence[int],
        taken: Sequence[int],
        sources: Sequence[int],
        sizes: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        """A batch of consecutive branches of one task, oldest first: columns of :class:`branchmon.events.Branch`."""
        ...

    def plain(self, task: "Task", instructions: int) -> None:
        """Instructions after the task's last branch when it ended or was let go."""
        ...

    def started(self, task: "Task", parent: "Task | None") -> None:
        """A task is followed from now on."""
        ...

    def executed(self, task: "Task", path: str) -> None:
        """A task executed a new program."""
        ...

    def mapped(self, task: "Task", mappings: Sequence[Mapping]) -> None:
        """Executable mappings of the task's process, complete, after they changed."""
        ...

    def signalled(self, task: "Task", signal: int) -> None:
        """A signal was delivered to the task."""
        ...

    def exited(self, task: "Task", status: int) -> None:
        """A task ended: status as waitpid gives it."""
        ...


@dataclass
class ExitReport:
    """How the launched program ended.

    :ivar status: wait status as waitpid gives it; None if it still runs (we detached).
    :ivar user: user CPU seconds of it and its waited-for children.
    :ivar system: system CPU seconds.
    """

    status: int | None = None
    user: float = 0.0
    system: float = 0.0


class LiveSource(Protocol):
    """A source that watches live programs. One instance watches any number of processes, from one thread.

    Constructed as ``Source(tasks, sink=None)``.
    """

    tasks: "Tasks"
    warnings: list[str]

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What this source can do here; cheap (no import over 50 ms, no process started)."""
        ...

    def launch(self, options: LaunchOptions) -> "Task":
        """Start a program, stopped before its first instruction after exec; :meth:`run` lets it go.

        Before the exec, `tasks.start` has been called for the new task, so that events can be opened on it by the
        caller between ``launch`` and ``run`` (``enable_on_exec`` fires when ``run`` starts).

        :raises TargetError: not found (exit code 127), not executable (126), a script without interpreter, 32-bit.
        """
        ...

    def attach(self, pid: int, *, interrupted: Callable[[], None] | None = None) -> list["Task"]:
        """Follow a running process: all threads, and what they start later. Tasks are stopped until :meth:`run`.

        :param interrupted: called once the tasks have been told to stop (PTRACE_INTERRUPT), before their stops are
            waited for: for a caller that holds one of them inside a system call, and lets it go there.
        :raises TargetError: no such process, no permission, already traced, 32-bit.
        """
        ...

    def attach_task(self, tid: int, *, interrupted: Callable[[], None] | None = None) -> "Task":
        """Follow one thread (``-t``), and what it starts; a source that must take the whole process does so, and
        leaves the others unmonitored.

        :param interrupted: as for :meth:`attach`.
        """
        ...

    def run(self, *, timeout: float | None = None) -> bool:
        """Drive everything until no task is left, :meth:`interrupt` was called, or `timeout` seconds passed.

        :returns: True if no task is left. Can be called again.
        """
        ...

    def call(self, function: Callable[[], T]) -> T:
        """From another thread: run `function` on the driving thread between two stops, and return what it returns.

        Tasks may be running meanwhile; what `function` changes in units (open, enable, disable, close through the
        driver) takes hold before their next monitored instruction that starts after ``call`` returned.
        """
        ...

    def interrupt(self) -> None:
        """Make :meth:`run` return soon, the next one if none is active. From any thread and from signal handlers."""
        ...

    def sync(self) -> None:
        """Bring every task's unit (`totals`, `state`) and event counts up to date, for reading between two stops."""
        ...

    def release(self, pid: int, *, stop: bool = False) -> None:
        """Detach from a process and leave it running natively, exactly as it would be without us.

        :param stop: leave it stopped by SIGSTOP, for a debugger.

        Inside a trip listener it takes effect when the listener returns.
        """
        ...

    def close(self) -> None:
        """Detach from everything (or kill, where kill_on_exit was asked) and free what the source holds."""
        ...

    def report(self, pid: int) -> ExitReport:
        """How a launched program ended."""
        ...

    def warn(self, message: str) -> None:
        """Note what could not be counted exactly, once per message; shown to the user."""
        ...


@dataclass
class Warnings:
    """The messages of a source, each once."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Note a message that has not been noted before."""
        if message not in self.messages:
            self.messages.append(message)
