"""examples:
  branchmon shell                                         a shell in which the PMU exists
  branchmon shell --set threshold=100 -- ./tests.sh       a command, with an attribute changed
  branchmon shell -- perf stat -e intel_bm/rets/ ./test   unmodified perf (short: branchmon perf stat …)

Inside, /sys/devices/intel_bm is there, with its attributes to read and write (echo 100 > …/threshold), and
perf_event_open knows its type: perf, and any program written for the driver, work as they are. Everything else under
/sys, and every other perf event, is the machine's own. Needs no root: an ordinary user gets a user namespace.

Attributes live as long as the shell. The exit code is the command's; 128 + n if signal n killed it.
"""

import argparse
import os

from branchmon.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    options.add_driver(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell on stderr why the driver refused to open an event"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ARGUMENTS", help="instead of $SHELL")


def run(arguments: argparse.Namespace) -> int:
    """Run the command inside."""
    command = list(arguments.command)
    if command[:1] == ["--"]:
        command = command[1:]
    return run_inside(arguments, command or [os.environ.get("SHELL") or "/bin/sh"])


def run_inside(arguments: argparse.Namespace, command: list[str]) -> int:
    """Run `command` inside, as the shared options say; its exit code."""
    from branchmon.abi.server import Server
    from branchmon.abi.shell import Shell
    from branchmon.abi.sysfs import free_type, used_types
    from branchmon.driver.pmu import Pmu
    from branchmon.driver.refusals import store_attributes
    from branchmon.sources import guard
    from branchmon.sources.choose import choose

    pmu = Pmu(free_type(used_types()), strict=arguments.strict)
    store_attributes(pmu.attributes, options.settings(arguments))
    source = choose(arguments.source)
    guarded = guard.allowed and source.source.capabilities().name == "step"
    if guarded:
        guard.stand()  # from here on in a child, which lets programs go properly when its parent is killed

    def refused(tid: int, why: str) -> None:
        if arguments.verbose:
            options.tell(f"perf_event_open of task {tid} refused: {why}")

    server = Server(pmu, lambda tasks: source(tasks, None), refused)
    return Shell(server, command, options.tell, guarded=guarded).run()
