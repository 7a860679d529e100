"""Lines of ``perf script``, each as what it says: a branch, a sample's last branches, a loss, an event, or nothing.

Sources: ``tools/perf/builtin-script.c`` (``perf_sample__fprintf_bts``, ``perf_sample__fprintf_brstack``,
``perf_sample__fprintf_start``), ``tools/perf/util/event.c`` (``perf_event__fprintf``), ``util/auxtrace.c`` (errors) of
Linux. No line raises: what is not understood is :class:`Unknown`.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from branchmon.traces.schema import GapReason

MAX_LINE = 1 << 14
"""Longer lines are not understood."""
KERNEL = 1 << 63
"""Addresses from here up are the kernel's."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a sample's line begins with; fields that are not printed are 0 or empty."""

    tid: int = 0
    pid: int = 0
    comm: str = ""
    time: int | None = None
    """Nanoseconds of perf's clock."""


class Side(NamedTuple):
    """One end of a branch: address, and what perf says of it."""

    address: int
    symbol: str = ""
    offset: int = 0
    dso: str = ""


@dataclass(frozen=True, slots=True)
class BranchLine:
    """A branch of a processor trace (Intel PT, BTS): taken, or tracing that starts or stops.

    :ivar flags: as perf prints them, one blank between words: ``call``, ``jcc``, ``tr strt``, ``tr end syscall`` …;
        empty if not printed.
    :ivar instructions: instructions since the last such number, from ``IPC: x (n/cycles)``; 0 if not printed.
    """

    header: Header
    flags: str
    source: Side
    target: Side
    instructions: int = 0


class StackEntry(NamedTuple):
    """One record of a sample's branch stack.

    :ivar mispredicted: None if the processor does not tell.
    :ivar type: perf's word: ``CALL``, ``IND_CALL``, ``RET``, ``COND`` …; empty if not printed.
    """

    source: int
    target: int
    mispredicted: bool | None
    type: str


@dataclass(frozen=True, slots=True)
class StackLine:
    """A sample with its last branches, oldest first."""

    header: Header
    entries: tuple[StackEntry, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """Something is missing here. Thread 0: in all threads."""

    tid: int
    why: str
    detail: str
    time: int | None = None


@dataclass(frozen=True, slots=True)
class MapLine:
    """A file was mapped executable."""

    pid: int
    tid: int
    start: int
    length: int
    offset: int
    permissions: str
    path: str


@dataclass(frozen=True, slots=True)
class CommLine:
    """A thread's name changed; `executed`: because it executed another program."""

    pid: int
    tid: int
    comm: str
    executed: bool


@dataclass(frozen=True, slots=True)
class ForkLine:
    """A thread made another."""

    pid: int
    tid: int
    parent: int


@dataclass(frozen=True, slots=True)
class ExitLine:
    """A thread ended."""

    tid: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A line that says nothing about branches."""

    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line that we do not understand: branches may be missing here."""

    text: str = field(default="")


Line = BranchLine | StackLine | Loss | MapLine | CommLine | ForkLine | ExitLine | Ignored | Unknown

_TIME = re.compile(r"(?:^|\s)(\d{1,12})\.(\d{1,9}):(?=\s|$)")
_THREAD = re.compile(r"(?:(-?\d{1,10})/)?\s*(-?\d{1,10})$")
_CPU = re.compile(r"\s\[\d{1,6}\]$")
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,16})$")
_SIDE = re.compile(r"\s*(?:0x)?([0-9a-f]{1,16})(?:\s+(\S.*))?$")
_OFFSET = re.compile(r"[0-9a-f]{1,16}$")
_IPC = re.compile(r"\bIPC: [\d.]+ \((\d{1,9})/\d+\)")
_STACK_ENTRY = re.compile(
    r"0x([0-9a-f]{1,16})(?:\([^/\s]*\))?/0x([0-9a-f]{1,16})(?:\([^/\s]*\))?/([PMN-])(?:[PMN-])*/[-XIN]/[-AN]"
    r"/-?\d+(?:/([A-Za-z_/-]*))?\S*$"
)
_ERROR = re.compile(r"\s*instruction trace error type \d+")
_ERROR_FIELD = re.compile(r"\b(time|tid|code) ([\d.]+)")
_RECORD = re.compile(r"PERF_RECORD_(\w+)")
_PAIR = re.compile(r"(-?\d{1,10})/(-?\d{1,10})")
_COLON_PAIRS = re.compile(r"\((-?\d{1,10}):(-?\d{1,10})\):\((-?\d{1,10}):(-?\d{1,10})\)")
_MMAP = re.compile(
    r"MMAP2? (-?\d{1,10})/(-?\d{1,10}): \[(?:0x)?([0-9a-f]{1,16})\((?:0x)?([0-9a-f]{1,16})\) @ (?:0x)?([0-9a-f]{1,16})"
    r"[^]]*\]: (\S{1,4}) (.*)$"
)
_COMM = re.compile(r"COMM( exec)?: (.*):(-?\d{1,10})/(-?\d{1,10})$")
_CHAIN = re.compile(r"\s+[0-9a-f]{1,16} \S.*$")


