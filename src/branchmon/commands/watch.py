"""examples:
  branchmon watch -e intel_bm/ret-misp,threshold=3,window_size=64/ -- ./server      report every trip, with evidence
  branchmon watch --profile server.toml --on-trip core,kill -p 4711                 keep a core file, then kill
  branchmon watch -e rets --on-trip 'run=mail -s trip admin' --only-if 'not-call-preceded>=3' -- ./server
  branchmon watch -e rets --json -o trips.jsonl --metrics /var/lib/node_exporter/trips.prom -p 4711

Run a program, or attach to running ones, and look at every trip of the branch monitoring unit at its very instruction:
registers, stack, the last 32 branches, and facts that tell an attack from a false alarm (docs/evidence.md). Reports go
to stderr, or to the file of -o; the program's output is its own. The exit code is the program's, unless --exit-on-trip.
SIGHUP reads the profile and the suppressions again.
"""

import argparse
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING

from branchmon.commands import options
from branchmon.driver.syntax import EventRequest
from branchmon.errors import BranchmonError, UsageError
from branchmon.session import Session

if TYPE_CHECKING:
    from branchmon.actions import Action
    from branchmon.actions.policy import Policy
    from branchmon.actions.watcher import Outlets, Watcher
    from branchmon.evidence.model import Started

DEFAULT_RATE = "100/s"
TICK = 1.0
"""Seconds between two looks at signals and metrics."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from branchmon.actions import ACTION_NAMES

    options.add_events(parser)
    options.add_driver(parser)
    what = "; ".join(f"{name}: {meaning}" for name, meaning in ACTION_NAMES.items()).replace("%", "%%")
    parser.add_argument("--on-trip", action="append", metavar="ACTION[,ACTION…]",
                        help=f"what to do at a trip (default report). {what}")  # fmt: skip
    parser.add_argument("--only-if", action="append", metavar="FACT>=N",
                        help="act only when a fact holds, such as not-call-preceded>=3; repeated: all")  # fmt: skip
    parser.add_argument("--suppress", metavar="FILE", help="do nothing at trips whose fingerprint the file lists")
    parser.add_argument("--rate-limit", metavar="N/s", help="report at most N a second (/m minute, /h hour; default"
                        f" {DEFAULT_RATE}); stop, gdb and kill are never left out")  # fmt: skip
    parser.add_argument("--max-trips", type=int, metavar="N",
                        help="after N trips stop watching; the program goes on")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON lines instead of text (docs/evidence.md)")
    parser.add_argument("-o", "--output", metavar="FILE", help="report there instead of on stderr")
    parser.add_argument("--append", action="store_true", help="append to the file of -o")
    parser.add_argument("--syslog", action="store_true", help="also to the journal, or to syslog")
    parser.add_argument("--metrics", metavar="FILE", help="keep counts there in Prometheus's text format")
    parser.add_argument("--exit-on-trip", type=int, metavar="CODE",
                        help="exit with CODE if a trip was reported, whatever the program's status")  # fmt: skip
    options.add_targets(parser)


@dataclass(frozen=True)
class Plan:
    """What to do, from the options and the profile; read again at SIGHUP."""

    requests: list[EventRequest]
    attributes: dict[str, str]
    actions: "list[Action]"
    policy: "Policy"
    max_trips: int | None


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Read the options and the profile.

    :raises UsageError: one of them says something that does not exist.
    """
    from branchmon.actions import parse_actions
    from branchmon.actions.policy import Policy, RateLimit, parse_rate, read_suppressions
    from branchmon.evidence.facts import parse_condition
    from branchmon.profile import WatchProfile

    profile = options.profile(arguments)
    watch = profile.watch if profile is not None else WatchProfile()
    suppress = arguments.suppress
    if suppress is None and watch.suppress is not None:
        suppress = os.path.join(os.path.dirname(arguments.profile), watch.suppress)
    max_trips = arguments.max_trips if arguments.max_trips is not None else watch.max_trips
    if max_trips is not None and max_trips < 1:
        raise UsageError("--max-trips: not a number from 1", slug="usage", remedy="write 1 or more")
    return Plan(
        options.requests(arguments),
        options.settings(arguments),
        parse_actions(arguments.on_trip or watch.on_trip or ["report"]),
        Policy(
            read_suppressions(suppress) if suppress is not None else frozenset(),
            [parse_condition(text) for text in arguments.only_if or watch.only_if or []],
            RateLimit(*parse_rate(arguments.rate_limit or watch.rate_limit or DEFAULT_RATE)),
        ),
        max_trips,
    )


