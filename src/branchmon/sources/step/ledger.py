"""What a thread retired, told to its unit and to the sink."""

from typing import TYPE_CHECKING

from branchmon.events import BranchKind
from branchmon.sources.base import BranchSink
from branchmon.sources.step.thread import Thread

if TYPE_CHECKING:
    from branchmon.device.unit import Unit
    from branchmon.sources.decode import Op

BATCH = 4096
"""Branches of a thread that are handed to the sink at once."""

_CONDITIONAL = int(BranchKind.CONDITIONAL)
_FAR = int(BranchKind.FAR)


class Ledger:
    """Tells units and, if there is one, the sink."""

    def __init__(self, sink: BranchSink | None) -> None:
        self.sink = sink

    def watch_trips(self, thread: Thread) -> None:
        """Have the sink know everything up to a trip before the trip's listeners run."""
        pmi = thread.task.unit.pmi
        if self.sink is not None and pmi is not None:

            def interrupt(unit: "Unit") -> None:
                self.flush_sink(thread)
                pmi(unit)

            thread.task.unit.pmi = interrupt

    def branch(self, thread: Thread, op: "Op", source: int, target: int) -> None:
        """A branch retired and the task goes on at `target`. May trip: listeners run."""
        taken = op.kind != _CONDITIONAL or target != source + op.size
        self.retire(thread, op.kind, int(taken), source, op.size, target)

    def retire(self, thread: Thread, kind: int, taken: int, source: int, size: int, target: int) -> None:
        """The same, in numbers."""
        gap, thread.gap = thread.gap, 0
        if self.sink is not None:
            thread.rows.append((thread.sink_gap + gap, kind, taken, source, size, target))
            thread.sink_gap = 0
            if len(thread.rows) >= BATCH:
                self.flush_sink(thread)
        thread.task.unit.retire(gap, kind, taken, source, size, target)

    def far(self, thread: Thread, source: int, size: int, target: int) -> None:
        """A far branch retired."""
        self.retire(thread, _FAR, 1, source, size, target)

    def plain(self, thread: Thread) -> None:
        """An instruction that is no branch retired."""
        thread.gap += 1
        if thread.between:
            self.settle(thread)

    def settle(self, thread: Thread) -> None:
        """Bring the unit up to date. May trip if a plain instruction can."""
        gap, thread.gap = thread.gap, 0
        if gap:
            thread.sink_gap += gap
            thread.task.unit.retire_plain(gap)

    def flush_sink(self, thread: Thread) -> None:
        """Hand the sink the branches it was not told of."""
        if self.sink is not None and thread.rows:
            rows, thread.rows = thread.rows, []
            self.sink.branches(thread.task, *zip(*rows, strict=True))

    def finish(self, thread: Thread) -> None:
        """The thread retires nothing more, or nothing that is counted for some time."""
        self.settle(thread)
        self.flush_sink(thread)
        if self.sink is not None and thread.sink_gap:
            self.sink.plain(thread.task, thread.sink_gap)
        thread.sink_gap = 0
