"""Branches that a processor traced (Intel PT, BTS): taken ones, made whole where the code is known.

What `perf script --itrace=b` prints are taken branches, and where tracing stopped and went on. Kernel code is left out:
the unit counts user mode only (SPEC section 1, reading 1). What happens between a system call or an interrupt and its
return is no loss; a jump of addresses that nothing explains is.
"""

from dataclasses import dataclass

from branchmon.events import BranchKind
from branchmon.traces.importers.code import Code
from branchmon.traces.importers.collect import Collector
from branchmon.traces.importers.perf_script import KERNEL, BranchLine
from branchmon.traces.schema import GapReason, RowKind

KINDS = {
    "call": BranchKind.CALL,
    "return": BranchKind.RETURN,
    "jcc": BranchKind.CONDITIONAL,
    "jmp": BranchKind.JUMP,
    "syscall": BranchKind.FAR,
    "int": BranchKind.FAR,
}
"""perf's words for branches in user code. ``iret`` and ``sysret`` are the kernel's; ``hw int``, ``async``, ``tx abrt``,
``vmentry``, ``vmexit`` are no instructions of the program."""

SYSCALL_SIZE = 2


@dataclass
class _Pending:
    """A far branch that entered the kernel; its target is told when it comes back."""

    gap: int
    source: int
    size: int


@dataclass
class _Thread:
    at: int | None = None
    """Where the thread goes on in user mode; None: not known."""
    pending: _Pending | None = None
    interrupted_at: int | None = None
    seen: bool = False
    extra: int = 0
    """Branches since the last count of instructions."""


class ProcessorTrace:
    """Turns lines into rows.

    :ivar breaks: branches that did not begin where the one before went; each became a gap.
    """

    def __init__(self, out: Collector, code: Code) -> None:
        self._out = out
        self._code = code
        self._threads: dict[int, _Thread] = {}
        self.breaks = 0
        self.mismatches = 0
        """Direct branches that went elsewhere than the code says."""
        self.flagless = 0
        """Branches of which nothing tells the kind."""

    def line(self, line: BranchLine) -> str:
        """Take one line: ``record``, ``gap``, or ``ignored``."""
        tid, pid = line.header.tid, line.header.pid
        thread = self._threads.setdefault(tid, _Thread())
        source, target = line.source.address, line.target.address
        words = line.flags
        if words.startswith("tr strt") or (source == 0 and target != 0):
            return self._resume(tid, thread, target)
        if source >= KERNEL or (source == 0 and target == 0):
            if source and target and target < KERNEL:
                self._resume(tid, thread, target)
            return "ignored"
        ends = words.startswith("tr end")
        word = words.removeprefix("tr end").strip()
        thread.seen = True
        if word in ("hw int", "async", "tx abrt") or (ends and word == ""):
            thread.interrupted_at = source
            if not ends and target and target < KERNEL:
                self._resume(tid, thread, target)
            return "ignored"
        if word in ("vmentry", "vmexit", "iret", "sysret"):
            return "ignored"
        if target == 0 or target >= KERNEL:
            return self._leave(pid, tid, thread, word, source)
        return self._branch(pid, tid, thread, word, source, target, line.instructions)

    def lost(self, tid: int) -> None:
        """Something is missing in this thread, or in all (0)."""
        for other, thread in self._threads.items():
            if tid in (0, other):
                self._finish_pending(other, thread)
                thread.at = None
                thread.interrupted_at = None
                thread.seen = False

    def close(self) -> None:
        """The input is at its end."""
        self.lost(0)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _branch(
        self, pid: int, tid: int, thread: _Thread, word: str, source: int, target: int, instructions: int
    ) -> str:  # fmt: skip
        self._finish_pending(tid, thread)
        gap, kind, size, direct = self._walk(pid, tid, thread, source)
        if kind == BranchKind.PLAIN:
            kind = int(KINDS.get(word, BranchKind.JUMP))
            self.flagless += word not in KINDS
        if not self._code.exact and instructions:
            gap = max(0, instructions - 1 - thread.extra)
            thread.extra = 0
        else:
            thread.extra += 1
        taken = not (kind == BranchKind.CONDITIONAL and size and target == source + size)
        self.mismatches += taken and direct not in (0, target)
        self._out.branch(tid, gap, kind, taken, source, size, target)
        thread.at = target
        return "record"

    def _leave(self, pid: int, tid: int, thread: _Thread, word: str, source: int) -> str:
        """A branch into the kernel, or out of what is traced."""
        if word in ("syscall", "int"):
            self._finish_pending(tid, thread)
            gap, _, size, _ = self._walk(pid, tid, thread, source)
            thread.pending = _Pending(gap, source, size or SYSCALL_SIZE)
            thread.at = None
            return "record"
        if word in KINDS:  # an address filter: what runs outside is not seen
            self._gap(tid, thread)
            return "gap"
        thread.interrupted_at = source
        return "ignored"

    def _resume(self, tid: int, thread: _Thread, target: int) -> str:
        if target >= KERNEL:
            return "ignored"
        if thread.pending is not None:
            self._finish_pending(tid, thread, target)
        elif thread.interrupted_at is not None:
            if thread.interrupted_at != target:  # a signal's handler, or the page that was missing was elsewhere
                thread.at = target
        elif thread.seen:
            self._gap(tid, thread)
            thread.at = target
            return "gap"
        else:
            thread.at = target
        thread.seen = True
        thread.interrupted_at = None
        return "ignored"

    def _walk(self, pid: int, tid: int, thread: _Thread, source: int) -> tuple[int, int, int, int]:
        """Write the branches on the way to `source`; the gap left, and kind, size and target of what is there."""
        path = self._code.path(pid, thread.at, source)
        if path is None:
            self.breaks += 1
            self._gap(tid, thread)
            path = self._code.path(pid, None, source)
        thread.interrupted_at = None
        if path is None:
            return 0, int(BranchKind.PLAIN), 0, 0
        for step in path.skipped:
            self._out.branch(tid, step.gap, step.kind, step.kind == BranchKind.FAR, step.source, step.size,
                             step.source + step.size)  # fmt: skip
        return path.gap, path.kind, path.size, path.target

    def _gap(self, tid: int, thread: _Thread) -> None:
        self._finish_pending(tid, thread)
        self._out.event(RowKind.GAP, tid, {"why": GapReason.DISCONTINUITY})
        thread.at = None
        thread.interrupted_at = None

    def _finish_pending(self, tid: int, thread: _Thread, target: int | None = None) -> None:
        pending = thread.pending
        if pending is not None:
            goes = pending.source + pending.size if target is None else target
            self._out.branch(tid, pending.gap, int(BranchKind.FAR), True, pending.source, pending.size, goes)
            thread.pending = None
            thread.at = goes
