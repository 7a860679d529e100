"""What a trace holds, from reading it once."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from branchmon.events import BranchKind
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import VERSION, Metadata, RowKind
from branchmon.traces.state import TraceState


@dataclass
class ThreadContents:
    """One thread's part of a trace."""

    tid: int
    pid: int = 0
    parent: int | None = None
    comm: str = ""
    instructions: int = 0
    branches: dict[str, int] = field(default_factory=dict)
    """By kind."""


@dataclass
class Contents:
    """A trace's contents.

    :ivar cut: why it is not complete; None if it is.
    :ivar gaps: by reason.
    :ivar seconds: from the recording's beginning to its last row.
    :ivar modules: path and build-id of every file that was mapped executable.
    """

    path: str
    metadata: Metadata
    bytes: int = 0
    batches: int = 0
    rows: int = 0
    branches: int = 0
    instructions: int = 0
    seconds: float = 0.0
    cut: str | None = None
    threads: list[ThreadContents] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)
    signals: int = 0
    execs: list[str] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def approximations(self) -> list[str]:
        """What is not exact: as known at the beginning, and at the end."""
        late = self.end.get("approximations")
        told = [*self.metadata.approximations, *(late if isinstance(late, list) else [])]
        return list(dict.fromkeys(str(sentence) for sentence in told))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"schema": VERSION, **asdict(self), "approximations": self.approximations, "complete": self.cut is None}


def read_contents(trace: Trace) -> Contents:
    """Read the whole trace."""
    found = Contents(trace.path, trace.metadata)
    state = TraceState()
    threads: dict[int, ThreadContents] = {}
    gaps: Counter[str] = Counter()
    for rows in trace.batches():
        found.batches += 1
        found.rows += len(rows)
        if len(rows):
            found.seconds = max(found.seconds, int(rows.time.max()) / 1e9)
        _add_rows(threads, rows)
        for event in rows.events:
            state.apply(event.kind, event.thread, event.note)
            _add_event(found, threads, gaps, state, event)
    found.threads = [threads[tid] for tid in sorted(threads)]
    found.gaps = dict(gaps)
    found.branches = sum(sum(thread.branches.values()) for thread in found.threads)
    found.instructions = sum(thread.instructions for thread in found.threads)
    found.bytes, found.cut, found.end = trace.size, trace.cut, trace.end
    return found


def _add_rows(threads: dict[int, ThreadContents], rows: Rows) -> None:
    for tid, own in rows.by_thread():
        thread = threads.setdefault(tid, ThreadContents(tid))
        kinds = np.bincount(own.kind[own.retires], minlength=8)
        thread.instructions += int(own.gap[own.retires].sum(dtype=np.int64)) + int(kinds[1:8].sum())
        for kind in BranchKind:
            if kind != BranchKind.PLAIN and kinds[kind]:
                name = kind.name.lower().replace("_", "-")
                thread.branches[name] = thread.branches.get(name, 0) + int(kinds[kind])


def _add_event(
    found: Contents, threads: dict[int, ThreadContents], gaps: Counter[str], state: TraceState, event: Event
) -> None:  # fmt: skip
    if event.kind == RowKind.START:
        thread = threads.setdefault(event.thread, ThreadContents(event.thread))
        known = state.threads.get(event.thread)
        if known is not None:
            thread.pid, thread.parent, thread.comm = known.pid, known.parent, known.comm
    elif event.kind == RowKind.EXEC:
        path = str(event.note.get("path", ""))
        found.execs.append(path)
        if event.thread in threads:
            threads[event.thread].comm = str(event.note.get("comm", "")) or threads[event.thread].comm
    elif event.kind == RowKind.GAP:
        gaps[str(event.note.get("why"))] += 1
    elif event.kind == RowKind.SIGNAL:
        found.signals += 1
    elif event.kind == RowKind.MAPPINGS:
        pid = state.pid(event.thread)
        ids = state.build_ids(pid)
        for mapping in state.mappings(pid):
            if mapping.path and len(found.modules) < 10_000:
                found.modules.setdefault(mapping.path, ids.get(mapping.path, ""))
