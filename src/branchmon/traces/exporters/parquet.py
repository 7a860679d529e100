"""Parquet, compressed with zstd: columns as in the trace."""

from branchmon.errors import OutputError
from branchmon.traces.exporters.table import table_batches, table_schema
from branchmon.traces.reader import Trace


def export_parquet(trace: Trace, path: str) -> int:
    """Write every row; how many.

    :raises OutputError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    try:
        with pa.OSFile(path, "wb") as file, pq.ParquetWriter(file, table_schema(trace), compression="zstd") as writer:
            for batch in table_batches(trace):
                writer.write_batch(batch)
                rows += batch.num_rows
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", slug="export-write") from error
    return rows
