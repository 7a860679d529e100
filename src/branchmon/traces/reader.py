"""Reading a trace: every complete batch of a file, and whether that is all of it."""

import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from branchmon.traces.frames import RECORD_BATCH, SCHEMA, Damage, Frame, read_frame
from branchmon.traces.rows import DTYPES, Event, Rows
from branchmon.traces.schema import COLUMNS, FIRST_EVENT, Metadata, RowKind, TraceError, arrow_type

MAX_NOTE = 1 << 24


class Trace:
    """A trace in a file.

    :param path: the file; it is read anew at every iteration.
    :raises TraceError: it cannot be opened, is no trace, was cut before its first batch could begin, or is too new.

    Iterate over :meth:`batches`; afterwards :attr:`cut` says whether the recording is complete.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.cut: str | None = None
        """Why the trace is not complete, in words; None if it is, or has not been read to its end yet."""
        self.end: dict[str, Any] = {}
        """The note of the end row, once read."""
        self.bytes = 0
        """Bytes of the file that were read and good."""
        with self._open() as file:
            self.size = os.fstat(file.fileno()).st_size
            frame = self._first(file)
        import pyarrow as pa

        try:
            self._schema = pa.ipc.read_schema(pa.py_buffer(frame.data))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._no_trace(str(error).splitlines()[0]) from error
        pairs = {_text(k): _text(v) for k, v in (self._schema.metadata or {}).items()}
        self.metadata = Metadata.decode(pairs)
        self._check_columns()

    def __repr__(self) -> str:
        return f"<Trace {self.path}>"

    def batches(self) -> Iterator[Rows]:
        """Every complete batch, in order; damaged data ends it, it never raises for them.

        :raises TraceError: the file cannot be opened any more.
        """
        self.cut, self.end, ended = None, {}, False
        with self._open() as file:
            offset = len(self._first(file).data)
            self.size = os.fstat(file.fileno()).st_size
            while True:
                try:
                    frame = read_frame(file, offset, self.size)
                    rows = self._rows(frame) if frame is not None and frame.type == RECORD_BATCH else None
                except Damage as damage:
                    self.cut = str(damage)
                    break
                if frame is None:
                    self.cut = None if ended else f"the recording was not ended, at byte {offset}"
                    break
                offset += len(frame.data)
                self.bytes = offset
                if rows is None:
                    continue
                for event in rows.events:
                    if event.kind == RowKind.END:
                        self.end, ended = event.note, True
                yield rows

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> BinaryIO:
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise TraceError(
                f"cannot open {self.path}: {error.strerror}", slug="trace-unreadable", remedy="check the name"
            ) from error

    def _first(self, file: BinaryIO) -> Frame:
        try:
            frame = read_frame(file, 0, os.fstat(file.fileno()).st_size)
        except Damage as damage:
            raise self._no_trace(damage.why) from damage
        except OSError as error:
            raise self._no_trace(error.strerror or str(error)) from error
        if frame is None or frame.type != SCHEMA:
            raise self._no_trace("it does not begin with a schema")
        return frame

    def _no_trace(self, why: str) -> TraceError:
        return TraceError(
            f"{self.path} is no trace: {why}",
            slug="not-a-trace",
            remedy="`branchmon record` makes one, `branchmon import` makes one of perf's text",
        )

    def _check_columns(self) -> None:
        for name, alias in COLUMNS.items():
            index = self._schema.get_field_index(name)
            if index < 0 or self._schema.field(index).type != arrow_type(alias):
                raise self._no_trace(f"column {name} is missing, or not of type {alias}")

    def _rows(self, frame: Frame) -> Rows:
        import pyarrow as pa

        try:
            message = pa.ipc.read_message(pa.py_buffer(frame.data))
            batch = pa.ipc.read_record_batch(message, self._schema)
            batch.validate(full=True)
            columns = {name: batch.column(name) for name in COLUMNS}
            if any(columns[name].null_count for name in DTYPES):
                raise Damage(frame.offset, "an empty cell where none may be")
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            raise Damage(frame.offset, "a batch that does not decode") from error
        arrays: dict[str, Any] = {name: columns[name].to_numpy(zero_copy_only=False) for name in DTYPES}
        rows = Rows(**arrays)
        rows.events = _events(rows, columns["note"])
        return rows


def _events(rows: Rows, notes: Any) -> list[Event]:
    events = []
    for row in np.flatnonzero(rows.kind >= FIRST_EVENT):
        text = notes[int(row)].as_py() if notes[int(row)].is_valid else ""
        try:
            note = json.loads(text) if len(text) <= MAX_NOTE else {}
        except (ValueError, RecursionError):
            note = {}
        events.append(
            Event(
                int(row),
                int(rows.kind[row]),
                int(rows.thread[row]),
                int(rows.time[row]),
                note if isinstance(note, dict) else {},
            )
        )
    return events


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
