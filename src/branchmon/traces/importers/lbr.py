"""Last branches of samples (``perf record -b``): snippets of up to 32 branches, each a stream of its own.

Between two samples nothing is known, so a gap separates them: window, counts and predictor start afresh in each. A
count can reach a threshold only within one snippet; how often the unit would have tripped cannot be told from samples.
"""

from branchmon.events import BranchKind
from branchmon.traces.importers.code import Code
from branchmon.traces.importers.collect import Collector
from branchmon.traces.importers.perf_script import KERNEL, StackLine
from branchmon.traces.schema import GapReason, RowKind

KINDS = {
    "COND": BranchKind.CONDITIONAL,
    "UNCOND": BranchKind.JUMP,
    "IND": BranchKind.INDIRECT_JUMP,
    "CALL": BranchKind.CALL,
    "IND_CALL": BranchKind.INDIRECT_CALL,
    "RET": BranchKind.RETURN,
    "SYSCALL": BranchKind.FAR,
    "COND_CALL": BranchKind.CALL,
    "COND_RET": BranchKind.RETURN,
}
"""perf's words (``branch_type_name`` in ``tools/perf/util/branch.c``)."""


class Snippets:
    """Turns samples into rows.

    :ivar snippets: samples that had user branches.
    :ivar typeless: branches of which nothing tells the kind.
    """

    def __init__(self, out: Collector, code: Code) -> None:
        self._out = out
        self._code = code
        self.snippets = 0
        self.typeless = 0
        self.breaks = 0

    def line(self, line: StackLine) -> str:
        """Take one sample: ``record``, or ``ignored`` if it has no branch in user code."""
        tid, pid = line.header.tid, line.header.pid
        if not any(entry.source < KERNEL for entry in line.entries):
            return "ignored"
        self._out.event(RowKind.GAP, tid, {"why": GapReason.SNIPPET})
        self.snippets += 1
        at: int | None = None
        entries = line.entries
        for i, entry in enumerate(entries):
            if entry.source >= KERNEL:
                if entry.target < KERNEL:
                    at = entry.target
                continue
            target = entry.target
            if target >= KERNEL:
                # Where it comes back to is the target of a later record, if that is still in the stack.
                target = next((e.target for e in entries[i + 1 :] if e.source >= KERNEL > e.target), 0)
            at = self._branch(pid, tid, at, entry.source, target, entry.type)
        return "record"

    def _branch(self, pid: int, tid: int, at: int | None, source: int, target: int, word: str) -> int | None:
        path = self._code.path(pid, at, source)
        if path is None:
            self.breaks += 1
            if at is not None:
                self._out.event(RowKind.GAP, tid, {"why": GapReason.DISCONTINUITY})
            path = self._code.path(pid, None, source)
        gap, kind, size = 0, int(BranchKind.PLAIN), 0
        if path is not None:
            gap, kind, size = path.gap, path.kind, path.size
            for step in path.skipped:
                self._out.branch(tid, step.gap, step.kind, step.kind == BranchKind.FAR, step.source, step.size,
                                 step.source + step.size)  # fmt: skip
        if kind == BranchKind.PLAIN:
            kind = int(KINDS.get(word, BranchKind.JUMP))
            self.typeless += word not in KINDS
        if target == 0:
            target = source + (size or 2)
        self._out.branch(tid, gap, kind, True, source, size, target)
        return target