def run(arguments: argparse.Namespace) -> int:
    """Watch; the exit code is the program's, or that of ``--exit-on-trip``."""
    targets = options.targets(arguments)
    if arguments.exit_on_trip is not None and not 0 <= arguments.exit_on_trip <= 255:
        raise UsageError("--exit-on-trip: not a number from 0 to 255", slug="usage", remedy="choose an exit code")
    plan = make_plan(arguments)
    settings = replace(
        options.session_options(arguments), attributes=plan.attributes, evidence=True, until_program_ends=True
    )
    outlets = _outlets(arguments)
    try:
        with Session(plan.requests, settings) as session, session.stopped_by_signals(signal.SIGINT, signal.SIGTERM):
            watcher = _watcher(session, plan, outlets)
            session.pmu.listeners.append(watcher.tripped)
            targets.start(session)
            outlets.record(_started(session, plan, str(targets)))
            with _reloading(session) as reload:
                _drive(session, watcher, arguments, reload)
            code = _exit_code(session)
        for warning in session.source.warnings:
            outlets.tell(f"warning: {warning}")
        _finish(watcher, outlets, code)
    finally:
        outlets.close()
    if arguments.exit_on_trip is not None and watcher.outcomes.reported:
        return int(arguments.exit_on_trip)
    if code is not None:
        return code
    return 0 if session.stop_signal is None else 128 + session.stop_signal


# ---- setting up -----------------------------------------------------------------------------------------------------


def _outlets(arguments: argparse.Namespace) -> "Outlets":
    from branchmon.actions.outlets import Metrics, Syslog, Writer
    from branchmon.actions.watcher import Outlets, dropped_line
    from branchmon.evidence.text import PLAIN_WIDTH

    syslog = Syslog() if arguments.syslog else None
    metrics = Metrics(arguments.metrics) if arguments.metrics is not None else None
    if metrics is not None:
        metrics.set("up", 1)
    writer = Writer(arguments.output, dropped_line(json=arguments.json), append=arguments.append)
    width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if writer.is_terminal else PLAIN_WIDTH
    return Outlets(writer, arguments.json, syslog, metrics, max(width, 80))


def _watcher(session: Session, plan: Plan, outlets: "Outlets") -> "Watcher":
    from branchmon.actions.watcher import Watcher

    def enough() -> None:
        for events in session.events:
            for event in events:
                session.pmu.close(event)
        if session.launched_pid is None:
            session.source.interrupt()

    watcher = Watcher(
        plan.policy,
        plan.actions,
        outlets,
        release=lambda pid: session.source.release(pid, stop=True),
        enough=enough,
        max_trips=plan.max_trips,
    )
    session.tasks.on_exit.append(lambda task, status: watcher.collector.forget(task.pid))
    return watcher


def _started(session: Session, plan: Plan, target: str) -> "Started":
    from branchmon import __version__
    from branchmon.evidence.model import SCHEMA, Started

    return Started(
        SCHEMA,
        __version__,
        target,
        [request.name for request in plan.requests],
        dict(session.pmu.attributes),
        [str(action) for action in plan.actions],
    )


# ---- running --------------------------------------------------------------------------------------------------------


@contextmanager
def _reloading(session: Session) -> Iterator[list[int]]:
    """While this lasts, SIGHUP is noted in the list that it yields, and ends :meth:`Session.run`."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        session.source.interrupt()

    before = signal.signal(signal.SIGHUP, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGHUP, before)


def _drive(session: Session, watcher: "Watcher", arguments: argparse.Namespace, reload: list[int]) -> None:
    metrics = watcher.outlets.metrics
    done = False
    while not done and session.stop_signal is None:
        done = session.run(TICK if metrics is not None else None)
        if watcher.finished and session.launched_pid is None:
            break
        if reload:
            reload.clear()
            _reload(session, watcher, arguments)
        if metrics is not None:
            metrics.set("tasks", len(session.tasks))
            metrics.set("dropped_reports_total", watcher.outlets.writer.lost)
            metrics.write()


def _reload(session: Session, watcher: "Watcher", arguments: argparse.Namespace) -> None:
    """Take over the profile as it is now; if it is wrong, the old one stays."""
    try:
        plan = make_plan(arguments)
        session.replace_events(plan.requests, plan.attributes)
    except BranchmonError as error:
        watcher.outlets.tell(f"not reloaded: {error.message} [{error.slug}]")
        return
    watcher.policy, watcher.actions, watcher.max_trips = plan.policy, plan.actions, plan.max_trips
    watcher.outlets.tell("profile reloaded")


def _finish(watcher: "Watcher", outlets: "Outlets", code: int | None) -> None:
    """The last record, what is still waiting, and a line that sums up."""
    outcomes, writer = watcher.outcomes, outlets.writer
    outlets.record(watcher.ended(code))
    if watcher.commands is not None:
        watcher.commands.close()
        for failure in watcher.commands.failures:
            outlets.tell(failure)
    left_out = [
        f"{number} {what}"
        for number, what in (
            (outcomes.suppressed, "suppressed"),
            (outcomes.limited, "above the rate limit"),
            (outcomes.unmet, "without the facts asked for"),
            (writer.lost, "reports lost by their reader"),
        )
        if number
    ]
    details = f" ({', '.join(left_out)})" if left_out else ""
    outlets.tell(f"{outcomes.trips} trips, {outcomes.reported} acted upon{details}")
    if outlets.metrics is not None:
        outlets.metrics.set("up", 0)
        outlets.metrics.set("tasks", 0)
        outlets.metrics.set("dropped_reports_total", writer.lost)
        outlets.metrics.write(force=True)


def _exit_code(session: Session) -> int | None:
    """The program's exit status as a shell's; None if it goes on, or was not ours."""
    report = session.exit_report()
    if report is None or report.status is None:
        return None
    code = os.waitstatus_to_exitcode(report.status)
    return code if code >= 0 else 128 - code
