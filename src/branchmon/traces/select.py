"""Choosing rows of a trace: by thread, kind, place, time, and nearness to a trip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from branchmon.errors import UsageError
from branchmon.events import BranchKind
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import RowKind
from branchmon.traces.symbols import TraceSymbols
from branchmon.traces.trips import TripPlace

KIND_NAMES: dict[str, int] = {
    **{kind.name.lower().replace("_", "-"): int(kind) for kind in BranchKind},
    **{kind.name.lower(): int(kind) for kind in RowKind if kind != RowKind.PLAIN},
}
"""Kinds of rows as commands and JSON name them."""
NAMES_OF_KINDS: dict[int, str] = {number: name for name, number in KIND_NAMES.items()}


@dataclass(frozen=True)
class Selection:
    """Which rows; an empty field selects all.

    :ivar threads: thread ids.
    :ivar kinds: numbers of :data:`KIND_NAMES`.
    :ivar functions: names of functions that the branch is in.
    :ivar start: seconds since the recording began.
    :ivar end: likewise.
    :ivar trips: only rows within `around` branches of one of these, in its thread.
    """

    threads: frozenset[int] = frozenset()
    kinds: frozenset[int] = frozenset()
    functions: frozenset[str] = frozenset()
    start: float = 0.0
    end: float = float("inf")
    trips: Sequence[TripPlace] | None = None
    around: int = 32


@dataclass
class Chosen:
    """Some rows of a batch.

    :ivar index: which rows of it, ascending.
    :ivar numbers: for each row of the batch, how many branches its thread had retired before.
    """

    rows: Rows
    index: NDArray[np.int64]
    numbers: NDArray[np.int64]
    events: dict[int, Event] = field(default_factory=dict)
    """Events by row."""


def parse_kinds(text: str) -> frozenset[int]:
    """Kinds from names with commas between.

    :raises UsageError: no such kind.
    """
    kinds = set()
    for name in text.split(","):
        if name.strip() not in KIND_NAMES:
            raise UsageError(f"no such kind of row: {name}", slug="script-kind",
                             remedy=f"kinds are {', '.join(KIND_NAMES)}")  # fmt: skip
        kinds.add(KIND_NAMES[name.strip()])
    return frozenset(kinds)


def parse_time(text: str) -> tuple[float, float]:
    """``START,END`` in seconds since the recording began; either may be missing.

    :raises UsageError: something else.
    """
    start, comma, end = text.partition(",")
    try:
        if not comma:
            raise ValueError(text)
        return float(start) if start else 0.0, float(end) if end else float("inf")
    except ValueError:
        raise UsageError(
            f"--time {text}: not two times",
            slug="script-time",
            remedy="write it as START,END in seconds since the recording began, such as 0.5,1.25 or 2,",
        ) from None


def select(trace: Trace, selection: Selection, symbols: TraceSymbols) -> Iterator[Chosen]:
    """Chosen rows, a piece of a batch at a time; `symbols` is up to date for each piece."""
    counts: dict[int, int] = {}
    for batch in trace.batches():
        numbers = _numbers(batch, counts)
        mask = _mask(batch, numbers, selection)
        start = 0
        for event in [*batch.events, None]:
            # Names hold from event to event.
            end = len(batch) if event is None else event.row
            piece = np.flatnonzero(mask[start:end]) + start
            if len(piece) and selection.functions:
                piece = piece[_in_functions(batch, piece, selection.functions, symbols)]
            if len(piece):
                yield Chosen(batch, piece, numbers)
            if event is not None:
                symbols.apply(event)
                if mask[event.row] and not selection.functions:
                    yield Chosen(batch, np.array([event.row]), numbers, {event.row: event})
                start = event.row + 1


def _numbers(batch: Rows, counts: dict[int, int]) -> NDArray[np.int64]:
    numbers = np.zeros(len(batch), np.int64)
    for thread in np.unique(batch.thread).tolist():
        own = batch.thread == thread
        running = np.cumsum(batch.is_branch & own)[own]
        branches = batch.is_branch[own]
        numbers[own] = counts.get(thread, 0) + running - branches
        counts[thread] = counts.get(thread, 0) + int(running[-1])
    return numbers


def _mask(batch: Rows, numbers: NDArray[np.int64], selection: Selection) -> NDArray[np.bool_]:
    mask = np.ones(len(batch), np.bool_)
    if selection.threads:
        mask &= np.isin(batch.thread, list(selection.threads))
    if selection.kinds:
        mask &= np.isin(batch.kind, list(selection.kinds))
    if selection.start > 0 or selection.end != float("inf"):
        seconds = batch.time / 1e9
        mask &= (seconds >= selection.start) & (seconds <= selection.end)
    if selection.trips is not None:
        near = np.zeros(len(batch), np.bool_)
        for trip in selection.trips:
            near |= (batch.thread == trip.thread) & (abs(numbers - trip.branch) <= selection.around)
        mask &= near
    return mask


def _in_functions(
    batch: Rows, index: NDArray[np.int64], functions: frozenset[str], symbols: TraceSymbols
) -> NDArray[np.bool_]:  # fmt: skip
    found = np.zeros(len(index), np.bool_)
    sources, threads = batch.source[index], batch.thread[index]
    for thread in np.unique(threads).tolist():
        own = (threads == thread) & batch.is_branch[index]
        wanted = [a for a in np.unique(sources[own]).tolist() if symbols.describe(thread, a).symbol in functions]
        found |= own & np.isin(sources, np.array(wanted, np.uint64))
    return found
