"""speedscope (speedscope.app): where returns concentrate. Each near return is a sample of weight 1 with its call stack.

Source: speedscope's file format, ``https://www.speedscope.app/file-format-schema.json``, profiles of type ``sampled``.
"""

import json
from collections import Counter

from branchmon.traces.calls import CallStack
from branchmon.traces.exporters.output import text_file
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import RowKind
from branchmon.traces.symbols import TraceSymbols

MAX_STACKS = 200_000
"""Different stacks at most; more returns are counted without their callers."""
MAX_FRAMES = 128
"""Innermost frames that are kept of a stack."""


def export_speedscope(trace: Trace, path: str) -> int:
    """Write a profile a thread; the number of returns in them.

    :raises OutputError: the file cannot be written.
    """
    run = _Run()
    for rows in trace.batches():
        for part, events in rows.between_events():
            for thread, own in part.by_thread():
                run.rows(thread, own)
            for event in events:
                run.event(event)
    profiles = []
    for thread, counts in run.stacks.items():
        ordered = sorted(counts.items())
        profiles.append(
            {
                "type": "sampled",
                "name": f"returns of {run.names.get(thread, 'thread')} {thread}",
                "unit": "none",
                "startValue": 0,
                "endValue": sum(counts.values()),
                "samples": [list(stack) for stack, _ in ordered],
                "weights": [count for _, count in ordered],
            }
        )
    with text_file(path) as file:
        json.dump(
            {
                "$schema": "https://www.speedscope.app/file-format-schema.json",
                "exporter": trace.metadata.writer,
                "name": " ".join(trace.metadata.program) or trace.path,
                "shared": {"frames": [{"name": name, "file": module} for name, module in run.frames]},
                "profiles": profiles,
            },
            file,
        )
    return run.returns


class _Run:
    def __init__(self) -> None:
        self.stacks: dict[int, Counter[tuple[int, ...]]] = {}
        self.names: dict[int, str] = {}
        self.returns = 0
        self._symbols = TraceSymbols()
        self._calls: dict[int, CallStack] = {}
        self._frames: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[int, int], int] = {}  # by process and address
        self._kept = 0

    @property
    def frames(self) -> list[tuple[str, str]]:
        return list(self._frames)

    def rows(self, thread: int, rows: Rows) -> None:
        calls = self._calls.setdefault(thread, CallStack())
        counts = self.stacks.setdefault(thread, Counter())
        for step in calls.steps(rows):
            if step.call:
                continue
            stack = [self._frame(thread, frame.function) for frame in calls.frames[-MAX_FRAMES:]]
            # The stack knows functions by where they were called; the return itself tells where it stands.
            here = self._frame(thread, int(rows.source[step.row]))
            if not stack or stack[-1] != here:
                stack.append(here)
            key = tuple(stack)
            if key not in counts:
                if self._kept >= MAX_STACKS:
                    key = (here,)
                self._kept += 1
            counts[key] += 1
            self.returns += 1

    def event(self, event: Event) -> None:
        self._symbols.apply(event)
        if event.kind == RowKind.START:
            self.names[event.thread] = str(event.note.get("comm") or "thread")
        if event.kind in (RowKind.MAPPINGS, RowKind.EXEC, RowKind.NAMES):
            self._known.clear()
        if event.kind in (RowKind.GAP, RowKind.EXEC):
            for thread in [event.thread] if event.thread else list(self._calls):
                self._calls.setdefault(thread, CallStack()).clear()

    def _frame(self, thread: int, address: int) -> int:
        key = (self._symbols.state.pid(thread), address)
        found = self._known.get(key)
        if found is None:
            place = self._symbols.describe(thread, address)
            name = (place.symbol or place.name, place.module)
            found = self._known[key] = self._frames.setdefault(name, len(self._frames))
        return found
