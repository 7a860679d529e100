"""CSV: a header line and one line a row, columns as in the trace, addresses in decimal."""

from branchmon.errors import OutputError
from branchmon.traces.exporters.table import table_batches, table_schema
from branchmon.traces.reader import Trace


def export_csv(trace: Trace, path: str) -> int:
    """Write every row; how many.

    :raises OutputError: the file cannot be written.
    """
    import pyarrow.csv as pc

    rows = 0
    try:
        with open(path, "wb") as file, pc.CSVWriter(file, table_schema()) as writer:
            for batch in table_batches(trace):
                writer.write_batch(batch)
                rows += batch.num_rows
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", slug="export-write") from error
    return rows
