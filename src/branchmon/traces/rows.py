"""Rows of a trace in memory: columns as arrays, and the events among them."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from branchmon.traces.schema import FIRST_EVENT

DTYPES: dict[str, Any] = {
    "time": np.uint64,
    "thread": np.uint32,
    "gap": np.uint32,
    "kind": np.uint8,
    "taken": np.bool_,
    "source": np.uint64,
    "size": np.uint8,
    "target": np.uint64,
}


class Event(NamedTuple):
    """An event row: where it stands, what it is, and its note (an empty dict if the note is no JSON object)."""

    row: int
    kind: int
    thread: int
    time: int
    note: dict[str, Any]


@dataclass
class Rows:
    """A batch of rows: columns of equal length, as in :data:`branchmon.traces.schema.COLUMNS`."""

    time: NDArray[np.uint64]
    thread: NDArray[np.uint32]
    gap: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    taken: NDArray[np.bool_]
    source: NDArray[np.uint64]
    size: NDArray[np.uint8]
    target: NDArray[np.uint64]
    events: list[Event] = field(default_factory=list)

    @classmethod
    def empty(cls, capacity: int) -> "Rows":
        """Room for `capacity` rows."""
        columns: dict[str, Any] = {name: np.zeros(capacity, dtype) for name, dtype in DTYPES.items()}
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def is_branch(self) -> NDArray[np.bool_]:
        """Which rows are branches."""
        return (self.kind > 0) & (self.kind < FIRST_EVENT)

    @property
    def retires(self) -> NDArray[np.bool_]:
        """Which rows stand for retired instructions: branches and plain ones."""
        return self.kind < FIRST_EVENT

    def take(self, index: slice | NDArray[Any]) -> "Rows":
        """Some of the rows, without their events."""
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in DTYPES}
        return Rows(**columns)

    def between_events(self, kinds: Container[int] = range(256)) -> Iterator[tuple["Rows", list[Event]]]:
        """The rows up to each event of one of `kinds`, and the events among them, that one included."""
        start = 0
        passed: list[Event] = []
        for event in self.events:
            passed.append(event)
            if event.kind in kinds:
                yield self.take(slice(start, event.row)), passed
                start, passed = event.row + 1, []
        yield self.take(slice(start, len(self))), passed

    def by_thread(self) -> Iterator[tuple[int, "Rows"]]:
        """The rows of each thread, in order, without events: threads by number."""
        threads = self.thread[self.retires]
        if not len(threads):
            return
        if (threads == threads[0]).all() and len(threads) == len(self):
            yield int(threads[0]), self
            return
        for thread in np.unique(threads):
            yield int(thread), self.take(np.flatnonzero((self.thread == thread) & self.retires))
