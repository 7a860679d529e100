"""Running a command with the PMU around it, from start to exit code."""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType

from branchmon.abi.inside import KEYBOARD, Inside, Report
from branchmon.abi.namespace import check_absent
from branchmon.abi.server import Server
from branchmon.errors import BranchmonError

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


class _LeaveNow(Exception):
    """A signal came while only leftovers were waited for, or our guard was killed."""


class Shell:
    """One command, inside.

    :param server: serves it.
    :param command: program and arguments.
    :param tell: shows a line to the user.
    :param guarded: our parent only guards us (:mod:`branchmon.sources.guard`): when it is gone, we let everything go.
    """

    def __init__(
        self, server: Server, command: Sequence[str], tell: Callable[[str], None], *, guarded: bool = False
    ) -> None:
        self._server = server
        self._command = command
        self._tell = tell
        self._inside: Inside | None = None
        self._status: int | None = None
        self._guard = os.getppid() if guarded else None

    def run(self) -> int:
        """Start the command, serve it and everything that it starts until all have ended.

        :returns: the command's exit code; 128 + n if signal n killed it.
        :raises BranchmonError: it could not be started.
        """
        check_absent()
        handlers = {number: signal.getsignal(number) for number in (*KEYBOARD, *_PASSED_ON)}
        self._inside = Inside(self._command)
        for number in handlers:
            signal.signal(number, self._on_signal)
        try:
            self._serve()
        finally:
            for number in handlers:
                signal.signal(number, signal.SIG_IGN)
            self._server.close()
            self._inside.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for warning in self._server.driving.warnings:
            self._tell(warning)
        if self._status is None:
            raise BranchmonError("the process that waited for the command was killed", slug="shell-lost")
        code = os.waitstatus_to_exitcode(self._status)
        return 128 - code if code < 0 else code

    def _serve(self) -> None:
        assert self._inside is not None
        with contextlib.suppress(_LeaveNow):
            while (report := self._inside.receive()) is not None:
                self._take(self._inside, report)

    def _take(self, inside: Inside, report: Report) -> None:
        if report.what == "fuse":
            self._server.serve_tree(report.descriptors[0], os.geteuid(), os.getegid())
        elif report.what == "ready":
            self._server.serve_calls(report.descriptors[0], report.descriptors[1], inside.pid)
            inside.go()
        elif report.what == "exited":
            left = inside.leftovers()
            if left:
                names = ", ".join(map(str, left))
                self._tell(f"waiting for what was left running inside ({names}); ^C leaves it there without the PMU")
            self._status = report.values["status"]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._guard is not None and os.getppid() != self._guard:
            self._status = int(signal.SIGTERM)  # nobody will see it
            raise _LeaveNow
        if self._status is not None:
            raise _LeaveNow
        if self._inside is not None and number in _PASSED_ON:
            self._inside.forward(number)
