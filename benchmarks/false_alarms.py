"""Ordinary programs that do what attacks do: what each event shows of them; the second table of docs/limits.md."""

import shutil
import subprocess
import sys
from pathlib import Path

from branchmon.driver.syntax import parse_events
from branchmon.events import EVENTS_BY_NAME
from branchmon.session import Session, SessionOptions
from branchmon.sources.trace import TraceSource
from branchmon.traces.reader import Trace
from driving import PROGRAMS

SOURCES = (
    "longjmp.c",
    "exceptions.cc",
    "coroutines.c",
    "signals.c",
    "tailcalls.c",
    "recursion.c",
    "sorting.c",
    "jit.c",
)
ABOUT = {
    "longjmp": "setjmp/longjmp", "exceptions": "C++ exceptions", "coroutines": "coroutines by swapcontext",
    "signals": "signal handlers", "tailcalls": "tail calls", "recursion": "recursion 3,000 deep",
    "sorting": "qsort callbacks", "jit": "a small JIT",
}  # fmt: skip
INTERPRETERS = {
    "perl": [
        "-e",
        "my %h; $h{$_ % 7} .= chr(65 + $_ % 26) for 1 .. 300; print join(',', map { length } sort values %h)",
    ],
    sys.executable: ["-I", "-S", "-c", "print(sum(range(10)))"],
}


def build(directory: Path) -> dict[str, list[str]]:
    """The programs, by what they are."""
    commands = {}
    for name in SOURCES:
        source = PROGRAMS / "confounders" / name
        target = directory / source.stem
        compiler = "g++" if source.suffix == ".cc" else "gcc"
        subprocess.run([compiler, "-O2", "-o", str(target), str(source)], check=True)
        commands[ABOUT[source.stem]] = [str(target)]
    for program, arguments in INTERPRETERS.items():
        path = shutil.which(program)
        if path is not None:
            commands["Python" if program == sys.executable else program] = [path, *arguments]
    return commands


def record(command: list[str], path: Path) -> None:
    """Record the program's branches once; its output and status are those of the bare run."""
    bare = subprocess.run(command, capture_output=True, check=True)
    recorder = [sys.executable, "-m", "branchmon", "record", "-o", str(path), "--", *command]
    done = subprocess.run(recorder, capture_output=True, check=True)
    assert done.stdout == bare.stdout, command


def shown(path: Path, terms: str) -> list[tuple[int, int]]:
    """Trips and the highest count in a window of each event, replayed from a recording."""
    trace = Trace(str(path))
    found = []
    for name in EVENTS_BY_NAME:
        requests = parse_events([f"intel_bm/{name},{terms}/"])
        with Session(requests, SessionOptions(), make_source=lambda tasks, sink: TraceSource(tasks, trace)) as session:
            session.replay()
            session.run()
            count = session.result().events[0]
        found.append((count.trips, count.highest))
    return found
