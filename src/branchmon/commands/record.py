"""examples:
  branchmon record -o trace.arrows -- gzip -k file
  branchmon record -p 4242 --max-size 200M         the newest 200 MB, until ^C
  branchmon record --snapshot-on-trip -e intel_bm/ret-misp,threshold=3/ -p 4242

Record every retired branch of a program, its threads and children, or of running processes, into a trace: an Arrow
stream that `stat -i`, `script`, `report` and any Arrow reader understand. A trace that was cut anywhere is good up to
its last complete batch. The program's exit status is ours.
"""

import argparse
import os
import re
from typing import TYPE_CHECKING

from branchmon.commands import options
from branchmon.errors import UsageError
from branchmon.session import Session, SessionOptions

if TYPE_CHECKING:
    from branchmon.traces.recorder import Recorder
    from branchmon.traces.ring import Store

DEFAULT_FILE = "branchmon.arrows"
REFRESH_SECONDS = 0.25
MIN_RING = 1 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d{1,12})([kmg]?)(?:i?b)?$", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("-o", "--output", metavar="FILE", default=DEFAULT_FILE,
                        help=f"the trace (default {DEFAULT_FILE})")  # fmt: skip
    parser.add_argument("--max-size", metavar="SIZE", type=_size,
                        help="a ring: keep the newest part, the file never grows beyond this (k, M, G)")  # fmt: skip
    parser.add_argument("--snapshot-on-trip", action="store_true",
                        help="write only what is around trips of the events given by -e")  # fmt: skip
    parser.add_argument("--before", metavar="SIZE", type=_size, default=16 << 20,
                        help="memory for what came before a trip, compressed (default 16M)")  # fmt: skip
    parser.add_argument("--after", metavar="BRANCHES", type=int, default=100_000,
                        help="branches to write after a trip (default 100000)")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no live line and no summary")
    options.add_events(parser)
    options.add_driver(parser)
    options.add_targets(parser)


def run(arguments: argparse.Namespace) -> int:
    """Record."""
    targets = options.targets(arguments)
    requests = options.requests(arguments) if arguments.events or arguments.snapshot_on_trip else []
    from branchmon.traces.recorder import Recorder, new_metadata
    from branchmon.traces.writer import TraceWriter

    settings = options.settings(arguments)
    metadata = new_metadata(
        program=list(targets.program),
        pids=[*targets.pids, *targets.tids],
        settings={"events": arguments.events or [], "attributes": settings},
    )
    recorder = Recorder(TraceWriter(_store(arguments), metadata), attached=not targets.program)
    session_options = SessionOptions(
        attributes=settings,
        source=arguments.source,
        inherit=arguments.inherit,
        strict=arguments.strict,
        kill_on_exit=arguments.kill_on_exit,
        progress=None if arguments.quiet else options.tell,
        sink=recorder,
    )
    with Session(requests, session_options) as session:
        metadata.source = type(session.source).capabilities().name
        targets.start(session)
        if arguments.snapshot_on_trip:
            session.pmu.listeners.append(recorder.tripped)
        with session.stopped_by_signals():
            _drive(session, recorder, quiet=arguments.quiet)
        report = session.exit_report()
    # Only now has the source told everything.
    recorder.close(warnings=list(session.source.warnings), stopped=session.stop_signal is not None)
    for warning in session.source.warnings:
        options.tell(warning)
    if recorder.error is not None:
        raise recorder.error
    if not arguments.quiet:
        _summarize(arguments.output, recorder)
    return 0 if report is None or report.status is None else _exit_code(report.status)


def _exit_code(status: int) -> int:
    """A wait status as a shell gives it: signals as 128 + n."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _size(text: str) -> int:
    found = _SIZE.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it as 200M")
    return int(found.group(1)) * _UNITS[found.group(2).lower()]


def _store(arguments: argparse.Namespace) -> "Store":
    from branchmon.traces.ring import FileRing, FileStore, SnapshotRing

    if arguments.snapshot_on_trip and arguments.max_size:
        raise UsageError(
            "--max-size and --snapshot-on-trip are two kinds of ring",
            slug="record-two-rings",
            remedy="use one of them; --before SIZE bounds the memory of a snapshot",
        )
    if arguments.snapshot_on_trip:
        return SnapshotRing(arguments.output, arguments.before, arguments.after)
    if arguments.max_size is None:
        return FileStore(arguments.output)
    if arguments.max_size < MIN_RING:
        raise UsageError("--max-size is less than one batch needs", slug="record-ring-size", remedy="give at least 1M")
    return FileRing(arguments.output, arguments.max_size)


def _drive(session: Session, recorder: "Recorder", *, quiet: bool) -> None:
    from branchmon.reports.recording import LiveLine

    with LiveLine(recorder, enabled=not quiet) as line:
        while not session.run(timeout=REFRESH_SECONDS) and session.stop_signal is None:
            line.update()


def _summarize(path: str, recorder: "Recorder") -> None:
    writer = recorder.writer
    each = f", {writer.size / writer.branches:.2f} bytes each" if writer.branches else ""
    options.tell(f"recorded {writer.branches:,} branches of {recorder.threads} threads{each}: {path}")
    options.tell(f"next: branchmon report {path}")
