"""For tests: build programs, drive a source through its Python interface, look at what it counted."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from branchmon.device.unit import INSTRUCTIONS, NOT_TAKEN
from branchmon.driver.config import TERM_FIELDS
from branchmon.driver.perf_event import PerfEvent, PerfEventAttr
from branchmon.driver.pmu import Pmu, Trip
from branchmon.driver.tasks import Tasks
from branchmon.events import EVENTS_BY_NAME, BranchKind
from branchmon.sources.base import LaunchOptions, LiveSource
from branchmon.sources.choose import all_sources, choose

PROGRAMS = Path(__file__).parent / "programs"
SOURCES = [source.name for source in all_sources() if source.available]
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/nonexistent"}
ADDR_NO_RANDOMIZE = 0x0040000

_BARE = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none")


def build(directory: Path, name: str, *flags: str, out: str | None = None) -> str:
    """Build a program of tests/programs; assembly without a C library, the rest with one. The executable's path."""
    source = PROGRAMS / name
    target = directory / (out or source.stem)
    compiler = "g++" if source.suffix == ".cc" else "gcc"
    kind = ("-x", "assembler-with-cpp", *_BARE) if source.suffix == ".s" else ("-O1", "-pthread")
    subprocess.run([compiler, *kind, *flags, str(source), "-o", str(target)], check=True, capture_output=True)
    return str(target)


@dataclass
class Outcome:
    """What a monitored program did and what was counted."""

    status: int | None
    stdout: bytes
    stderr: bytes
    totals: list[int]
    trips: list[int]
    warnings: list[str]
    records: list[Trip] = field(default_factory=list)

    @property
    def instructions(self) -> int:
        return self.totals[INSTRUCTIONS]

    def of(self, kind: BranchKind) -> int:
        return self.totals[kind]

    @property
    def not_taken(self) -> int:
        return self.totals[NOT_TAKEN]


@contextmanager
def redirected(stdin: bytes = b"") -> Any:
    """Descriptors 0, 1 and 2 of this process as files, for the programs it starts; yields how to read 1 and 2."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        saved = [os.dup(fd) for fd in (0, 1, 2)]
        for fd, file in enumerate((given, out, err)):
            os.dup2(file.fileno(), fd)

        def restore() -> None:
            for fd, old in enumerate(saved):
                os.dup2(old, fd)

        def read() -> tuple[bytes, bytes]:
            out.seek(0)
            err.seek(0)
            return out.read(), err.read()

        try:
            yield restore, read
        finally:
            restore()
            for old in saved:
                os.close(old)


@contextmanager
def fixed_addresses() -> Any:
    """Programs started meanwhile find the same addresses every time."""
    libc = ctypes.CDLL(None)
    before = libc.personality(0xFFFFFFFF)
    libc.personality(before | ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        libc.personality(before)


def watched(
    source_name: str,
    argv: Sequence[str],
    events: Sequence[tuple[str, Mapping[str, int]]] = (("rets", {}),),
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] = ENVIRONMENT,
    attributes: Mapping[str, int] | None = None,
    listen: bool = False,
    sink: Any = None,
    prepare: Callable[[LiveSource, int], None] | None = None,
) -> Outcome:
    """Run a program to its end under a source, with events on it."""
    pmu = Pmu()
    for name, value in (attributes or {}).items():
        pmu.attributes.store(name, str(value))
    tasks = Tasks(pmu)
    tasks.all_totals = True
    source = choose(source_name)(tasks, sink)
    records: list[Trip] = []
    if listen:
        pmu.listeners.append(records.append)
    try:
        with redirected(stdin) as (restore, read):
            task = source.launch(LaunchOptions(argv, env=dict(env)))
            restore()
            pid = task.pid
            opened = [open_event(pmu, task, name, terms, enable_on_exec=True) for name, terms in events]
            if prepare is not None:
                prepare(source, pid)
            assert source.run() is True
            out, err = read()
        trips = [event.read().value for event in opened]
        return Outcome(source.report(pid).status, out, err, tasks.totals(), trips, source.warnings, records)
    finally:
        source.close()


def open_event(
    pmu: Pmu, task: Any, name: str = "rets", terms: Mapping[str, int] | None = None, *, enable_on_exec: bool = False
) -> PerfEvent:
    """Open an event on a task, inherited by what it starts."""
    config1 = 0
    for term, value in (terms or {}).items():
        config1 |= TERM_FIELDS[term].put(value)
    attr = PerfEventAttr(
        type=pmu.type,
        config=int(EVENTS_BY_NAME[name]),
        config1=config1,
        inherit=True,
        disabled=enable_on_exec,
        enable_on_exec=enable_on_exec,
    )
    return pmu.open(attr, task)


def native(
    argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] = ENVIRONMENT
) -> tuple[int, bytes, bytes]:
    """The same program by itself: wait status, stdout, stderr."""
    with tempfile.TemporaryFile() as file:  # as `redirected` gives it
        file.write(stdin)
        file.seek(0)
        done = subprocess.run(argv, stdin=file, env=dict(env), capture_output=True, check=False, timeout=30)
    status = -done.returncode if done.returncode < 0 else done.returncode << 8
    return status & 0xFF7F, done.stdout, done.stderr
