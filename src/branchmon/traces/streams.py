"""A trace's threads as arrays in memory, predicted once: for asking many questions of the same branches."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from branchmon.device import replay as r
from branchmon.device.predictor import forget
from branchmon.device.stream import Predictions, Replay
from branchmon.driver.config import EventConfig
from branchmon.events import BmEvent, BranchKind, WindowClass
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import RowKind

DEFAULT_LIMIT = 20_000_000
"""Rows that are kept: five bytes each."""

TURNING_POINTS = frozenset((RowKind.START, RowKind.EXEC, RowKind.GAP))


@dataclass
class Segment:
    """Rows of one thread without a gap between them.

    :ivar gaps: instructions before each.
    :ivar codes: as :mod:`branchmon.device.replay` takes them: the kind, and whether it was mispredicted; 0: a plain
        instruction.
    """

    gaps: NDArray[np.uint32]
    codes: NDArray[np.uint8]

    def positions(self, window: WindowClass) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row, what the window counter would stand at, before and after it, if no window ever ended."""
        kinds = self.codes & r.KIND_MASK
        if window == WindowClass.INSTRUCTIONS:
            after = np.cumsum(self.gaps.astype(np.int64) + 1)
            return after - 1, after
        if window == WindowClass.BRANCHES:
            own = kinds > 0
        elif window == WindowClass.RETURNS:
            own = kinds == BranchKind.RETURN
        else:
            own = (kinds == BranchKind.INDIRECT_JUMP) | (kinds == BranchKind.INDIRECT_CALL)
        after = np.cumsum(own.astype(np.int64))
        return after - own, after


