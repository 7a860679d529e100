"""examples:
  branchmon report trace.arrows
  branchmon report trace.arrows -e intel_bm/rets,threshold=30,window_size=256/
  branchmon report trace.arrows --html report.html

Summarize a trace: branches by thread and module, the highest counts in a window, trips at the given settings (or those
that were live while recording), the hottest returns. The page for the browser shows the counts window by window, trips
for many windows and thresholds, and each trip's last branches; it is one file and needs no network.
"""

import argparse
import sys

from branchmon.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("trace", metavar="FILE", help="the trace")
    parser.add_argument("--html", metavar="OUT", help="write a page for the browser")
    options.add_events(parser)
    options.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Report."""
    from branchmon.driver.syntax import parse_events
    from branchmon.reports.trace_summary import print_summary
    from branchmon.traces.analysis import analyse
    from branchmon.traces.reader import Trace
    from branchmon.traces.trips import recorded_settings

    trace = Trace(arguments.trace)
    recorded, attributes = recorded_settings(trace)
    if arguments.events or not recorded:
        requests, attributes = options.requests(arguments), options.settings(arguments)
    else:
        requests = parse_events(recorded)
    analysis = analyse(trace, requests, attributes, heat=arguments.html is not None)
    print_summary(analysis, sys.stdout)
    if arguments.html is not None:
        from branchmon.reports.page import write_page

        write_page(analysis, arguments.html)
        options.tell(f"page: {arguments.html}")
    return 0
