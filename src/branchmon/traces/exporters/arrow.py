"""A trace again: what is good of a cut one, complete and with an end, for programs that do not read cut ones."""

from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import RowKind
from branchmon.traces.writer import TraceWriter


def export_arrow(trace: Trace, path: str) -> int:
    """Write every row of every complete batch; how many. The end's note says ``cut`` if it was.

    :raises OutputError: the file cannot be written.
    """
    writer = TraceWriter(FileStore(path), trace.metadata)
    time = 0
    for rows in trace.batches():
        for part, events in rows.between_events():
            if len(part):
                time = int(part.time[-1])
                writer.append_rows(part)
            for event in events:
                time = event.time
                if event.kind != RowKind.END:
                    writer.event(event.time, event.kind, event.thread, event.note)
    note = {key: value for key, value in trace.end.items() if key not in ("rows", "branches")}
    if trace.cut:
        note["cut"] = trace.cut
    writer.close(time, **note)
    return writer.rows