@dataclass
class ThreadStream:
    """One thread."""

    tid: int
    pid: int = 0
    comm: str = ""
    segments: list[Segment] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows in all segments."""
        return sum(len(segment.codes) for segment in self.segments)

    @property
    def instructions(self) -> int:
        """Instructions in all segments."""
        return sum(int(segment.gaps.sum(dtype=np.int64)) + len(segment.codes) for segment in self.segments)


@dataclass
class Streams:
    """All threads.

    :ivar limited: not the whole trace: the limit was reached.
    """

    threads: list[ThreadStream] = field(default_factory=list)
    limited: bool = False

    @property
    def rows(self) -> int:
        """Rows of all threads."""
        return sum(thread.rows for thread in self.threads)

    def head(self, rows: int) -> "Streams":
        """The first `rows` rows, evenly of all threads."""
        if self.rows <= rows:
            return self
        share = rows / self.rows
        threads = []
        for thread in self.threads:
            left, segments = int(thread.rows * share) + 1, []
            for segment in thread.segments:
                segments.append(Segment(segment.gaps[:left], segment.codes[:left]))
                left -= len(segment.codes)
                if left <= 0:
                    break
            threads.append(ThreadStream(thread.tid, thread.pid, thread.comm, segments))
        return Streams(threads, limited=True)

    def highest(self, config: EventConfig) -> int:
        """The highest count of any window, if nothing ever trips: see :func:`window_counts`."""
        found = 0
        for thread in self.threads:
            for segment in thread.segments:
                found = max(found, int(window_counts(segment, config)[1].max(initial=0)))
        return found

    def trips(self, config: EventConfig, *, segments: int | None = None) -> int:
        """How often the unit trips under one event, in all threads.

        :param segments: look at so many segments at most.
        """
        total = 0
        for thread in self.threads:
            for segment in thread.segments:
                if segments is not None:
                    if segments <= 0:
                        return total
                    segments -= 1
                unit = Replay(config.control, (config.counter_config, 0), record=False)
                unit.feed(segment.gaps, segment.codes)
                total += unit.events[0]
        return total


def read_streams(trace: Trace, *, limit: int = DEFAULT_LIMIT) -> Streams:
    """Read the trace, up to `limit` rows."""
    reading = _Reading()
    streams = Streams()
    for rows in trace.batches():
        for part, events in rows.between_events(TURNING_POINTS):
            for tid, own in part.by_thread():
                reading.rows(tid, own)
            for event in events:
                reading.event(event)
        if reading.kept >= limit:
            streams.limited = True
            break
    streams.threads = reading.finish()
    return streams


class _Thread:
    def __init__(self, stream: ThreadStream, *, late: bool) -> None:
        self.stream = stream
        self.predictions = Predictions(late=late)
        self.parts: list[tuple[NDArray[np.uint32], NDArray[np.uint8]]] = []

    def forget(self) -> None:
        """Branches are missing: the predictor knows nothing."""
        forget(cast("MutableSequence[int]", self.predictions.predictor))

    def cut(self) -> None:
        """End the segment."""
        if self.parts:
            gaps, codes = zip(*self.parts, strict=True)
            self.stream.segments.append(Segment(np.concatenate(gaps), np.concatenate(codes)))
            self.parts = []


class _Reading:
    def __init__(self) -> None:
        self._threads: dict[int, _Thread] = {}
        self._ended: list[_Thread] = []
        self.kept = 0

    def rows(self, tid: int, rows: Rows) -> None:
        thread = self._threads.get(tid)
        if thread is None:
            thread = self._threads[tid] = _Thread(ThreadStream(tid, tid), late=True)
        gaps = rows.gap.copy()
        gaps[rows.kind == RowKind.PLAIN] -= 1
        branches = rows.is_branch
        of = rows if branches.all() else rows.take(branches)
        codes = np.zeros(len(rows), np.uint8)
        codes[branches] = thread.predictions.feed(of.gap, of.kind, of.taken, of.source, of.size, of.target)
        thread.parts.append((gaps, codes))
        self.kept += len(rows)

    def event(self, event: Event) -> None:
        note = event.note
        if event.kind == RowKind.START:
            self._start(event)
        elif event.kind == RowKind.EXEC:
            former = note.get("former")
            thread = self._threads.pop(former if isinstance(former, int) else event.thread, None)
            if thread is not None:
                thread.predictions.executed()
                thread.stream.comm = str(note.get("comm") or thread.stream.comm)
                self._threads[event.thread] = thread
        elif event.kind == RowKind.GAP:
            for tid, thread in self._threads.items():
                if event.thread in (0, tid):
                    thread.cut()
                    thread.forget()

    def _start(self, event: Event) -> None:
        note = event.note
        old = self._threads.get(event.thread)
        if old is not None and note.get("attached") is True:
            old.cut()
            old.forget()
            return
        if old is not None:
            self._ended.append(old)
        pid, parent = note.get("pid"), self._threads.get(_whole(note.get("parent")))
        stream = ThreadStream(event.thread, pid if isinstance(pid, int) else event.thread, str(note.get("comm") or ""))
        thread = self._threads[event.thread] = _Thread(stream, late=note.get("attached") is True)
        if parent is not None:
            thread.predictions.predictor[:] = parent.predictions.predictor

    def finish(self) -> list[ThreadStream]:
        threads = [*self._ended, *self._threads.values()]
        for thread in threads:
            thread.cut()
        return sorted((thread.stream for thread in threads if thread.stream.segments), key=lambda s: (-s.rows, s.tid))


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1


# ---- counts window by window -----------------------------------------------------------------------------------------


def window_counts(segment: Segment, config: EventConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The highest count of each window that has an event in it, if nothing ever trips.

    :returns: for each such window, the instructions of the segment retired by its first event, and the count. Counts
        stop where the unit's do. Consecutive mode is not regarded.
    """
    change = _changes(segment.codes, config.event)
    rows = np.flatnonzero(change)
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    before, _ = segment.positions(WindowClass(config.window_cnt_sel))
    windows = before[rows] // max(1, config.window_size)
    starts = np.flatnonzero(np.diff(windows, prepend=-1))
    running = np.cumsum(change[rows])
    base = np.concatenate(([0], running))[starts]
    highest = np.maximum.reduceat(running, starts) - base
    at = segment.positions(WindowClass.INSTRUCTIONS)[1][rows[starts]]
    signed = config.event == BmEvent.CALL_RET
    return at, np.clip(highest, 0, 127 if signed else 255)


def _changes(codes: NDArray[np.uint8], event: BmEvent) -> NDArray[np.int64]:
    kinds = codes & r.KIND_MASK
    missed = codes >= r.MISPREDICTED
    if event == BmEvent.RETS:
        found = kinds == BranchKind.RETURN
    elif event == BmEvent.CALL_RET:
        calls = (kinds == BranchKind.CALL) | (kinds == BranchKind.INDIRECT_CALL)
        return np.asarray(kinds == BranchKind.RETURN, np.int64) - np.asarray(calls, np.int64)
    elif event == BmEvent.RET_MISP:
        found = (kinds == BranchKind.RETURN) & missed
    elif event == BmEvent.BRANCH_MISP:
        found = missed
    elif event == BmEvent.INDIRECT_BRANCH_MISP:
        found = ((kinds == BranchKind.INDIRECT_JUMP) | (kinds == BranchKind.INDIRECT_CALL)) & missed
    else:
        found = kinds == BranchKind.FAR
    return np.asarray(found, np.int64)