def parse_line(text: str) -> Line:
    """What one line says; without its end."""
    if len(text) > MAX_LINE:
        return Unknown(f"a line of more than {MAX_LINE} characters")
    if not text.strip():
        return Ignored("blank")
    if text.startswith("#"):
        return Ignored("comment")
    record = _RECORD.search(text)
    if record is not None:
        return _record(record.group(1), text[record.start() + len("PERF_RECORD_") :])
    if _ERROR.match(text):
        return _error(text)
    if "=>" in text:
        return _branch(text)
    if "/" in text:
        stack = _stack(text)
        if stack is not None:
            return stack
    if _CHAIN.match(text) and not _TIME.search(text):
        return Ignored("call chain")
    if _TIME.search(text) and _header(text) is not None:
        return Ignored("sample without branches")
    return Unknown(text)


def _header(text: str) -> tuple[Header, str] | None:
    """A sample's beginning, and what follows it; None if there is no thread in it."""
    found = _TIME.search(text)
    if found is None:
        return None
    time = int(found.group(1)) * 1_000_000_000 + int(found.group(2).ljust(9, "0"))
    before = _CPU.sub("", text[: found.start()].rstrip()).rstrip()
    thread = _THREAD.search(before[-24:])
    if thread is None:
        return None
    tid = int(thread.group(2))
    pid = int(thread.group(1)) if thread.group(1) else tid
    comm = before[: len(before) - len(thread.group(0))].strip()
    return Header(max(tid, 0), max(pid, 0), comm, time), text[found.end() :]


def _branch(text: str) -> Line:
    parsed = _header(text)
    if parsed is None:
        return Unknown(text)
    header, rest = parsed
    left, _, right = rest.partition("=>")
    words = left.split()
    if words and words[0].isdigit():
        words = words[1:]  # the period
    if words and words[0].endswith(":"):
        words = words[1:]  # the event's name
    flags = []
    while words and not _HEX.match(words[0]):
        flags.append(words.pop(0))
        if len(flags) > 6:
            return Unknown(text)
    ipc = _IPC.search(right)
    source, target = _side(" ".join(words)), _side(right[: ipc.start()].rstrip() if ipc else right.rstrip())
    if source is None or target is None:
        return Unknown(text)
    return BranchLine(header, " ".join(flags), source, target, int(ipc.group(1)) if ipc else 0)


def _side(text: str) -> Side | None:
    found = _SIDE.match(text)
    if found is None:
        return None
    address, symbol = int(found.group(1), 16), (found.group(2) or "").strip()
    dso = ""
    if symbol.endswith(")") and "(" in symbol:
        symbol, _, dso = symbol[:-1].rpartition("(")
        symbol = symbol.strip()
    name, plus, offset = symbol.rpartition("+0x")
    if not plus or not _OFFSET.match(offset):
        name, offset = symbol, "0"
    return Side(address, name, int(offset, 16), dso) if name != "[unknown]" else Side(address, dso=dso)


def _stack(text: str) -> Line | None:
    words = text.split()
    first = next((i for i, word in enumerate(words) if _STACK_ENTRY.match(word)), None)
    if first is None:
        return None
    entries = []
    for word in words[first:]:
        found = _STACK_ENTRY.match(word)
        if found is None:
            return Unknown(text)
        kind = (found.group(4) or "").strip("/-").split("/")[0]
        missed = {"M": True, "P": False}.get(found.group(3))
        entries.append(StackEntry(int(found.group(1), 16), int(found.group(2), 16), missed, kind))
    parsed = _header(text)
    return StackLine(parsed[0] if parsed is not None else Header(), tuple(reversed(entries)))


def _error(text: str) -> Loss:
    fields = dict(_ERROR_FIELD.findall(text))
    time = None
    if "time" in fields:
        seconds, _, fraction = fields["time"].partition(".")
        time = int(seconds[:12] or 0) * 1_000_000_000 + int((fraction[:9] or "0").ljust(9, "0").replace(".", "0"))
    tid = fields.get("tid", "0")
    detail = text.rpartition(" code ")[2].strip()
    why = GapReason.OVERFLOW if "verflow" in detail else GapReason.DECODE
    return Loss(int(tid) if tid.isdigit() and len(tid) < 10 else 0, why, detail[:200], time)


def _record(name: str, text: str) -> Line:
    if name in ("LOST", "LOST_SAMPLES") or (name == "AUX" and re.search(r"flags: 0x[0-9a-f]{0,16}[13579bdf]\b", text)):
        return Loss(0, GapReason.LOST, text.strip()[:200])
    if name in ("MMAP", "MMAP2"):
        found = _MMAP.match(text)
        if found is None:
            return Ignored("mapping")
        pid, tid = int(found.group(1)), int(found.group(2))
        start, length, offset = (int(found.group(i), 16) for i in (3, 4, 5))
        if "x" not in found.group(6) or pid < 0 or tid < 0:
            return Ignored("mapping")
        return MapLine(pid, tid, start, length, offset, found.group(6), found.group(7))
    if name == "COMM":
        found = _COMM.match(text)
        if found is not None and int(found.group(4)) >= 0:
            return CommLine(int(found.group(3)), int(found.group(4)), found.group(2), found.group(1) is not None)
    if name in ("FORK", "EXIT"):
        pairs = _COLON_PAIRS.search(text)
        if pairs is not None and int(pairs.group(2)) >= 0:
            if name == "EXIT":
                return ExitLine(int(pairs.group(2)))
            return ForkLine(int(pairs.group(1)), int(pairs.group(2)), int(pairs.group(4)))
    return Ignored("record")
