"""examples:
  branchmon perf stat -e intel_bm/rets/ ./test
  branchmon perf list
  branchmon perf --set threshold=100 -- stat -e intel_bm/rets/,intel_bm/call-ret/ -p 1234

Unmodified perf with the PMU around it: short for `branchmon shell -- perf …`. Options before perf's own are
branchmon's; the first word that is no option begins perf's command line.
"""

import argparse
import shutil

from branchmon.commands import options
from branchmon.commands.shell import run_inside
from branchmon.errors import TargetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    options.add_driver(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell on stderr why the driver refused to open an event"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="PERF-ARGUMENTS", help="as perf takes them")


def run(arguments: argparse.Namespace) -> int:
    """Run perf inside."""
    command = list(arguments.command)
    if command[:1] == ["--"]:
        command = command[1:]
    if shutil.which("perf") is None:
        raise TargetError(
            "perf is not installed",
            slug="no-perf",
            remedy="install it: Debian linux-perf, Ubuntu linux-tools-generic, Fedora and Arch perf; or use"
            " `branchmon stat`, which needs none",
            exit_code=127,
        )
    return run_inside(arguments, ["perf", *command])
