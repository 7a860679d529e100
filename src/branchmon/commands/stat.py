"""examples:
  branchmon stat -e intel_bm/rets,threshold=100/ -- ls -l       how often the unit would have interrupted
  branchmon stat -v -e rets -- gzip -k FILE                     and what it saw: choose a threshold by it
  branchmon stat -e call-ret,ret-misp --set window_size=64 -p 4711 --timeout 5000
  branchmon stat -j -e rets -o counts.json -- make              perf's JSON, into a file
  branchmon stat -i trace.bmt -e rets,threshold=20/             the same, of a recorded trace

Run a program, or attach to running ones, and count how often the branch monitoring unit trips: `perf stat` for the
intel_bm PMU. The program's output and exit status are its own; the table goes to stderr.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from branchmon.commands import options
from branchmon.commands.options import Targets
from branchmon.counts import CountResult
from branchmon.driver.syntax import EventRequest
from branchmon.errors import UsageError
from branchmon.reports.destination import Destination
from branchmon.reports.rows import Row, differences
from branchmon.session import Session, SessionOptions


class CountReport(Protocol):
    """A way to print counts: :mod:`branchmon.reports.perf_text`, ``perf_csv``, ``perf_json``."""

    def whole(self, runs: Sequence[CountResult], target: str) -> str:
        """The result of one run, or of several."""
        ...

    def interval(self, at: float, rows: Sequence[Row], *, first: bool) -> str:
        """The rows of one interval that ended `at` seconds after the start."""
        ...

    def end(self, result: CountResult) -> str:
        """After the last interval."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    options.add_events(parser)
    options.add_driver(parser)
    parser.add_argument("-i", "--input", metavar="FILE", help="count in a recorded trace instead")
    parser.add_argument("-r", "--repeat", type=_positive, default=1, metavar="N",
                        help="run the program N times: mean and its standard deviation")  # fmt: skip
    parser.add_argument("--per-thread", action="store_true", help="every thread in lines of its own")
    parser.add_argument("-I", "--interval-print", dest="interval", type=_milliseconds, metavar="MS",
                        help="print what was added every MS milliseconds")  # fmt: skip
    parser.add_argument("--timeout", type=_milliseconds, metavar="MS",
                        help="stop after MS milliseconds; a launched program gets SIGTERM then")  # fmt: skip
    parser.add_argument("-x", "--field-separator", dest="separator", metavar="SEP", help="lines of fields, perf's CSV")
    parser.add_argument(
        "-j", "--json-output", dest="json", action="store_true", help="a JSON object a line, perf's keys"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of stderr")
    parser.add_argument("--append", action="store_true", help="append to the file of -o")
    parser.add_argument("-v", "--verbose", action="store_true",
                        help="also what the counters saw: instructions, branches by kind, windows, the highest count in"
                        " a window; with -j, one object with everything")  # fmt: skip
    options.add_targets(parser)


def run(arguments: argparse.Namespace) -> int:
    """Count; the exit code is the program's."""
    requests = options.requests(arguments)
    settings = replace(
        options.session_options(arguments),
        totals=arguments.verbose,
        per_task=arguments.per_thread,
        until_program_ends=True,
    )
    report = _report(arguments)
    if arguments.input is not None:
        return _replay(arguments, requests, settings, report)
    targets = options.targets(arguments)
    if arguments.repeat > 1 and not targets.program:
        raise UsageError("-r needs a program to run", slug="usage", remedy="name one after --")
    if arguments.repeat > 1 and arguments.interval:
        raise UsageError("-r and -I do not go together", slug="usage", remedy="leave one of them out")
    destination = Destination(arguments.output, append=arguments.append)
    try:
        code = _count(arguments, requests, settings, targets, report, destination)
    finally:
        destination.close()
    return code


def _report(arguments: argparse.Namespace) -> CountReport:
    if arguments.json and arguments.separator is not None:
        raise UsageError("-j and -x do not go together", slug="usage", remedy="leave one of them out")
    if arguments.json:
        from branchmon.reports.perf_json import JsonReport

        return JsonReport(verbose=arguments.verbose)
    if arguments.separator is not None:
        from branchmon.reports.perf_csv import CsvReport

        return CsvReport(arguments.separator.replace("\\t", "\t"), verbose=arguments.verbose)
    from branchmon.reports.perf_text import TextReport

    return TextReport(verbose=arguments.verbose)


# ---- live -----------------------------------------------------------------------------------------------------------


def _count(
    arguments: argparse.Namespace,
    requests: list[EventRequest],
    settings: SessionOptions,
    targets: Targets,
    report: CountReport,
    destination: Destination,
) -> int:
    runs: list[CountResult] = []
    stopped: int | None = None
    while len(runs) < arguments.repeat and stopped is None:
        with Session(requests, settings) as session:
            with session.stopped_by_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                targets.start(session)
                _drive(session, arguments, report, destination)
                runs.append(session.result())
                session.close()
            stopped = session.stop_signal
    if arguments.interval:
        destination.write(report.end(runs[-1]))
    else:
        destination.write(report.whole(runs, str(targets)))
    _tell_warnings(arguments, runs[-1])
    return _exit_code(runs[-1], stopped)


def _drive(session: Session, arguments: argparse.Namespace, report: CountReport, destination: Destination) -> None:
    """Run to the end, the timeout or a signal, printing intervals on the way."""
    start = time.monotonic()
    deadline = None if arguments.timeout is None else start + arguments.timeout / 1000
    tick = None if arguments.interval is None else start + arguments.interval / 1000
    before: CountResult | None = None
    done = False
    while not done and session.stop_signal is None:
        next_stops = [moment for moment in (deadline, tick) if moment is not None]
        done = session.run(max(0.0, min(next_stops) - time.monotonic()) if next_stops else None)
        now = time.monotonic()
        if tick is not None and (done or now >= tick or session.stop_signal is not None):
            result = session.result()
            rows = differences(result, before)
            destination.write(report.interval(result.elapsed, rows, first=before is None))
            before = result
            while tick <= now:
                tick += arguments.interval / 1000
        if deadline is not None and now >= deadline and not done:
            if session.launched_pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(session.launched_pid, signal.SIGTERM)
            deadline = None


def _exit_code(result: CountResult, stopped: int | None) -> int:
    """The program's exit status; 128 + n if it, or branchmon while it goes on, was ended by signal n."""
    if result.status is not None:
        code = os.waitstatus_to_exitcode(result.status)
        return code if code >= 0 else 128 - code
    return 0 if stopped is None else 128 + stopped


def _tell_warnings(arguments: argparse.Namespace, result: CountResult) -> None:
    """On stderr too, unless the table there has them."""
    if arguments.output is not None or arguments.json or arguments.separator is not None:
        for warning in result.warnings:
            print(f"branchmon: warning: {warning}", file=sys.stderr)


# ---- of a trace -----------------------------------------------------------------------------------------------------


def _replay(
    arguments: argparse.Namespace, requests: list[EventRequest], settings: SessionOptions, report: CountReport
) -> int:
    for name, given in (
        ("a program", arguments.program), ("-p", arguments.pids), ("-t", arguments.tids), ("-I", arguments.interval),
        ("--timeout", arguments.timeout), ("-r", arguments.repeat > 1), ("--source", arguments.source),
    ):  # fmt: skip
        if given:
            raise UsageError(f"-i and {name} do not go together", slug="usage", remedy="leave one of them out")
    from branchmon.sources.trace import TraceSource
    from branchmon.traces.reader import Trace

    trace = Trace(arguments.input)
    destination = Destination(arguments.output, append=arguments.append)
    try:
        with Session(requests, settings, make_source=lambda tasks, sink: TraceSource(tasks, trace)) as session:
            with session.stopped_by_signals():
                session.replay()
                session.run()
            # The recording's own time, not ours; it knows no processor times.
            recorded = getattr(session.source, "time", 0) / 1e9
            result = replace(session.result(), elapsed=recorded, user=None, system=None)
        destination.write(report.whole([result], f"trace '{arguments.input}'"))
        _tell_warnings(arguments, result)
    finally:
        destination.close()
    return 0 if session.stop_signal is None else 128 + session.stop_signal


# ---- numbers --------------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return value


def _milliseconds(text: str) -> int:
    """A number of milliseconds, at least 10 as perf's."""
    value = int(text) if text.isdecimal() else 0
    if value < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds from 10")
    return value
