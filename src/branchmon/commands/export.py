"""examples:
  branchmon export trace.arrows --format perfetto -o trace.json       open it in ui.perfetto.dev
  branchmon export trace.arrows --format speedscope -o trace.json     open it in speedscope.app
  branchmon export trace.arrows --format parquet -o trace.parquet
  branchmon export cut.arrows --format arrow -o whole.arrows          the good part of a cut trace

Write a trace for other programs. Trips are shown in Perfetto for the events given by -e, or else for those that were
live while recording.
"""

import argparse
from typing import TYPE_CHECKING

from branchmon.commands import options
from branchmon.session import SessionOptions

if TYPE_CHECKING:
    from branchmon.traces.exporters.perfetto import Mark
    from branchmon.traces.reader import Trace

FORMATS = ("perfetto", "speedscope", "csv", "parquet", "arrow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("trace", metavar="FILE", help="the trace")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the output")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where to write")
    parser.add_argument("--max-calls", type=int, default=1_000_000, metavar="N",
                        help="calls and returns in a Perfetto file, at most (default 1000000)")  # fmt: skip
    options.add_events(parser)
    options.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export."""
    from branchmon.traces.reader import Trace

    trace = Trace(arguments.trace)
    options.tell(f"{_write(arguments, trace)}: {arguments.output}")
    if trace.cut:
        options.tell(f"the trace is cut: {trace.cut}")
    return 0


def _write(arguments: argparse.Namespace, trace: "Trace") -> str:
    """Write the file; what was written, in words."""
    path = arguments.output
    if arguments.format == "perfetto":
        from branchmon.traces.exporters.perfetto import export_perfetto

        done = export_perfetto(trace, path, _marks(arguments, trace), limit=arguments.max_calls)
        return f"{done.events:,} calls and returns" + (", cut short by --max-calls" if done.limited else "")
    if arguments.format == "speedscope":
        from branchmon.traces.exporters.speedscope import export_speedscope

        return f"{export_speedscope(trace, path):,} returns"
    if arguments.format == "csv":
        from branchmon.traces.exporters.csv import export_csv

        return f"{export_csv(trace, path):,} rows"
    if arguments.format == "parquet":
        from branchmon.traces.exporters.parquet import export_parquet

        return f"{export_parquet(trace, path):,} rows"
    from branchmon.traces.exporters.arrow import export_arrow

    return f"{export_arrow(trace, path):,} rows"


def _marks(arguments: argparse.Namespace, trace: "Trace") -> "list[Mark]":
    from branchmon.driver.syntax import parse_events
    from branchmon.traces.exporters.perfetto import Mark
    from branchmon.traces.trips import recorded_settings, replay

    recorded, attributes = recorded_settings(trace)
    if arguments.events:
        attributes = options.settings(arguments)
    events = arguments.events or recorded
    if not events:
        return []
    found = replay(trace, parse_events(events), SessionOptions(attributes=attributes), places=True)
    return [Mark(trip.thread, trip.branch, ", ".join(trip.events)) for trip in found.trips]
