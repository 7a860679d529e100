"""Rows to frames: bytes of the stream, one independent piece a batch."""

import io
import json
from typing import Any

import pyarrow as pa

from branchmon.traces.rows import DTYPES, Rows
from branchmon.traces.schema import Metadata, arrow_schema

ZSTD_LEVEL = 3
"""Half the size of level 1 at the same speed; level 9 saves another third and costs five times the time."""


class _Frames(io.RawIOBase):
    """A file that keeps what is written until it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class Encoder:
    """Makes the frames of one stream."""

    def __init__(self, metadata: Metadata) -> None:
        self._schema = arrow_schema(metadata)
        self._frames = _Frames()
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=ZSTD_LEVEL), use_threads=False)
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._frames, mode="w"), self._schema, options=options)
        self.head = self._schema.serialize().to_pybytes()
        """The schema's frame: the stream's beginning."""
        self.batch(Rows.empty(0))  # with its first batch the Arrow writer writes the schema, too: not needed

    def batch(self, rows: Rows) -> bytes:
        """The frame of one batch; notes are taken from the rows' events."""
        columns = [pa.array(getattr(rows, name)) for name in DTYPES]
        if rows.events:
            notes: list[str | None] = [None] * len(rows)
            for event in rows.events:
                notes[event.row] = json.dumps(event.note, separators=(",", ":"))
            columns.append(pa.array(notes, pa.string()))
        else:
            columns.append(pa.nulls(len(rows), pa.string()))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        return self._frames.take()
