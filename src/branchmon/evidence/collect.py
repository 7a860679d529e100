"""Collecting the evidence of a trip while the task stands at its instruction."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime

from branchmon.device.registers import Control, CounterConfig, Status
from branchmon.driver.pmu import Trip
from branchmon.driver.tasks import Task
from branchmon.errors import BranchmonError
from branchmon.events import BmEvent, BranchKind, WindowClass
from branchmon.evidence.code import Code
from branchmon.evidence.facts import Facts, collect_facts
from branchmon.evidence.model import SCHEMA, BranchRecord, Counter, Evidence, Location, StackWord
from branchmon.sources.base import Mapping, Registers, TaskContext
from branchmon.sources.maps import program_name
from branchmon.symbols import Place, Symbolizer

WORDS_BELOW = 16
"""Stack words shown below the stack pointer: what has just been popped is the part of a chain already executed."""
WORDS_ABOVE = 32

_KINDS = {kind.value: kind.name.lower().replace("_", "-") for kind in BranchKind}
_SHOWN_REGISTERS = (
    "rip", "rsp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "eflags", "fs_base", "gs_base",
)  # fmt: skip


class Collector:
    """Makes :class:`~branchmon.evidence.model.Evidence` of trips; one symbolizer a process.

    :param lines: look for source lines (costs time once per unit of DWARF).
    """

    def __init__(self, *, lines: bool = True) -> None:
        self.lines = lines
        self._symbolizers: dict[int, Symbolizer] = {}

    def forget(self, pid: int) -> None:
        """The process ended."""
        self._symbolizers.pop(pid, None)

    def view(self, trip: Trip) -> "TripView":
        """What can be seen now, in the listener.

        :raises BranchmonError: the source has no machine state to show.
        :raises OSError: the task was killed meanwhile.
        """
        context = trip.task.context
        if context is None:
            raise BranchmonError("this source shows no machine state at a trip", slug="no-evidence")
        mappings = context.mappings()
        pid = trip.task.pid
        symbolizer = self._symbolizers.get(pid)
        if symbolizer is None:
            symbolizer = Symbolizer(mappings, read=context.read, root=_root(pid))
            self._symbolizers[pid] = symbolizer
        else:
            symbolizer.update(mappings)
        return TripView(trip, context, symbolizer, self.lines)


class TripView:
    """One trip, looked at while its task stands still; everything is computed when asked for."""

    def __init__(self, trip: Trip, context: TaskContext, symbolizer: Symbolizer, lines: bool) -> None:
        self.trip = trip
        self.context = context
        self.symbolizer = symbolizer
        self.registers = context.registers()
        self.code = Code(context.read, symbolizer)
        self._lines = lines

    def fingerprint(self) -> str:
        """16 hexadecimal digits, the same in every run: of the events hit, the branch that tripped and its target.

        Module names and module-relative addresses only, so neither address-space layout nor a path changes it; a newly
        built module does.
        """
        parts = sorted(event.config.event.perf_name for event in self.trip.events)
        for address in (self.trip.ip, self.registers.rip):
            place = self.symbolizer.describe(address)
            parts.append(f"{place.module_name}+{place.module_address:#x}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def facts(self) -> Facts:
        """The facts, see docs/evidence.md."""
        pivot = stack_pivot(self.registers, self.symbolizer.mapping, self.trip.task)
        return collect_facts(self.trip.lbr, self.code, pivot)

    def evidence(self, facts: Facts | None = None, actions: tuple[str, ...] = ()) -> Evidence:
        """Everything.

        :param facts: if they are known already.
        :param actions: what is going to be done.
        """
        trip, facts = self.trip, facts or self.facts()
        return Evidence(
            schema=SCHEMA,
            number=trip.number,
            time=datetime.now(UTC).isoformat(timespec="microseconds"),
            monotonic_ns=trip.time_ns,
            pid=trip.task.pid,
            tid=trip.task.tid,
            comm=program_name(trip.task.tid) or trip.task.comm,
            events=[event.config.event.perf_name for event in trip.events],
            counters=_counters(trip),
            window=trip.window,
            window_size=Control.WINDOW_SIZE.get(trip.control),
            window_class=WindowClass(Control.WINDOW_SELECT.get(trip.control)).name.lower().replace("_", "-"),
            and_mode=bool(Control.AND_MODE.get(trip.control)),
            instruction=self._location(trip.ip),
            instruction_text=self.code.text(trip.ip),
            next=self._location(self.registers.rip),
            next_text=self.code.text(self.registers.rip),
            registers={name: f"{getattr(self.registers, name):#x}" for name in _SHOWN_REGISTERS},
            stack=self._stack(),
            last_branches=[
                BranchRecord(_KINDS[b.kind], b.mispredicted, self._location(b.source), self._location(b.target))
                for b in trip.lbr
            ],
            facts=facts,
            verdict=verdict(facts),
            fingerprint=self.fingerprint(),
            actions=list(actions),
        )

    def _stack(self) -> list[StackWord]:
        words = []
        for first, count in ((-WORDS_BELOW, WORDS_BELOW), (0, WORDS_ABOVE)):
            data = self.context.read(self.registers.rsp + 8 * first, 8 * count)
            for i in range(len(data) // 8):
                value = int.from_bytes(data[8 * i : 8 * i + 8], "little")
                code = self._location(value) if self.symbolizer.is_code(value) else None
                preceded = None if code is None else self.code.preceded_by_call(value)
                words.append(StackWord(8 * (first + i), f"{value:#x}", code, preceded))
        return words

    def _location(self, address: int) -> Location:
        return location(self.symbolizer.describe(address, lines=self._lines))


def _root(pid: int) -> str:
    """Where the process's file tree is, as we see it: empty if it is ours."""
    try:
        own, its = os.stat("/"), os.stat(f"/proc/{pid}/root")
    except OSError:
        return ""
    return "" if (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino) else f"/proc/{pid}/root"


