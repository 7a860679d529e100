"""The first process inside: it makes the namespaces and mounts, starts the command, and waits for all that comes of it.

It is forked from branchmon, which stays outside with the host's mounts, owns ptrace, and has no other child. The two
talk over a socket of packets: descriptors and reports come out, orders go in. If branchmon is gone, so is this process;
the programs inside go on by themselves.
"""

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from branchmon.abi.namespace import enter, mount_pmu, open_fuse
from branchmon.abi.seccomp import install
from branchmon.abi.syscalls import PR_SET_CHILD_SUBREAPER, prctl
from branchmon.abi.sysfs import PMU_DIRECTORY
from branchmon.errors import BranchmonError, TargetError, UnsupportedError
from branchmon.sources.launch import ORIGINAL_MASK, original_environment

KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
GO = b"go"
_PACKET = 65536


@dataclass(frozen=True)
class Report:
    """One packet from inside.

    :ivar what: ``fuse`` and ``ready`` (with descriptors), ``started``, ``exited``, ``failed``.
    """

    what: str
    values: dict[str, Any]
    descriptors: tuple[int, ...] = ()


class Inside:
    """Branchmon's end.

    :param command: program and arguments; the program is searched for in PATH.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ignored = {number for number in KEYBOARD if signal.getsignal(number) == signal.SIG_IGN}
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _First(other, list(command), ignored).live()
        other.close()

    def receive(self) -> Report | None:
        """The next packet; None when the process has ended.

        :raises BranchmonError: it failed, and this is why.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _PACKET, 4)
        except ConnectionResetError:
            return None
        if not data:
            return None
        values = json.loads(data)
        what = values.pop("what")
        if what == "failed":
            kind: type[BranchmonError] = TargetError if values["target"] else UnsupportedError
            raise kind(values["message"], slug=values["slug"], remedy=values["remedy"], exit_code=values["exit_code"])
        return Report(what, values, tuple(descriptors))

    def go(self) -> None:
        """Start the command."""
        self._socket.send(GO)

    def forward(self, number: int) -> None:
        """Send a signal to the command. Safe in signal handlers."""
        with contextlib.suppress(OSError):
            self._socket.send(str(int(number)).encode())

    def leftovers(self) -> list[int]:
        """Processes that the command left behind and that this one has inherited."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
                return [int(text) for text in file.read().split()]
        except OSError:
            return []

    def close(self) -> None:
        """Let go of it; it ends, whether processes are left or not."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class _First:
    """The process itself."""

    def __init__(self, channel: socket.socket, command: list[str], ignored: set[signal.Signals]) -> None:
        self._channel = channel
        self._command = command
        self._ignored = ignored
        self._pid = 0

    def live(self) -> NoReturn:
        """Everything from the fork to the end."""
        try:
            for number in (*KEYBOARD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # branchmon decides
            self._prepare()
            self._start()
            self._watch()
        except BranchmonError as error:
            self._fail(error)
        except OSError as error:
            self._fail(UnsupportedError(f"the shell cannot be set up: {error}", slug="shell-setup"))
        finally:
            os._exit(0)

    def _prepare(self) -> None:
        private = enter()
        connection = open_fuse()
        mount_pmu(connection, private=private)
        self._send("fuse", {"private": private}, connection)  # a connection can be read only when it is mounted
        os.close(connection)
        directory = os.open(PMU_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            os.chdir(os.getcwd())  # the new mounts, if that is where we are
        listener = self._install_filter()
        self._send("ready", {}, listener, directory)
        os.close(listener)
        os.close(directory)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if self._channel.recv(_PACKET) != GO:
            os._exit(0)

    @staticmethod
    def _install_filter() -> int:
        try:
            return install()
        except OSError as error:
            raise UnsupportedError(
                f"system calls cannot be caught ({error.strerror})",
                slug="no-seccomp",
                remedy="EBUSY means that something around us catches them already, such as another branchmon or a"
                " container's supervisor; EINVAL or ENOSYS that the kernel cannot (Linux 5.9 or newer is needed)",
            ) from error

    # ---- the command -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        told, tell = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            self._execute(tell)
        os.close(tell)
        failure = os.read(told, 64)
        os.close(told)
        if failure:
            os.waitpid(self._pid, 0)
            raise _not_started(self._command[0], int(failure))
        self._send("started", {"pid": self._pid})

    def _execute(self, tell: int) -> NoReturn:
        try:
            for number in (*KEYBOARD, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_IGN if number in self._ignored else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ORIGINAL_MASK)
            environment = dict(entry.partition(b"=")[::2] for entry in original_environment())
            os.execvpe(self._command[0], self._command, environment)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(127)

    def _watch(self) -> None:
        """Reap what ends, pass signals on, until nothing is left or branchmon is gone."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGCHLD, _nothing)
        while self._reap():
            ready, _, _ = select.select([self._channel.fileno(), reader], [], [])
            if reader in ready:
                os.read(reader, 512)
            if self._channel.fileno() in ready:
                order = self._channel.recv(_PACKET)
                if not order:
                    return
                if self._pid:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(self._pid, int(order))

    def _reap(self) -> bool:
        """Reap everybody who has ended; False if nobody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._pid = 0
                self._send("exited", {"status": status})

    # ---- talking ---------------------------------------------------------------------------------------------------

    def _send(self, what: str, values: dict[str, Any], *descriptors: int) -> None:
        socket.send_fds(self._channel, [json.dumps({"what": what, **values}).encode()], list(descriptors))

    def _fail(self, error: BranchmonError) -> None:
        values = {
            "message": error.message,
            "slug": error.slug,
            "remedy": error.remedy,
            "exit_code": error.exit_code,
            "target": isinstance(error, TargetError),
        }
        with contextlib.suppress(OSError):
            self._send("failed", values)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Only the wake-up descriptor matters."""


def _not_started(program: str, number: int) -> TargetError:
    missing = number == 2
    return TargetError(
        f"Program {program} cannot be started: {os.strerror(number)}",
        slug="not-found" if missing else "not-executable",
        remedy="Check the spelling; give a path (./NAME) for a program that is not in PATH."
        if missing
        else f"Check it with `ls -ld {program}`; `chmod +x` gives a file execute permission.",
        exit_code=127 if missing else 126,
    )
