"""The routines that event points jump to, one a kind of branch."""

from branchmon.device.lbr import LBR_DEPTH
from branchmon.device.unit import MISPREDICTED, NOT_TAKEN
from branchmon.events import BranchKind, WindowClass
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Alu, Cond, Label, Mem, Reg
from branchmon.sources.translate.unitcode.counting import SharedParts, emit_counting, emit_shared
from branchmon.sources.translate.unitcode.emit import UnitAssembler
from branchmon.sources.translate.unitcode.layout import Slots
from branchmon.sources.translate.unitcode.points import Site, emit_point
from branchmon.sources.translate.unitcode.predicting import emit_prediction
from branchmon.sources.translate.unitcode.program import ALL_FAMILIES, Program

RAX, RCX, RDX, R8, R9, R10 = Reg.RAX, Reg.RCX, Reg.RDX, Reg.R8, Reg.R9, Reg.R10


class Routines:
    """A program's routines for threads whose areas have the given slots.

    :ivar code: position independent; every code cache holds a copy.
    :ivar entries: where the routine of each kind that is a point starts in `code`.
    """

    def __init__(self, program: Program, slots: Slots) -> None:
        self.program = program
        self.slots = slots
        self.entries: dict[BranchKind, int] = {}
        assembler = UnitAssembler(program, slots)
        shared, leave = SharedParts(), Label()
        for kind in sorted(program.points):
            assembler.code += b"\xcc" * (-len(assembler.code) % 16)
            self.entries[kind] = len(assembler.code)
            _emit_routine(assembler, kind, shared, leave)
        if program.points:
            emit_shared(assembler, shared)
            assembler.bind(leave)
            _emit_leaving(assembler)
        self.code = bytes(assembler.code)

    def point(
        self, kind: BranchKind, *, at: int, base: int, record: int, spilled: bool, falls_behind: bool | None = None
    ) -> bytes:
        """The code of an event point; see the package's documentation for its conventions.

        :param at: the address that the code is for.
        :param base: the address of these routines in the same cache.
        :param record: the address of the site's record.
        :param spilled: rax is the target, and the program's rax, rcx and rdx are in their slots.
        :param falls_behind: of a direct call: it goes to the very next instruction. None: find out when it executes.
        """
        a = UnitAssembler(self.program, self.slots, at)
        emit_point(a, Site(kind, record, base + self.entries[kind], spilled, falls_behind))
        return bytes(a.code)


def _emit_routine(a: UnitAssembler, kind: BranchKind, shared: SharedParts, leave: Label) -> None:
    """rax: target, rcx: where to go on, rdx: the site's record."""
    program = a.program
    a.store(a.field(layout.TARGET), RAX)
    a.save_flags()
    a.store(a.field(layout.FLAGS), RAX)
    a.store(a.field(layout.CONTINUE), RCX)
    for slot, register in zip(layout.SAVED, (R8, R9, R10), strict=False):
        a.store(a.field(slot), register)
    if program.recording or (program.lane_window and program.moves_state(kind)):
        a.lanes_to_memory()
    a.load(RAX, Mem(layout.RECORD_SOURCE, base=RDX))
    a.store(a.field(layout.IP), RAX)
    emit_prediction(a, kind)
    _emit_totals(a, kind)
    if program.lbr:
        _emit_lbr(a, kind)
    if program.recording:
        _emit_recording(a)
    emit_counting(a, kind, shared)
    for slot, register in zip(layout.SAVED, (R8, R9, R10), strict=False):
        a.load(register, a.field(slot))
    a.cmp8(a.field(layout.REASON), 0)
    a.jump_if(Cond.NE, leave)
    a.load(RAX, a.field(layout.FLAGS))
    a.restore_flags()
    a.load(RAX, a.field(layout.TARGET))
    a.load(RCX, a.field(layout.CONTINUE))
    a.jump_register(RCX)


def _emit_leaving(a: UnitAssembler) -> None:
    a.load(RAX, a.field(layout.FLAGS))
    a.restore_flags()
    a.load(RAX, a.field(layout.TARGET))
    a.load(RCX, a.field(layout.CONTINUE))
    a.jump_memory(a.field(layout.EXIT_HOOK))


