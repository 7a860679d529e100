"""examples:
  perf script --itrace=b -F comm,pid,tid,time,event,ip,addr,sym,symoff,dso,flags > pt.txt
  branchmon import pt.txt -o trace.arrows --binaries ./prog --binaries /usr/lib
  perf script -F comm,pid,tid,time,ip,brstack | branchmon import - -o trace.arrows

Make a trace of what perf script prints: taken branches of Intel PT, or last branches (LBR) of samples. With the
binaries, what executes between two branches is recovered by decoding, not-taken branches included; without, the result
is approximate and says how. Every line is accounted for: records + gaps + ignored = lines.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, BinaryIO

from branchmon.commands import options
from branchmon.errors import UsageError

if TYPE_CHECKING:
    from branchmon.traces.importers.text import ImportResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("text", metavar="FILE", help="what perf script printed; - for stdin")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the trace")
    parser.add_argument("--binaries", action="append", default=[], metavar="PATH",
                        help="a program or library, or a directory of them, as they were when recorded")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the account as a JSON object on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Import."""
    from branchmon.traces.importers.binaries import Binaries
    from branchmon.traces.importers.text import import_text
    from branchmon.traces.ring import FileStore

    code = Binaries(arguments.binaries) if arguments.binaries else None
    with _open(arguments.text) as file:
        result = import_text(file, lambda: FileStore(arguments.output), code)
    if arguments.json:
        print(json.dumps({"source": result.kind, **result.note()}))
    else:
        for line in describe(result):
            options.tell(line)
        options.tell(f"next: branchmon report {arguments.output}")
    return 0


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}", slug="import-unreadable",
                         remedy="check the name") from error  # fmt: skip


def describe(result: "ImportResult") -> list[str]:
    """The account, for people."""
    ignored = sum(result.ignored.values())
    lines = [
        f"{result.lines:,} lines = {result.records:,} records + {result.gaps:,} gaps + {ignored:,} ignored",
        f"{result.branches:,} branches of {result.threads:,} threads",
    ]
    if result.snippets:
        lines.append(f"{result.snippets:,} snippets of last branches")
    lines += [f"gaps: {count:,} {why}" for why, count in result.reasons.items()]
    lines += [f"ignored: {count:,} {why}" for why, count in result.ignored.items()]
    if result.breaks:
        lines.append(f"{result.breaks:,} branches do not begin where the one before went: a gap before each")
    return lines + [f"approximate: {sentence}" for sentence in result.approximations]
