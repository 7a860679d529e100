"""Options that several commands share, each in one place: what to count, how, and on whom."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from branchmon.driver.syntax import EventRequest, parse_events
from branchmon.errors import BranchmonError, UnsupportedError, UsageError
from branchmon.session import Session, SessionOptions

if TYPE_CHECKING:
    from branchmon.profile import Profile

DEFAULT_EVENT = "intel_bm/rets/"


@dataclass(frozen=True)
class Targets:
    """Whom to monitor: a program to run, or running processes and threads."""

    program: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    tids: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As perf's heading names it: ``'ls -l'``, ``process id '1,2'``, ``thread id '3'``."""
        if self.program:
            return f"'{' '.join(self.program)}'"
        parts = []
        if self.pids:
            parts.append(f"process id '{','.join(map(str, self.pids))}'")
        if self.tids:
            parts.append(f"thread id '{','.join(map(str, self.tids))}'")
        return " and ".join(parts)

    def start(self, session: Session) -> None:
        """Launch the program, or attach: see :class:`~branchmon.session.Session`."""
        if self.program:
            session.launch(self.program)
        else:
            session.attach(pids=self.pids, tids=self.tids)


# ---- adding them to a parser ----------------------------------------------------------------------------------------


def add_events(parser: argparse.ArgumentParser) -> None:
    """``-e EVENT[,EVENT…]``."""
    parser.add_argument(
        "-e",
        "--event",
        dest="events",
        action="append",
        metavar="EVENT",
        help="what to count, in perf's syntax: intel_bm/rets,threshold=100,window_size=64/, several with commas, groups"
        f" in {{}}; at most two a task (default {DEFAULT_EVENT}; `branchmon list` shows all)",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """``--set ATTR=VALUE``: the attributes of the PMU."""
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="ATTR=VALUE",
        help="write a sysfs attribute of the PMU before the events are opened, such as threshold=100",
    )


def add_driver(parser: argparse.ArgumentParser) -> None:
    """``--set``, ``--profile``, ``--source``, ``--strict``: how the driver is set up and what feeds it."""
    add_settings(parser)
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="a TOML file with attributes, events and actions (docs/profiles.md); options have precedence",
    )
    parser.add_argument("--source", metavar="NAME", help="where retired branches come from (see `branchmon list`)")
    parser.add_argument(
        "--strict", action="store_true", help="refuse what the posted driver and the manual's strict reading refuse"
    )


def add_targets(parser: argparse.ArgumentParser) -> None:
    """``-p``, ``-t``, ``--no-inherit``, ``--kill-on-exit``, ``-- PROGRAM ARGUMENTS``; refusals of ``-a``, ``-c``, …"""
    parser.add_argument("-p", "--pid", dest="pids", action="append", default=[], metavar="PID[,PID]",
                        help="attach to running processes, all their threads")  # fmt: skip
    parser.add_argument("-t", "--tid", dest="tids", action="append", default=[], metavar="TID[,TID]",
                        help="attach to single threads")  # fmt: skip
    parser.add_argument("--no-inherit", dest="inherit", action="store_false",
                        help="do not count children and new threads")  # fmt: skip
    parser.add_argument("--kill-on-exit", action="store_true",
                        help="the program dies with branchmon; otherwise it goes on")  # fmt: skip
    for names in (("-a", "--all-cpus"), ("-C", "--cpu")):
        parser.add_argument(*names, action=_SystemWide, nargs=0 if "-a" in names else None, help=argparse.SUPPRESS)
    for names in (("-c", "--count"), ("-F", "--freq")):
        parser.add_argument(*names, action=_Sampling, help=argparse.SUPPRESS)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGUMENTS", help="the program to run")


class _SystemWide(argparse.Action):
    """``-a`` and ``-C``: the driver's EINVAL for an event without a task."""

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        raise UnsupportedError(
            f"{option_string}: the unit goes with a task, it cannot watch a CPU or the whole system (EINVAL)",
            slug="no-task",
            remedy="name a program to run, or processes by -p PID",
        )


