"""Streams of branches as generated code: each with its event point in place, as a translated program would execute it.

Registers hold patterns throughout (the stack pointer too: any use of the stack faults) and must survive, as must the
flags.
"""

import struct
from dataclasses import dataclass, field

from branchmon.device.registers import MSR_BR_DETECT_STATUS, Status
from branchmon.device.unit import Unit
from branchmon.events import Branch, BranchKind
from branchmon.sources.translate.unitcode import Program, Routines, Slots, layout
from branchmon.sources.translate.unitcode.assembler import Assembler, Label, Mem, Reg
from unitcode_machine import Machine, pack_words

SPILLED = {BranchKind.RETURN, BranchKind.INDIRECT_JUMP, BranchKind.INDIRECT_CALL}

# The thread's area: ours, then the unit's block.
HOST_RSP, RESUME, LANES, RAX, RCX, RDX, CONTEXT = 0, 8, 32, 64, 72, 80, 128
UNIT = 512
SLOTS = Slots(UNIT, RAX, RCX, RDX)
LOG = UNIT + layout.SIZE
RING = LOG + (64 << 10)
PATTERNS = {i: 0x0101010101010101 * (0x10 + i) for i in range(16)}
MASK = (1 << 64) - 1


class Script(Assembler):
    """Straight-line code that retires a stream; leaving and coming back as a tracer makes a thread do."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.routines = Routines(program, SLOTS)
        self.constants: list[tuple[int, bytes]] = []
        self.records: list[bytes] = []
        self._enter()
        self.hook = len(self.code)
        self._leave()
        self.code += b"\xcc" * (-len(self.code) % 16)
        self.routines_at = len(self.code)
        self.code += self.routines.code
        self.start = len(self.code)

    def _enter(self) -> None:
        """Called by the worker: keep its registers, take the program's, go to RESUME."""
        self.code += b"\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"  # push rbx, rbp, r12-r15
        self._gs(0x89, 4, HOST_RSP)
        if self.program.vector:
            self.load_lanes(Mem(UNIT + layout.LANES))
        self.load(Reg.RAX, Mem(CONTEXT + 128))
        self.restore_flags()
        for i in range(16):
            self._gs(0x8B, i, CONTEXT + 8 * i)
        self.jump_memory(Mem(RESUME))

    def _leave(self) -> None:
        """The exit hook: the program's registers to CONTEXT, back to the worker."""
        for i in range(16):
            self._gs(0x89, i, CONTEXT + 8 * i)
        self.save_flags()
        self.store(Mem(CONTEXT + 128), Reg.RAX)
        if self.program.vector:
            self.store_lanes(Mem(LANES))
        self._gs(0x8B, 4, HOST_RSP)
        self.code += b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"

    def _gs(self, opcode: int, register: int, offset: int) -> None:
        self.code += bytes((0x65, 0x48 | register >> 3 << 2, opcode, 4 | (register & 7) << 3, 0x25))
        self.code += offset.to_bytes(4, "little")

    def add_lanes(self, lanes: tuple[int, ...] | None) -> None:
        """What the engine does at a block's end."""
        if lanes is None or not any(lanes):
            return
        if self.program.vector:
            self.code += b"\x62\x61\x85\x20\xd4\x3d"  # vpaddq ymm31, ymm31, [rip+...]
            self.constants.append((len(self.code), struct.pack("<4q", *lanes)))
            self.code += bytes(4)
            return
        self.store(Mem(RAX), Reg.RAX)
        for i, amount in enumerate(lanes):
            if amount:
                self.load(Reg.RAX, Mem(UNIT + layout.LANES + 8 * i))
                self.lea(Reg.RAX, Mem(amount, base=Reg.RAX))
                self.store(Mem(UNIT + layout.LANES + 8 * i), Reg.RAX)
        self.load(Reg.RAX, Mem(RAX))

    def retire(self, branch: Branch, flags: int, log: int) -> None:
        """One branch with the plain instructions before it, in one block or two."""
        gap, kind, taken, source, size, target = branch
        if gap > 40:
            self.add_lanes(self.program.block_increment(gap - 20, BranchKind.PLAIN))
            gap = 20
        self.add_lanes(self.program.block_increment(gap + 1, kind))
        if kind == BranchKind.CONDITIONAL and not taken:
            self.add_lanes(self.program.fallthrough_increment)
        if kind not in self.program.points:
            return
        spilled = kind in SPILLED
        self.store(Mem(RAX), Reg.RAX)
        self.move_imm(Reg.RAX, flags)
        self.restore_flags()
        self.load(Reg.RAX, Mem(RAX))
        record = len(self.code) + 5
        self.code += b"\xe9" + layout.RECORD_SIZE.to_bytes(4, "little")
        self.code += layout.record(source, size, kind, int(taken), 0 if spilled else target)
        if spilled:
            for register, slot in ((Reg.RAX, RAX), (Reg.RCX, RCX), (Reg.RDX, RDX)):
                self.store(Mem(slot), register)
            self.code += b"\x48\xb8" + struct.pack("<Q", target)
        self.code += self.routines.point(kind, at=len(self.code), base=self.routines_at, record=record, spilled=spilled)
        if spilled:
            self.store(Mem(LOG + log), Reg.RAX)
            for register, slot in ((Reg.RAX, RAX), (Reg.RCX, RCX), (Reg.RDX, RDX)):
                self.load(register, Mem(slot))
        else:
            self.store(Mem(LOG + log), Reg.RAX)
        self.store(Mem(RAX), Reg.RAX)
        self.save_flags()
        self.store(Mem(LOG + log + 8), Reg.RAX)
        self.load(Reg.RAX, Mem(RAX))

    def finish(self, tail: int) -> bytes:
        """Some last plain instructions, and the end: the code with its constants."""
        self.add_lanes(self.program.block_increment(tail, BranchKind.PLAIN) if tail else None)
        hook = Label(self.hook)
        self.jump(hook)
        self.code += bytes(-len(self.code) % 32)
        for at, constant in self.constants:
            self.code[at : at + 4] = (len(self.code) - at - 4).to_bytes(4, "little", signed=True)
            self.code += constant
        return bytes(self.code)


