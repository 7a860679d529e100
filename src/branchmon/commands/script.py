"""examples:
  branchmon script trace.arrows | head
  branchmon script trace.arrows --kind return --from memcpy
  branchmon script trace.arrows --json --tid 4242 --time 0.5,0.75
  branchmon script trace.arrows --around-trip -e intel_bm/rets,threshold=30/

Print a trace as text, one record a line: thread, seconds, instructions before the branch, kind, from, to.
"""

import argparse
import sys
from itertools import islice
from typing import TYPE_CHECKING

from branchmon.commands import options
from branchmon.errors import UsageError
from branchmon.session import SessionOptions

if TYPE_CHECKING:
    from branchmon.traces.reader import Trace
    from branchmon.traces.trips import TripPlace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("trace", metavar="FILE", help="the trace")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (docs/traces.md has the keys)")
    parser.add_argument("--tid", action="append", default=[], metavar="TID[,TID]", help="only these threads")
    parser.add_argument(
        "--kind", metavar="KIND[,KIND]", help="only these kinds: return, call, … or events: exec, gap …"
    )
    parser.add_argument("--from", dest="functions", action="append", default=[], metavar="SYMBOL",
                        help="only branches in this function")  # fmt: skip
    parser.add_argument("--time", metavar="START,END", help="only this part, seconds since the recording began")
    parser.add_argument("--around-trip", nargs="?", type=int, const=32, metavar="N",
                        help="only N branches (32) before and after each trip of the events given by -e, or else of "
                        "those that were live while recording")  # fmt: skip
    parser.add_argument("--max", type=int, metavar="N", help="at most so many records")
    options.add_events(parser)
    options.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print."""
    from branchmon.reports.trace_lines import json_lines, text_lines
    from branchmon.traces.reader import Trace
    from branchmon.traces.select import Selection, parse_kinds, parse_time, select
    from branchmon.traces.symbols import TraceSymbols

    trace = Trace(arguments.trace)
    start, end = parse_time(arguments.time) if arguments.time else (0.0, float("inf"))
    selection = Selection(
        threads=frozenset(_threads(arguments.tid)),
        kinds=parse_kinds(arguments.kind) if arguments.kind else frozenset(),
        functions=frozenset(arguments.functions),
        start=start,
        end=end,
        trips=None if arguments.around_trip is None else _trips(arguments, trace),
        around=arguments.around_trip or 0,
    )
    symbols = TraceSymbols()
    line_maker = json_lines if arguments.json else text_lines
    lines = (line for chosen in select(trace, selection, symbols) for line in line_maker(chosen, symbols))
    for line in islice(lines, arguments.max):
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
    for path in sorted(symbols.changed):
        options.tell(f"{path} is another file now than when it was recorded: its symbols are not used")
    if trace.cut:
        options.tell(f"the trace is cut: {trace.cut}")
    return 0


def _threads(texts: list[str]) -> set[int]:
    parts = [part for text in texts for part in text.split(",")]
    for part in parts:
        if not part.isdecimal():
            raise UsageError(
                f"--tid {part}: not a thread id", slug="bad-pid", remedy="`branchmon info FILE` lists them"
            )
    return {int(part) for part in parts}


def _trips(arguments: argparse.Namespace, trace: "Trace") -> "list[TripPlace]":
    from branchmon.driver.syntax import parse_events
    from branchmon.traces.trips import recorded_settings, replay

    recorded, attributes = recorded_settings(trace)
    if arguments.events:
        attributes = options.settings(arguments)
    elif not recorded:
        raise UsageError("--around-trip: trips of which events?", slug="script-no-events",
                         remedy="name them by -e: the trace was recorded without any")  # fmt: skip
    found = replay(
        trace, parse_events(arguments.events or recorded), SessionOptions(attributes=attributes), places=True
    )  # fmt: skip
    if found.all_trips > len(found.trips):
        options.tell(f"{found.all_trips} trips: the first {len(found.trips)} are shown")
    return found.trips
