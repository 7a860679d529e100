"""examples:
  branchmon info trace.arrows
  branchmon info trace.arrows --json

Say what a trace holds: program, source, host, threads, branches by kind, gaps, and whether it is complete and exact.
"""

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("trace", metavar="FILE", help="the trace")
    parser.add_argument("--json", action="store_true", help="one JSON object (docs/traces.md has the keys)")


def run(arguments: argparse.Namespace) -> int:
    """Print."""
    from branchmon.traces.contents import read_contents
    from branchmon.traces.reader import Trace

    contents = read_contents(Trace(arguments.trace))
    if arguments.json:
        print(json.dumps(contents.as_json(), indent=2))
    else:
        from branchmon.reports.trace_contents import print_contents

        print_contents(contents, sys.stdout)
    return 0