@dataclass
class Outcome:
    """What software saw: trips with STATUS, and how many hit each counter."""

    trips: list[tuple[int, int]] = field(default_factory=list)  # branch address and STATUS
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def interrupt(self, unit: Unit) -> None:
        """As the driver's handler: read STATUS, write 0."""
        status = unit.rdmsr(MSR_BR_DETECT_STATUS)
        unit.wrmsr(MSR_BR_DETECT_STATUS, 0)
        self.trips.append((unit.ip, status))
        for i in (0, 1):
            self.counts[i] += Status.HIT[i].get(status)


@dataclass
class Generated:
    """A unit, the worker that executes it, and what came of it."""

    machine: Machine
    unit: Unit
    outcome: Outcome
    stops: bool
    totals: bool
    recording: bool
    vector: bool
    rows: list[tuple[int, ...]] = field(default_factory=list)
    gap: int = 0

    def retire(self, stream: list[Branch], tail: int, flags: list[int]) -> Program:
        """Execute a stream as generated code; the program it was."""
        program = Program.of(self.unit, totals=self.totals, recording=self.recording, vector=self.vector)
        script = Script(program)
        for i, branch in enumerate(stream):
            script.retire(branch, flags[i], 16 * i)
        self.machine.load(script.finish(tail))
        blob = self.machine.blob_address
        resume = blob + script.start
        context = [PATTERNS[i] for i in range(16)]
        word = 0x4600
        while True:
            block = program.load(
                self.unit, stops=self.stops, exit_hook=blob + script.hook, ring=self._ring(), gap=self.gap
            )
            head = pack_words(0, resume).ljust(RAX, b"\0") + pack_words(*(PATTERNS[i] for i in (0, 1, 2)))
            area = head.ljust(CONTEXT, b"\0") + pack_words(*context, word)
            keep = RING + (1024 if self.recording else 0)
            after = self.machine.run(area.ljust(UNIT, b"\0") + block, keep)
            block = after[UNIT : UNIT + layout.SIZE]
            lanes = after[LANES : LANES + 32] if self.vector else None
            stored = program.store(block, self.unit, lanes)
            assert program.store(block, self.unit, lanes) == stored, "storing twice is harmless"
            for i in (0, 1):
                self.outcome.counts[i] += stored.counter_trips[i]
            self._take_rows(after, block)
            self.gap = stored.gap
            words = list(struct.unpack_from("<17Q", after, CONTEXT))
            context, word = words[:16], words[16]
            if not stored.reason:
                break
            if stored.reason & layout.REASON_TRIP:
                self.unit.trip()
            resume = context[Reg.RCX]
            (target,) = struct.unpack_from("<Q", block, layout.TARGET)
            assert context[Reg.RAX] == target
            saved = struct.unpack_from("<3Q", after, RAX)
            assert list(saved) == [PATTERNS[i] for i in (0, 1, 2)]
            context[Reg.RCX] = context[Reg.RDX] = 0xDEAD
        # rax was loaded with garbage by leaving; the rest, and rax through the slots, must be the program's.
        for i in range(16):
            assert context[i] == PATTERNS[i], f"register {i} changed"
        self._check_log(program, stream, flags, after)
        return program

    def _ring(self) -> tuple[int, int]:
        start = self.machine.area_address + RING
        return (start, start + 20 * layout.RING_ROW) if self.recording else (0, 0)

    def _take_rows(self, after: bytes, block: bytes) -> None:
        if self.recording:
            (end,) = struct.unpack_from("<Q", block, layout.RING_NEXT)
            for at in range(RING, end - self.machine.area_address, layout.RING_ROW):
                source, target, gap, size, kind, taken = struct.unpack_from("<QQIBBB", after, at)
                self.rows.append((gap, kind, taken, source, size, target))

    def _check_log(self, program: Program, stream: list[Branch], flags: list[int], after: bytes) -> None:
        for i, branch in enumerate(stream):
            if branch.kind in program.points:
                rax, word = struct.unpack_from("<QQ", after, LOG + 16 * i)
                assert rax == (branch.target if branch.kind in SPILLED else PATTERNS[0])
                assert (word >> 8 & 0xD5, word & 1) == (flags[i] >> 8 & 0xD5, flags[i] & 1), "flags changed"
