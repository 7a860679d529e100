"""Importing a whole text: which kind it is, every line taken and accounted for, and what the result is worth."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, BinaryIO

from branchmon.errors import UsageError
from branchmon.traces.importers import perf_script as ps
from branchmon.traces.importers.code import Code, NoCode
from branchmon.traces.importers.collect import Collector
from branchmon.traces.importers.intel_pt import ProcessorTrace
from branchmon.traces.importers.lbr import Snippets
from branchmon.traces.recorder import new_metadata
from branchmon.traces.ring import Store
from branchmon.traces.schema import GapReason, Metadata, RowKind
from branchmon.traces.writer import TraceWriter

_PEEK = 1000

NO_CODE = (
    "without the binaries, only taken branches are known: a window of instructions counts taken branches instead, and "
    "conditional branches that fall through are missing",
    "direct and indirect jumps and calls are told apart only where perf does: indirect-branch-misp and "
    "window_cnt_sel=3 may see too little",
    "lengths of calls are not known: returns are taken for well predicted",
)
FROM_COUNTS = "instructions between branches are perf's counts, spread by its samples"
SNIPPETS = (
    "samples of last branches are snippets, not a stream: each is its own sequence of windows, and the number of trips "
    "says how many snippets hold one, not how often the unit would have tripped"
)
MODEL = "the hardware's own flags of misprediction are not used: replay predicts by the documented model"


@dataclass
class ImportResult:
    """What became of the lines: ``records + gaps + ignored == lines``.

    :ivar records: lines that became branches or events.
    :ivar gaps: lines that say that something is missing, or that are not understood.
    :ivar ignored: lines that say nothing of the program's branches, by why.
    :ivar breaks: gaps besides, where a branch does not begin where the one before went.
    :ivar kind: ``intel-pt`` or ``lbr``.
    :ivar approximations: sentences; empty: exact between the gaps.
    """

    kind: str
    lines: int = 0
    records: int = 0
    gaps: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    branches: int = 0
    breaks: int = 0
    snippets: int = 0
    threads: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    approximations: list[str] = field(default_factory=list)

    def note(self) -> dict[str, Any]:
        """For the trace's end row, and for JSON."""
        return {
            "lines": self.lines,
            "records": self.records,
            "gaps": self.gaps,
            "ignored": sum(self.ignored.values()),
            "ignored_by": dict(self.ignored),
            "gap_reasons": dict(self.reasons),
            "breaks": self.breaks,
            "snippets": self.snippets,
            "branches": self.branches,
            "threads": self.threads,
            "approximations": self.approximations,
        }


def import_text(file: BinaryIO, make_store: Callable[[], Store], code: Code | None = None) -> ImportResult:
    """Read `file`, text of ``perf script``, and write a trace.

    :param make_store: where to; called once the text is known to hold branches.
    :param code: the program's code; None: without binaries.
    :raises UsageError: nothing in the text is a branch.
    :raises OutputError: the trace cannot be written.
    """
    lines = _lines(file)
    head = list(islice(lines, _PEEK))
    kind = _guess(head)
    code = NoCode() if code is None else code
    metadata = new_metadata(source=kind, clock="branch", exact=code.exact, approximations=_approximations(kind, code))
    return _Import(kind, code, make_store(), metadata).run(chain(head, lines))


def _approximations(kind: str, code: Code) -> list[str]:
    found = [] if code.exact else list(NO_CODE)
    if kind == "lbr":
        found += [SNIPPETS, MODEL]
    return found


def _lines(file: BinaryIO) -> Iterator[str]:
    """Lines without their ends; of one that is too long, its beginning."""
    while data := file.readline(ps.MAX_LINE + 2):
        rest = data
        while not rest.endswith(b"\n") and len(rest) == ps.MAX_LINE + 2:
            rest = file.readline(ps.MAX_LINE + 2)
            if not rest:
                break
        yield data.decode("utf-8", "replace").rstrip("\r\n")


def _guess(head: list[str]) -> str:
    counts: Counter[type] = Counter(type(ps.parse_line(text)) for text in head)
    if counts[ps.BranchLine] or counts[ps.StackLine]:
        return "intel-pt" if counts[ps.BranchLine] >= counts[ps.StackLine] else "lbr"
    if counts[ps.Loss]:
        return "intel-pt"
    raise UsageError(
        "no branch in the text's first lines",
        slug="import-no-branches",
        remedy="make it with `perf script --itrace=b -F comm,pid,tid,time,event,ip,addr,sym,symoff,dso,flags` "
        "(Intel PT) or `perf script -F comm,pid,tid,time,ip,brstack` (last branches)",
    )