def _emit_totals(a: UnitAssembler, kind: BranchKind) -> None:
    program = a.program
    if kind in program.kept_totals:
        a.alu_memory(Alu.ADD, a.field(layout.TOTALS + 8 * kind), 1)
    if program.families == ALL_FAMILIES and program.predicts(kind):
        a.alu_memory(Alu.ADD, a.field(layout.TOTALS + 8 * MISPREDICTED), R9)
    if kind == BranchKind.CONDITIONAL and program.totals and not program.lane_for_not_taken:
        a.cmp8(Mem(layout.RECORD_TAKEN, base=RDX), 1)
        a.alu_memory(Alu.ADC, a.field(layout.TOTALS + 8 * NOT_TAKEN), 0)


def _emit_lbr(a: UnitAssembler, kind: BranchKind) -> None:
    """Note a taken branch, unless the records are frozen."""
    none = Label()
    a.cmp8(a.field(layout.LBRS_VALID), 0)
    a.jump_if(Cond.NE, none)
    if kind == BranchKind.CONDITIONAL:
        a.cmp8(Mem(layout.RECORD_TAKEN, base=RDX), 0)
        a.jump_if(Cond.E, none)
    a.load(RAX, a.field(layout.LBR_NEXT))
    a.load(RCX, Mem(layout.RECORD_SOURCE, base=RDX))
    a.store(a.field(layout.LBR, plus=RAX), RCX)
    a.load(RCX, a.field(layout.TARGET))
    a.store(a.field(layout.LBR + 8, plus=RAX), RCX)
    a.move_imm(RCX, kind << 8)
    a.alu(Alu.OR, RCX, R9)
    a.store(a.field(layout.LBR + 16, plus=RAX), RCX)
    a.alu_memory(Alu.ADD, a.field(layout.LBR_COUNT), 1)
    wrapped = Label()
    a.alu(Alu.ADD, RAX, layout.LBR_RECORD)
    a.alu(Alu.CMP, RAX, LBR_DEPTH * layout.LBR_RECORD)
    a.jump_if(Cond.NE, wrapped)
    a.zero(RAX)
    a.bind(wrapped)
    a.store(a.field(layout.LBR_NEXT), RAX)
    a.bind(none)


def _emit_recording(a: UnitAssembler) -> None:
    """Append a row to the ring, if the thread has one; leave when the ring is full."""
    none = Label()
    a.load(R8, a.field(layout.RING_NEXT))
    a.test(R8)
    a.jump_if(Cond.E, none)
    _emit_instructions(a)
    a.move(RCX, RAX)
    a.alu(Alu.SUB, RCX, a.field(layout.RING_LAST))
    a.alu(Alu.SUB, RCX, 1)
    a.store(a.field(layout.RING_LAST), RAX)
    a.store32(Mem(16, base=R8), RCX)
    a.load(RAX, Mem(layout.RECORD_SOURCE, base=RDX))
    a.store(Mem(0, base=R8), RAX)
    a.load(RAX, a.field(layout.TARGET))
    a.store(Mem(8, base=R8), RAX)
    a.load32(RAX, Mem(layout.RECORD_SIZE_OF_BRANCH, base=RDX))  # size, kind, taken, 0
    a.store32(Mem(20, base=R8), RAX)
    a.alu(Alu.ADD, R8, layout.RING_ROW)
    a.store(a.field(layout.RING_NEXT), R8)
    a.alu(Alu.CMP, R8, a.field(layout.RING_END))
    a.jump_if(Cond.B, none)
    a.alu_memory(Alu.OR, a.field(layout.REASON), layout.REASON_RING)
    a.bind(none)


def _emit_instructions(a: UnitAssembler) -> None:
    """rax: the instructions retired so far, this branch included. The memory copy of the lanes is up to date."""
    if a.program.window == WindowClass.BRANCHES:
        a.load(RAX, a.field(layout.LANES + 8))
    else:
        a.load(RAX, a.field(layout.BASE))
        a.alu(Alu.SUB, RAX, a.field(layout.LANES))
