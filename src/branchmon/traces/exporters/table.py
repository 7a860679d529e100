"""A trace's rows as Arrow batches, whole or cut, for the formats that are tables."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from branchmon.traces.reader import Trace
from branchmon.traces.rows import DTYPES
from branchmon.traces.schema import Metadata, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa


def table_schema(trace: Trace | None = None) -> "pa.Schema":
    """The columns; with the trace's metadata, if one is given."""
    return arrow_schema(trace.metadata if trace is not None else Metadata())


def table_batches(trace: Trace) -> Iterator["pa.RecordBatch"]:
    """Every batch of the trace."""
    import pyarrow as pa

    schema = table_schema(trace).remove_metadata()
    for rows in trace.batches():
        notes: list[str | None] = [None] * len(rows)
        for event in rows.events:
            notes[event.row] = json.dumps(event.note, separators=(",", ":"))
        columns = [pa.array(getattr(rows, name)) for name in DTYPES]
        yield pa.record_batch([*columns, pa.array(notes, pa.string())], schema=schema)