class _Import:
    def __init__(self, kind: str, code: Code, store: Store, metadata: Metadata) -> None:
        self._writer = TraceWriter(store, metadata)
        self._out = Collector(self._writer)
        self._code = code
        self._trace = ProcessorTrace(self._out, code)
        self._snippets = Snippets(self._out, code)
        self._seen: set[int] = set()
        self._counted = False
        self.result = ImportResult(kind, approximations=list(metadata.approximations))

    def run(self, lines: Iterator[str]) -> ImportResult:
        result = self.result
        for text in lines:
            result.lines += 1
            what = self._take(ps.parse_line(text))
            if what == "record":
                result.records += 1
            elif what == "gap":
                result.gaps += 1
            else:
                result.ignored[what] += 1
        self._trace.close()
        self._out.write_names()
        self._out.flush()
        self._finish()
        self._writer.close(self._out.now, **result.note())
        return result

    def _finish(self) -> None:
        result = self.result
        result.branches = self._out.branches
        result.breaks = self._trace.breaks + self._snippets.breaks
        result.snippets = self._snippets.snippets
        result.threads = len(self._seen)
        unknown = self._trace.flagless + self._snippets.typeless
        if unknown:
            result.approximations.append(f"the kind of {unknown} branches is not told: they are taken for direct jumps")
        result.approximations += self._code.approximations()
        if self._trace.mismatches:
            result.approximations.append(
                f"{self._trace.mismatches} direct branches go elsewhere than the binaries say: other binaries ran"
            )
        if self._counted and not self._code.exact:
            result.approximations.append(FROM_COUNTS)

    def _take(self, line: ps.Line) -> str:
        """``record``, ``gap``, or why it is ignored."""
        if isinstance(line, ps.BranchLine):
            self._meet(line.header)
            self._counted = self._counted or line.instructions > 0
            for side in (line.source, line.target):
                self._code.seen(line.header.pid, side)
                if side.symbol and 0 < side.address < ps.KERNEL:
                    start = max(0, side.address - side.offset)
                    self._out.name(line.header.pid, line.header.tid, start, side.symbol, side.dso)
            what = self._trace.line(line)
            if what == "gap":
                self.result.reasons[GapReason.DISCONTINUITY] += 1
            return "kernel, interrupts, resumptions" if what == "ignored" else what
        if isinstance(line, ps.StackLine):
            self._meet(line.header)
            return "sample without user branches" if self._snippets.line(line) == "ignored" else "record"
        if isinstance(line, ps.Loss):
            self._lost(line.tid, line.why, line.detail, line.time)
            return "gap"
        if isinstance(line, ps.Unknown):
            self._lost(0, GapReason.UNKNOWN, line.text[:200], None)
            return "gap"
        if isinstance(line, ps.Ignored):
            return line.why
        self._event(line)
        return "record"

    def _meet(self, header: ps.Header) -> None:
        self._out.at(header.time)
        if header.tid not in self._seen:
            self._seen.add(header.tid)
            note = {"pid": header.pid, "parent": None, "comm": header.comm, "attached": True}
            self._out.event(RowKind.START, header.tid, note)

    def _lost(self, tid: int, why: str, detail: str, time: int | None) -> None:
        self._out.at(time)
        self.result.reasons[why] += 1
        self._trace.lost(tid)
        self._out.event(RowKind.GAP, tid, {"why": why, "detail": detail})

    def _event(self, line: ps.MapLine | ps.CommLine | ps.ForkLine | ps.ExitLine) -> None:
        out = self._out
        if isinstance(line, ps.MapLine):
            entry = [line.start, line.start + line.length, line.permissions, line.offset, "", 0, line.path, ""]
            out.event(RowKind.MAPPINGS, line.tid, {"pid": line.pid, "added": [entry], "removed": []})
            self._code.mapped(line)
        elif isinstance(line, ps.CommLine):
            self._meet(ps.Header(line.tid, line.pid, line.comm))
            if line.executed:
                out.event(RowKind.EXEC, line.tid, {"pid": line.pid, "path": line.comm, "comm": line.comm})
                self._code.executed(line.pid)
        elif isinstance(line, ps.ForkLine):
            self._seen.add(line.tid)
            note = {"pid": line.pid, "parent": line.parent, "comm": "", "attached": False}
            out.event(RowKind.START, line.tid, note)
        else:
            self._seen.discard(line.tid)
            self._trace.lost(line.tid)
            out.event(RowKind.EXIT, line.tid, {"status": 0})
