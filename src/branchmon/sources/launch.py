"""Starting a program under ptrace exactly as the shell would have: environment, signals, descriptors, processor set.

A Python process leaks into its children: it ignores SIGPIPE and SIGXFSZ, and may add LC_CTYPE to the environment
(PEP 538). All of that is undone between fork and exec.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import stat
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from branchmon.errors import TargetError
from branchmon.sources import ptrace
from branchmon.sources.base import ExitReport, LaunchOptions
from branchmon.sources.maps import ELF_CLASS_32, ELF_MAGIC

ORIGINAL_MASK = signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""The signals that were blocked when branchmon started."""

DEFAULT_PATH = "/bin:/usr/bin"
"""Searched where the environment has no PATH (``confstr(_CS_PATH)``)."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_INTERPRETER_DEPTH = 4  # BINPRM_MAX_RECURSION
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126

_libc = ctypes.PyDLL(None, use_errno=True)


def original_environment() -> list[bytes]:
    """The environment as it was when branchmon started, entry by entry, in its order.

    Source: ``/proc/self/environ``, which later changes do not reach.
    """
    with open("/proc/self/environ", "rb") as file:
        text = file.read()
    return text.split(b"\0")[:-1] if text else []


@dataclass(frozen=True)
class Program:
    """A program that can be executed.

    :ivar path: what to execute.
    :ivar binary: the ELF file that the kernel will load: `path`, or its interpreter.
    """

    path: str
    binary: str


# ---- finding it ----------------------------------------------------------------------------------------------------


def find_program(name: str, path: str | None = None, cwd: str | None = None) -> Program:
    """Search for a program as execvp does, and check that the kernel can run it.

    :param path: the PATH to search; None: :data:`DEFAULT_PATH`.
    :param cwd: the directory that relative names start from, if not ours.
    :raises TargetError: not found (127); a directory, without execute permission, no ELF file and no script with an
        interpreter, or a 32-bit program (126).
    """
    if not name:
        raise TargetError("The program's name is empty", slug="not-found", exit_code=_NOT_FOUND)
    if "/" in name:
        return _checked(name, cwd)
    refusal: TargetError | None = None
    for directory in (DEFAULT_PATH if path is None else path).split(":"):
        candidate = os.path.join(directory or ".", name)
        try:
            return _checked(candidate, cwd)
        except TargetError as error:
            if error.slug == "not-executable":
                refusal = error  # execvp goes on searching and remembers EACCES
            elif error.slug != "not-found":
                raise
    raise refusal or TargetError(
        f"No program {name} in PATH",
        slug="not-found",
        remedy="Check the spelling; give a path (./NAME) for a program that is not in PATH.",
        exit_code=_NOT_FOUND,
    )


def _checked(name: str, cwd: str | None) -> Program:
    file = os.path.join(cwd, name) if cwd else name
    try:
        mode = os.stat(file).st_mode
    except PermissionError:
        raise _not_executable(name, "a directory on its path may not be searched") from None
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no such name"
        raise TargetError(
            f"Program {name} not found: {why}",
            slug="not-found",
            remedy="Check the spelling and the directory.",
            exit_code=_NOT_FOUND,
        ) from None
    if stat.S_ISDIR(mode):
        raise _not_executable(name, "it is a directory")
    if not stat.S_ISREG(mode):
        raise _not_executable(name, "it is no regular file")
    if not os.access(file, os.X_OK, effective_ids=True):
        raise _not_executable(name, "it has no execute permission")
    return Program(name, _binary(name, file, cwd))


def _not_executable(name: str, why: str) -> TargetError:
    return TargetError(
        f"Program {name} cannot be executed: {why}",
        slug="not-executable",
        remedy=f"Check it with `ls -ld {name}`; `chmod +x` gives a file execute permission.",
        exit_code=_NOT_EXECUTABLE,
    )


def _binary(name: str, file: str, cwd: str | None) -> str:
    """The ELF file behind `file`, through interpreters of scripts."""
    for _ in range(_INTERPRETER_DEPTH + 1):
        try:
            with open(file, "rb") as opened:
                head = opened.read(256)
        except OSError:
            return file  # executable but not readable: the kernel decides
        if head[:4] == ELF_MAGIC:
            _check_elf(name, head)
            return file
        interpreter = _interpreter(head)
        if interpreter is None:
            _no_program(name, head, cwd)
            return file
        file = os.path.join(cwd, interpreter) if cwd else interpreter
        if not os.path.exists(file):
            raise TargetError(
                f"Program {name} is a script whose interpreter {interpreter} does not exist",
                slug="no-interpreter",
                remedy="Correct its first line (`#!`), install the interpreter, or start it as an argument of one.",
                exit_code=_NOT_EXECUTABLE,
            )
        if not os.access(file, os.X_OK, effective_ids=True) or os.path.isdir(file):
            raise _not_executable(name, f"its interpreter {interpreter} has no execute permission")
    raise _not_executable(name, "interpreters of interpreters, more than the kernel follows")


def _interpreter(head: bytes) -> str | None:
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].strip(b" \t").split(maxsplit=1)
    return os.fsdecode(words[0]) if words else None


def _no_program(name: str, head: bytes, cwd: str | None) -> None:
    if os.path.isdir("/proc/sys/fs/binfmt_misc") and os.listdir("/proc/sys/fs/binfmt_misc"):
        return  # somebody taught the kernel other formats
    text = head and b"\0" not in head
    raise TargetError(
        f"Program {name} is {'a script without interpreter (no `#!` line)' if text else 'no program for Linux'}",
        slug="no-interpreter" if text else "not-a-program",
        remedy=f"Put `#!/bin/sh` into its first line, or start it as `sh {name}`." if text else f"See `file {name}`.",
        exit_code=_NOT_EXECUTABLE,
    )


def _check_elf(name: str, head: bytes) -> None:
    machine = struct.unpack_from("<H", head, 18)[0] if len(head) >= 20 else 0
    if head[4:5] == bytes([ELF_CLASS_32]):
        raise refuse_32_bit(f"Program {name}")
    if machine != 62:  # EM_X86_64
        raise TargetError(
            f"Program {name} is not for x86-64 (ELF machine {machine})",
            slug="foreign-machine",
            remedy="branchmon follows x86-64 programs only.",
            exit_code=_NOT_EXECUTABLE,
        )


def refuse_32_bit(what: str) -> TargetError:
    """The refusal of a 32-bit program, to be raised. `what` begins the sentence."""
    return TargetError(
        f"{what} is a 32-bit program, which branchmon cannot follow",
        slug="32-bit",
        remedy="Build it for x86-64 (without -m32).",
        exit_code=_NOT_EXECUTABLE,
    )


# ---- starting it ---------------------------------------------------------------------------------------------------


@dataclass
class Launched:
    """A program stopped in the PTRACE_EVENT_EXEC stop of its exec: it has executed nothing yet.

    The kernel still finishes the exec when it is resumed (it writes rax once more).

    :ivar usage: the waited-for children's CPU times of ours before it ended.
    """

    pid: int
    program: Program
    usage: tuple[float, float]


def launch(options: LaunchOptions, trace_options: int) -> Launched:
    """Fork, trace the child by the calling thread, and execute the program in it.

    :param trace_options: PTRACE_O_ bits for it; TRACEEXEC is added, and EXITKILL where `options` asks for it.
    :raises TargetError: as :func:`find_program`, and for what execve and chdir refuse.
    """
    if not options.argv:
        raise TargetError("No program was named", slug="not-found", exit_code=_NOT_FOUND)
    environment = _environment(options)
    program = find_program(os.fspath(options.argv[0]), _path_in(environment), options.cwd)
    trace_options |= ptrace.O_TRACEEXEC | (ptrace.O_EXITKILL if options.kill_on_exit else 0)
    usage = children_usage()
    child = _Child(program.path, [os.fsencode(argument) for argument in options.argv], environment, options.cwd)
    pid = child.fork()
    try:
        _trace(pid, trace_options)
        child.go()
        _await_exec(pid, child, program)
    except BaseException:
        child.abandon()
        raise
    return Launched(pid, program, usage)


def _trace(pid: int, options: int) -> None:
    try:
        ptrace.seize(pid, options)
    except PermissionError:
        raise TargetError(
            "The kernel refuses to let branchmon trace its own child",
            slug="no-permission",
            remedy="In a container, allow ptrace (`--cap-add=SYS_PTRACE`, a seccomp profile that allows it); "
            "with yama's ptrace_scope at 3 nobody may trace.",
        ) from None


def _environment(options: LaunchOptions) -> list[bytes]:
    if options.env is None:
        return original_environment()
    return [os.fsencode(name) + b"=" + os.fsencode(value) for name, value in options.env.items()]


def _path_in(environment: Sequence[bytes]) -> str | None:
    for entry in environment:
        if entry.startswith(b"PATH="):
            return os.fsdecode(entry[5:])
    return None


class _Child:
    """The forked child up to its exec: it waits to be traced, and tells errors of chdir and execve by a pipe."""

    def __init__(self, path: str, argv: list[bytes], environment: list[bytes], cwd: str | None) -> None:
        self.path = os.fsencode(path)
        self.argv = _strings(argv)
        self.environment = _strings(environment)
        self.cwd = cwd
        self.pid = 0
        self._start = os.pipe2(os.O_CLOEXEC)
        self._error = os.pipe2(os.O_CLOEXEC)

    def fork(self) -> int:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the child only sets itself up and executes
                self.pid = os.fork()
            if self.pid == 0:
                self._execute()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(self._start[0])
        os.close(self._error[1])
        return self.pid

    def go(self) -> None:
        os.write(self._start[1], b"x")
        os.close(self._start[1])

    def failure(self) -> tuple[int, str]:
        """The errno, and what failed, of a child that ended without an exec; 0 if it did not say."""
        data = os.read(self._error[0], 64)
        os.close(self._error[0])
        number, _, what = data.partition(b" ")
        return int(number or 0), what.decode()

    def succeeded(self) -> None:
        os.close(self._error[0])

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            while os.WIFSTOPPED(ptrace.wait_for(self.pid)):
                pass
        for descriptor in (self._start[1], self._error[0]):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _execute(self) -> None:
        what = "start"
        try:
            os.close(self._start[1])
            for number in signal.valid_signals():
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            if os.read(self._start[0], 1) != b"x":
                os._exit(_NOT_FOUND)
            if self.cwd is not None:
                what = "chdir"
                os.chdir(self.cwd)
            what = "execve"
            signal.pthread_sigmask(signal.SIG_SETMASK, ORIGINAL_MASK)
            _libc.execve(self.path, self.argv, self.environment)
            os.write(self._error[1], f"{ctypes.get_errno()} {what}".encode())
        except OSError as error:
            os.write(self._error[1], f"{error.errno} {what}".encode())
        finally:
            os._exit(_NOT_FOUND)


def _strings(items: Sequence[bytes]) -> "ctypes.Array[ctypes.c_char_p]":
    return (ctypes.c_char_p * (len(items) + 1))(*items, None)


def _await_exec(pid: int, child: _Child, program: Program) -> None:
    while True:
        status = ptrace.wait_for(pid)
        if not os.WIFSTOPPED(status):
            break
        event = ptrace.stop_event(status)
        if event == ptrace.EVENT_EXEC:
            child.succeeded()
            return
        if event == ptrace.EVENT_STOP and os.WSTOPSIG(status) != signal.SIGTRAP:
            ptrace.listen(pid)
        else:
            ptrace.cont(pid, 0 if event else os.WSTOPSIG(status))
    number, what = child.failure()
    if what == "chdir":
        raise TargetError(
            f"Cannot change to the directory {child.cwd}: {os.strerror(number)}", slug="no-directory", exit_code=1
        )
    missing = number in (errno.ENOENT, errno.ENOTDIR)
    raise TargetError(
        f"Program {program.path} could not be executed: {os.strerror(number) if number else 'it was killed'}",
        slug="not-found" if missing else "not-executable",
        remedy="Its interpreter (a script's, or the dynamic linker of an ELF file) may be missing." if missing else "",
        exit_code=_NOT_FOUND if missing else _NOT_EXECUTABLE,
    )


# ---- how it ended --------------------------------------------------------------------------------------------------


def children_usage() -> tuple[float, float]:
    """User and system CPU seconds of all children that we have waited for, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime, usage.ru_stime


def exit_report(launched: Launched, status: int) -> ExitReport:
    """The report on a launched program that the last wait reaped; nothing else of ours ended meanwhile."""
    user, system = children_usage()
    return ExitReport(status, user - launched.usage[0], system - launched.usage[1])
