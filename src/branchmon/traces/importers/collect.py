"""Imported rows on their way into a trace: gathered a thread at a time, with the events between them."""

from typing import Any

from branchmon.traces.schema import RowKind
from branchmon.traces.writer import TraceWriter

_PENDING = 4096
MAX_NAMES = 1 << 17
"""Names beyond are not kept."""


class Collector:
    """Gathers branches of one thread after the other and writes them in order.

    Times are nanoseconds of the input's clock; the trace's begin with the first that is seen.
    """

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._origin: int | None = None
        self._now = 0
        self._tid = 0
        self._times: list[int] = []
        self._columns: tuple[list[int], ...] = tuple([] for _ in range(6))
        self.branches = 0
        self._named: set[tuple[int, int]] = set()
        self._names: dict[tuple[int, int], list[list[Any]]] = {}
        self._unwritten = 0

    def at(self, time: int | None) -> int:
        """The trace's time of `time`; the latest one where the input has none."""
        if time is not None:
            if self._origin is None:
                self._origin = time
            self._now = min(max(0, time - self._origin), (1 << 63) - 1)
        return self._now

    def branch(self, tid: int, gap: int, kind: int, taken: bool, source: int, size: int, target: int) -> None:
        """A branch, at the time last given to :meth:`at`."""
        if tid != self._tid or len(self._times) >= _PENDING:
            self.flush()
            self._tid = tid
        self._times.append(self._now)
        for column, value in zip(self._columns, (gap, kind, int(taken), source, size, target), strict=True):
            column.append(value)
        self.branches += 1

    def plain(self, tid: int, instructions: int) -> None:
        """Instructions without a branch behind them."""
        self.flush()
        self._writer.plain(self._now, tid, instructions)

    def event(self, kind: RowKind, tid: int, note: dict[str, Any]) -> None:
        """An event, at the time last given to :meth:`at`."""
        self.flush()
        self._writer.event(self._now, kind, tid, note)

    def name(self, pid: int, tid: int, start: int, name: str, module: str) -> None:
        """A function's name that the input tells; written once."""
        if (pid, start) not in self._named and len(self._named) < MAX_NAMES:
            self._named.add((pid, start))
            self._names.setdefault((pid, tid), []).append([start, name, module])
            self._unwritten += 1
            if self._unwritten >= _PENDING:
                self.write_names()

    def write_names(self) -> None:
        """Write the names gathered since the last call."""
        for (pid, tid), names in self._names.items():
            self.event(RowKind.NAMES, tid, {"pid": pid, "names": names})
        self._names, self._unwritten = {}, 0

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._times:
            gaps, kinds, taken, sources, sizes, targets = self._columns
            self._writer.append(self._times, self._tid, gaps, kinds, taken, sources, sizes, targets)
            self._times = []
            self._columns = tuple([] for _ in range(6))

    @property
    def now(self) -> int:
        """The latest time."""
        return self._now
