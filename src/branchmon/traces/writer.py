"""Writing a trace: rows are gathered into batches, batches go to a store."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from branchmon.traces.encode import Encoder
from branchmon.traces.ring import Store
from branchmon.traces.rows import DTYPES, Event, Rows
from branchmon.traces.schema import BATCH_ROWS, Metadata, RowKind

FLUSH_NS = 1_000_000_000
"""A batch that is not full is written after so much of the recording's time, so that a slow source leaves something."""

_BRANCH_COLUMNS = ("gap", "kind", "taken", "source", "size", "target")


class TraceWriter:
    """Writes one trace. Close it, or use it as a context manager; left unclosed, the trace counts as cut.

    :param store: where batches go: :class:`branchmon.traces.ring.FileStore` or a ring.
    :param metadata: of the whole trace; it can be changed until the first batch is written.
    :param batch_rows: rows a batch.
    :raises OutputError: from every method, when the store cannot write.

    Memory: one batch (34 bytes a row), whatever the length of the trace.
    """

    def __init__(self, store: Store, metadata: Metadata, *, batch_rows: int = BATCH_ROWS) -> None:
        self.metadata = metadata
        self.branches = 0
        """Branch rows so far, those not yet in the store included."""
        self.rows = 0
        self._store = store
        self._encoder: Encoder | None = None
        self._rows = Rows.empty(batch_rows)
        self._used = 0
        self._events: list[Event] = []
        self._flushed_at = 0
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes in the file so far."""
        return self._store.size

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if kind is None:
            self.close()

    def append(
        self,
        time: int | ArrayLike,
        thread: int,
        gaps: Sequence[int],
        kinds: Sequence[int],
        taken: Sequence[int],
        sources: Sequence[int],
        sizes: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        """Consecutive branches of a thread: columns of :class:`branchmon.events.Branch`, lists or arrays.

        :param time: of the batch, or of each branch, in nanoseconds since the recording began.
        """
        count = len(gaps)
        self.branches += count
        self.rows += count
        columns = dict(zip(_BRANCH_COLUMNS, (gaps, kinds, taken, sources, sizes, targets), strict=True))
        arrays = {name: _column(values, DTYPES[name]) for name, values in columns.items()}
        times = np.asarray(time, np.uint64)
        done = 0
        while done < count:
            start = self._used
            step = min(count - done, len(self._rows) - start)
            for name, array in arrays.items():
                getattr(self._rows, name)[start : start + step] = array[done : done + step]
            self._rows.time[start : start + step] = times if times.ndim == 0 else times[done : done + step]
            self._rows.thread[start : start + step] = thread
            self._used += step
            done += step
            if self._used == len(self._rows):
                self.flush()
        if count:
            last = int(times if times.ndim == 0 else times[-1])
            if last - self._flushed_at > FLUSH_NS:
                self.flush()
                self._flushed_at = last

    def append_rows(self, rows: Rows) -> None:
        """Branch and plain rows as they were read, without events."""
        done = 0
        while done < len(rows):
            start = self._used
            step = min(len(rows) - done, len(self._rows) - start)
            for name in DTYPES:
                getattr(self._rows, name)[start : start + step] = getattr(rows, name)[done : done + step]
            self._used += step
            done += step
            if self._used == len(self._rows):
                self.flush()
        self.rows += len(rows)
        self.branches += int(rows.is_branch.sum())

    def plain(self, time: int, thread: int, instructions: int) -> None:
        """Instructions of a thread without a branch behind them."""
        while instructions > 0:
            step = min(instructions, 0xFFFFFFFF)
            self._row(time, thread, int(RowKind.PLAIN), step)
            instructions -= step

    def event(self, time: int, kind: int, thread: int, note: dict[str, Any]) -> None:
        """Something that happened to a thread at this point."""
        self._events.append(Event(self._used, int(kind), thread, time, note))
        self._row(time, thread, int(kind), 0)

    def _row(self, time: int, thread: int, kind: int, gap: int) -> None:
        rows, at = self._rows, self._used
        for name in DTYPES:
            getattr(rows, name)[at] = 0
        rows.time[at], rows.thread[at], rows.kind[at], rows.gap[at] = time, thread, kind, gap
        self._used += 1
        self.rows += 1
        if self._used == len(rows):
            self.flush()

    def flush(self) -> None:
        """Write what has been gathered as a batch."""
        if not self._used:
            return
        rows = self._rows.take(slice(0, self._used))
        rows.events = self._events
        # Gathered rows are gone whether or not they can be written: a full disk must not fill the memory.
        self._used, self._events = 0, []
        if self._encoder is None:
            self._encoder = Encoder(self.metadata)
            self._store.begin(self._encoder)
        self._store.batch(self._encoder.batch(rows), rows)

    def snapshot(self) -> None:
        """Something worth keeping has just happened: a :class:`~branchmon.traces.ring.SnapshotRing` writes it."""
        self.flush()
        self._store.snapshot()

    def close(self, time: int = 0, **note: Any) -> None:
        """End the recording in good order. Calling it again does nothing.

        :param note: goes into the end's note, besides the numbers of rows and branches.
        """
        if self._closed:
            return
        self._closed = True
        self.event(time, RowKind.END, 0, {"rows": self.rows, "branches": self.branches, **note})
        self.flush()
        self._store.end()


def _column(values: Any, dtype: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(values) if isinstance(values, np.ndarray) else np.array(values, dtype)
    return array.astype(dtype, copy=False)
