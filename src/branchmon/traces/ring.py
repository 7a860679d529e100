"""Where batches go: a file, a file that keeps its newest part, or memory that is written around trips."""

import os
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from branchmon.errors import OutputError
from branchmon.traces.frames import END_OF_STREAM
from branchmon.traces.rows import Event, Rows
from branchmon.traces.schema import GapReason, RowKind
from branchmon.traces.state import TraceState

if TYPE_CHECKING:
    from branchmon.traces.encode import Encoder

KEEP = 0.75
"""A file that reached its limit is rewritten with the newest three quarters of it."""


class Store(Protocol):
    """What a writer puts batches into."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        ...

    def begin(self, encoder: "Encoder") -> None:
        """The stream's head can be written; `encoder` makes the store's own batches."""
        ...

    def batch(self, frame: bytes, rows: Rows) -> None:
        """The next batch, encoded and as rows."""
        ...

    def snapshot(self) -> None:
        """Keep what is around this point."""
        ...

    def end(self) -> None:
        """Write the end-of-stream mark and close."""
        ...


class FileStore:
    """Every batch, to a file.

    :raises OutputError: the file cannot be created or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._file = _create(path)

    def begin(self, encoder: "Encoder") -> None:
        """See :class:`Store`."""
        self._write(encoder.head)

    def batch(self, frame: bytes, rows: Rows) -> None:
        """See :class:`Store`."""
        self._write(frame)

    def snapshot(self) -> None:
        """Nothing: everything is kept."""

    def end(self) -> None:
        """See :class:`Store`."""
        self._write(END_OF_STREAM)
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._file, data)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.size += len(data)


class _Batch(NamedTuple):
    """A batch in a ring: its frame (or only the length, where the frame is in the file), and its events."""

    frame: bytes
    length: int
    rows: int
    events: list[Event]
    time: int


class _Tail:
    """The batches that a ring holds, and the state before the oldest of them."""

    def __init__(self) -> None:
        self.batches: deque[_Batch] = deque()
        self.bytes = 0
        self.dropped = False
        """Something is missing before the oldest batch."""
        self._state = TraceState()
        self._time = 0

    def push(self, batch: _Batch) -> None:
        self.batches.append(batch)
        self.bytes += batch.length

    def drop(self, *, lost: bool = True) -> _Batch:
        """Take the oldest batch out; `lost`: it is not written anywhere."""
        batch = self.batches.popleft()
        self.bytes -= batch.length
        self.dropped = self.dropped or lost
        self._time = batch.time
        for event in batch.events:
            self._state.apply(event.kind, event.thread, event.note)
        return batch

    def opening(self, encoder: "Encoder", *, with_state: bool) -> bytes:
        """A frame to write before the oldest batch: the state, and that something is missing."""
        told = list(self._state.events()) if with_state else []
        if self.dropped:
            told.append((int(RowKind.GAP), 0, {"why": GapReason.DROPPED}))
        rows = Rows.empty(len(told))
        for i, (kind, thread, note) in enumerate(told):
            rows.time[i], rows.thread[i], rows.kind[i] = self._time, thread, kind
            rows.events.append(Event(i, kind, thread, self._time, note))
        return encoder.batch(rows) if told else b""


class FileRing:
    """The newest batches, in a file that never grows beyond `limit` bytes (but for its last batch).

    When it would, it is rewritten next to itself without its oldest quarter and put in its own place at once, so that
    there is a complete trace at every moment. Needs room for both while it is rewritten.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.size = 0
        self._tail = _Tail()
        self._file = _create(path)

    def begin(self, encoder: "Encoder") -> None:
        """See :class:`Store`."""
        self._encoder = encoder
        self._write(encoder.head)

    def batch(self, frame: bytes, rows: Rows) -> None:
        """See :class:`Store`."""
        if self._tail.batches and self.size + len(frame) > self.limit:
            self._shrink(len(frame))
        self._write(frame)
        self._tail.push(_Batch(b"", len(frame), len(rows), rows.events, _last_time(rows)))

    def snapshot(self) -> None:
        """Nothing: the newest part is kept anyway."""

    def end(self) -> None:
        """See :class:`Store`."""
        self._write(END_OF_STREAM)
        self._file.close()

    def _shrink(self, coming: int) -> None:
        tail = self._tail
        room = max(0, int(self.limit * KEEP) - len(self._encoder.head) - coming)
        tail.drop()
        while tail.batches and tail.bytes > room:
            tail.drop()
        part = self.path + ".part"
        try:
            with open(part, "wb", buffering=0) as new:
                _write_all(new, self._encoder.head + tail.opening(self._encoder, with_state=True))
                with open(self.path, "rb") as old:
                    _copy(old, self.size - tail.bytes, tail.bytes, new)
            os.replace(part, self.path)
            self._file.close()
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - kept for the next batches
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._file, data)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.size += len(data)


class SnapshotRing:
    """Up to `memory` bytes of batches in memory; at a snapshot they are written, and what follows for `after` rows.

    What lies between two snapshots is not written: the file has a gap there.
    """

    def __init__(self, path: str, memory: int, after: int) -> None:
        self._out = FileStore(path)
        self._memory = memory
        self._after = after
        self._left = 0
        self._tail = _Tail()
        self._began = False
        self.snapshots = 0

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._out.size

    def begin(self, encoder: "Encoder") -> None:
        """See :class:`Store`."""
        self._encoder = encoder
        self._out.begin(encoder)

    def batch(self, frame: bytes, rows: Rows) -> None:
        """See :class:`Store`."""
        tail = self._tail
        tail.push(_Batch(frame, len(frame), len(rows), rows.events, _last_time(rows)))
        if self._left > 0:
            self._left -= len(rows)
            self._write_out()
        while len(tail.batches) > 1 and tail.bytes > self._memory:
            tail.drop()

    def snapshot(self) -> None:
        """Write what is in memory, and the next `after` rows."""
        self.snapshots += 1
        self._left = self._after
        self._write_out()

    def end(self) -> None:
        """Write the last batch, for its end row; what else is in memory is dropped."""
        tail = self._tail
        while len(tail.batches) > 1:
            tail.drop()
        self._write_out()
        self._out.end()

    def _write_out(self) -> None:
        tail = self._tail
        if not self._began or tail.dropped:
            # The state is told anew after every loss: threads may have come and gone unseen by the file.
            self._out.batch(tail.opening(self._encoder, with_state=tail.dropped), Rows.empty(0))
            self._began = True
            tail.dropped = False
        while tail.batches:
            self._out.batch(tail.drop(lost=False).frame, Rows.empty(0))


def _last_time(rows: Rows) -> int:
    return int(rows.time[-1]) if len(rows) else 0


def _create(path: str) -> BinaryIO:
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str, error: OSError) -> OutputError:
    """The error for a trace that cannot be written."""
    return OutputError(
        f"cannot write {path}: {error.strerror or error}",
        slug="trace-write",
        remedy="free some space or choose another file; what was written so far can be read",
    )


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _copy(source: BinaryIO, start: int, length: int, target: BinaryIO) -> None:
    source.seek(start)
    while length > 0:
        data = source.read(min(length, 1 << 20))
        if not data:
            raise OSError(None, "the trace was changed while it was written")
        _write_all(target, data)
        length -= len(data)