class _Sampling(argparse.Action):
    """``-c`` and ``-F``: the driver's EOPNOTSUPP for a sampling event."""

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        raise UnsupportedError(
            f"{option_string}: the unit counts trips, it does not sample (EOPNOTSUPP)",
            slug="sampling",
            remedy="use `branchmon watch` to look at every trip",
        )


# ---- reading them ---------------------------------------------------------------------------------------------------


def requests(arguments: argparse.Namespace) -> list[EventRequest]:
    """The events asked for.

    :raises UsageError: see :func:`branchmon.driver.syntax.parse_events`.
    """
    listed = profile(arguments)
    found = parse_events(arguments.events or (listed.events if listed is not None else []) or [DEFAULT_EVENT])
    for request in found:
        for note in request.notes:
            tell(f"{request.name}: {note}")
    return found


def profile(arguments: argparse.Namespace) -> "Profile | None":
    """What ``--profile`` names; None without it.

    :raises UsageError: see :func:`branchmon.profile.load_profile`.
    """
    path = getattr(arguments, "profile", None)
    if path is None:
        return None
    from branchmon.profile import load_profile

    return load_profile(path)


def targets(arguments: argparse.Namespace) -> Targets:
    """Whom to monitor.

    :raises UsageError: nobody, or both a program and running ones, or a number that is no process id.
    """
    program = tuple(arguments.program)
    if program[:1] == ("--",):
        program = program[1:]
    pids, tids = _numbers("-p", arguments.pids), _numbers("-t", arguments.tids)
    if program and (pids or tids):
        raise UsageError(
            "both a program to run and running ones to attach to",
            slug="program-and-pid",
            remedy="start one branchmon for each; to attach for some time, use --timeout MS",
        )
    if not program and not pids and not tids:
        raise UsageError("nothing to monitor", slug="no-target", remedy="name a program after --, or -p PID, or -t TID")
    _guard(arguments)
    return Targets(program, pids, tids)


def _guard(arguments: argparse.Namespace) -> None:
    """A single-stepped program is to outlive us: work in a child, and watch it."""
    from branchmon.sources import guard

    if guard.allowed and not arguments.kill_on_exit:
        from branchmon.sources.choose import choose

        with contextlib.suppress(BranchmonError):  # the session refuses it in its own words
            if choose(arguments.source).source.capabilities().name == "step":
                guard.stand()


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """What the profile and ``--set`` say: attribute to value, as text.

    :raises UsageError: no ``=`` in it. Names and values are checked where they are stored.
    """
    listed = profile(arguments)
    values = {name: str(value) for name, value in listed.attributes.items()} if listed is not None else {}
    for text in arguments.settings:
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"--set {text}: no value", slug="set-syntax", remedy="write it as --set threshold=100")
            values[name.strip()] = value
    return values


def session_options(arguments: argparse.Namespace) -> SessionOptions:
    """The shared options, as a session takes them; ``dataclasses.replace`` adds what a command alone knows."""
    return SessionOptions(
        attributes=settings(arguments),
        source=arguments.source,
        inherit=arguments.inherit,
        strict=arguments.strict,
        kill_on_exit=arguments.kill_on_exit,
        progress=tell,
    )


def tell(message: str) -> None:
    """A line to stderr that is not an error."""
    print(f"branchmon: {message}", file=sys.stderr, flush=True)


def _numbers(option: str, texts: Sequence[str]) -> tuple[int, ...]:
    numbers = []
    for text in texts:
        for part in text.split(","):
            if not part.strip().isdecimal() or int(part) == 0:
                raise UsageError(
                    f"{option} {text}: {part!r} is not a process id",
                    slug="bad-pid",
                    remedy="give numbers as ps shows them, with commas between",
                )
            numbers.append(int(part))
    return tuple(numbers)
