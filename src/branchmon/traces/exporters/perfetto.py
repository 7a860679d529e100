"""The Chrome trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open: threads, calls, trips.

Source: "Trace Event Format", the JSON array form with ``B``/``E`` duration events, ``i`` instants and ``M`` metadata.
Times are microseconds. Where rows have no time of their own, a thread's clock is its retired instructions, one
nanosecond each: durations are then exact in instructions, and threads do not line up.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from branchmon.traces.calls import CallStack
from branchmon.traces.exporters.output import JsonArray, text_file
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import RowKind
from branchmon.traces.symbols import TraceSymbols

DEFAULT_LIMIT = 1_000_000


class Mark(NamedTuple):
    """A trip to show: the thread, the number of its branch in the thread's stream (0 and up), and a label."""

    thread: int
    branch: int
    label: str


class Exported(NamedTuple):
    """What was written: calls and returns, and whether the limit cut it short."""

    events: int
    limited: bool


def export_perfetto(
    trace: Trace, path: str, marks: Iterable[Mark] = (), *, limit: int = DEFAULT_LIMIT
) -> Exported:  # fmt: skip
    """Write calls, returns, signals, gaps and trips.

    :param limit: calls and returns at most; a viewer with more is no use to anybody.
    :raises OutputError: the file cannot be written.
    """
    by_time = trace.metadata.clock == "branch"
    with text_file(path) as file:
        file.write('{"displayTimeUnit":"ns","otherData":')
        json.dump({"program": trace.metadata.program, "clock": "time" if by_time else "instructions"}, file)
        file.write(',"traceEvents":[')
        run = _Run(JsonArray(file), marks, by_time, limit)
        for rows in trace.batches():
            for part, events in rows.between_events():
                for thread, own in part.by_thread():
                    run.rows(thread, own)
                for event in events:
                    run.event(event)
            if run.limited:
                break
        run.close()
        file.write("]}\n")
    return Exported(run.written, run.limited)


class _Lane:
    """One thread as it is shown."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stack = CallStack()
        self.instructions = 0
        self.branches = 0
        self.now = 0.0


class _Run:
    def __init__(self, out: JsonArray, marks: Iterable[Mark], by_time: bool, limit: int) -> None:
        self._out = out
        self._by_time = by_time
        self._left = limit
        self._symbols = TraceSymbols()
        self._lanes: dict[int, _Lane] = {}
        self._marks: dict[int, list[Mark]] = {}
        for mark in sorted(marks):
            self._marks.setdefault(mark.thread, []).append(mark)
        self.written = 0
        self.limited = False

    def rows(self, thread: int, rows: Rows) -> None:
        lane = self._lane(thread)
        retired = lane.instructions + np.cumsum(rows.gap.astype(np.int64) + (rows.kind > 0))
        clock = (rows.time if self._by_time else retired) / 1000
        self._show_marks(thread, lane, rows, clock)
        for step in lane.stack.steps(rows):
            if self._left <= 0:
                self.limited = True
                break
            at = float(clock[step.row])
            if step.call:
                name = self._symbols.name(thread, int(rows.target[step.row]))
                self._emit("B", thread, lane, at, name=name)
            for _ in range(step.left):
                self._emit("E", thread, lane, at)
        lane.instructions = int(retired[-1])
        lane.branches += int(rows.is_branch.sum())
        lane.now = float(clock[-1])

    def event(self, event: Event) -> None:
        self._symbols.apply(event)
        if event.kind == RowKind.START:
            note = {"name": event.note.get("comm") or "thread"}
            lane = self._lane(event.thread)
            self._out.add({"ph": "M", "name": "thread_name", "pid": lane.pid, "tid": event.thread, "args": note})
        elif event.kind == RowKind.SIGNAL:
            self._instant(event.thread, f"signal {event.note.get('signal')}")
        elif event.kind == RowKind.GAP:
            for thread in [event.thread] if event.thread else list(self._lanes):
                self._instant(thread, f"gap: {event.note.get('why')}")
                self._leave_all(thread)
        elif event.kind in (RowKind.EXIT, RowKind.EXEC):
            self._leave_all(event.thread)

    def close(self) -> None:
        for thread in self._lanes:
            self._leave_all(thread)

    def _lane(self, thread: int) -> _Lane:
        lane = self._lanes.get(thread)
        if lane is None:
            lane = self._lanes[thread] = _Lane(self._symbols.state.pid(thread))
        return lane

    def _show_marks(self, thread: int, lane: _Lane, rows: Rows, clock: Any) -> None:
        marks = self._marks.get(thread)
        if not marks:
            return
        branches = np.flatnonzero(rows.is_branch)
        while marks and marks[0].branch < lane.branches + len(branches):
            mark = marks.pop(0)
            at = float(clock[branches[max(0, mark.branch - lane.branches)]])
            self._instant(thread, f"trip: {mark.label}", at)

    def _leave_all(self, thread: int) -> None:
        lane = self._lane(thread)
        for _ in lane.stack.frames:
            self._emit("E", thread, lane, lane.now)
        lane.stack.clear()

    def _instant(self, thread: int, name: str, at: float | None = None) -> None:
        lane = self._lane(thread)
        ts = lane.now if at is None else at
        self._out.add({"ph": "i", "s": "t", "name": name, "pid": lane.pid, "tid": thread, "ts": ts})

    def _emit(self, phase: str, thread: int, lane: _Lane, at: float, **more: str) -> None:
        self._out.add({"ph": phase, "pid": lane.pid, "tid": thread, "ts": at, **more})
        self.written += 1
        self._left -= 1