def location(place: Place) -> Location:
    """A place as the records have it."""
    return Location(
        address=f"{place.address:#x}",
        name=place.name,
        module=place.module,
        module_address=f"{place.module_address:#x}" if place.module else "",
        build_id=place.build_id,
        symbol=place.symbol,
        offset=place.offset,
        nearest=bool(place.symbol) and not place.covered,
        file=place.file,
        line=place.line,
    )


def stack_pivot(registers: Registers, mapping: Callable[[int], Mapping | None], task: Task) -> bool | None:
    """The stack pointer is outside the thread's stack; None: the stack is not known.

    The first thread's stack is the mapping ``[stack]``. A later thread's is the one that holds its control block (the
    C library puts it, with %fs, at the top of the stack); a raw clone without one is not known.
    """
    here = mapping(registers.rsp)
    if task.tid == task.pid:
        return here is None or here.path != "[stack]"
    home = mapping(registers.fs_base) if registers.fs_base else None
    return None if home is None else here != home


def verdict(facts: Facts) -> str:
    """One sentence for people, drawn from the facts that count against the program."""
    against = []
    if facts.not_call_preceded:
        against.append(f"{facts.not_call_preceded} of {facts.returns} returns went where no call comes back")
    if facts.unmatched_returns:
        against.append(f"{facts.unmatched_returns} without a matching call")
    if facts.inside_instruction:
        against.append(f"{facts.inside_instruction} branches went inside an instruction")
    if facts.pivot:
        against.append("the stack pointer is outside the thread's stack")
    if facts.to_sigreturn > 1:
        against.append(f"{facts.to_sigreturn} returns to sigreturn")
    if facts.short_gadgets >= 3:
        against.append(f"{facts.short_gadgets} short gadgets in a row")
    strong = facts.not_call_preceded or facts.unmatched_returns or facts.inside_instruction or facts.pivot
    if not strong:
        return "nothing but the count speaks against it" + (f" ({'; '.join(against)})" if against else "")
    return "; ".join(against)


def _counters(trip: Trip) -> list[Counter]:
    counters = []
    for i, config in enumerate(trip.configs):
        if CounterConfig.ENABLED.get(config):
            event = BmEvent(CounterConfig.SELECT.get(config))
            count = Status.COUNT[i].get(trip.status)
            if event == BmEvent.CALL_RET and count > 127:
                count -= 256
            counters.append(
                Counter(
                    event.perf_name,
                    CounterConfig.THRESHOLD.get(config),
                    count,
                    bool(Status.HIT[i].get(trip.status)),
                    bool(CounterConfig.CONSECUTIVE.get(config)),
                )
            )
    return counters
