"""The predictor model (:mod:`branchmon.device.predictor`) in generated code.

On entry rdx is the site's record and the target is in the block; r9 becomes 1 if the prediction was wrong, else 0. rax,
rcx and r8 are free.
"""

from branchmon.device.predictor import DIRECTION_BITS, DIRECTIONS, TARGETS, UNKNOWN
from branchmon.events import BranchKind
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Alu, Cond, Label, Mem, Reg
from branchmon.sources.translate.unitcode.emit import UnitAssembler
from branchmon.sources.translate.unitcode.program import CALLS, INDIRECTS, Family

RAX, RCX, RDX, R8, R9 = Reg.RAX, Reg.RCX, Reg.RDX, Reg.R8, Reg.R9


def emit_prediction(a: UnitAssembler, kind: BranchKind) -> None:
    """Predict a branch of this kind and learn from it, in the families that run."""
    families = a.program.families
    a.zero(R9)
    if kind == BranchKind.CONDITIONAL and Family.DIRECTIONS in families:
        _direction(a)
    if kind == BranchKind.RETURN and Family.RETURNS in families:
        _pop(a)
    if kind in INDIRECTS and Family.TARGETS in families:
        _target(a)
    if kind in CALLS and Family.RETURNS in families:
        _push(a)


def _direction(a: UnitAssembler) -> None:
    """gshare: a two-bit counter found by the address and the last outcomes."""
    counter = a.field(layout.DIRECTION_COUNTERS, plus=RAX)
    outcomes = a.field(layout.OUTCOMES)
    fell, learnt = Label(), Label()
    _hash(a, DIRECTION_BITS, layout.OUTCOMES, DIRECTIONS)
    a.load8(RCX, counter)
    a.move(R9, RCX)
    a.shift_right(R9, 1)  # it says taken
    a.cmp8(Mem(layout.RECORD_TAKEN, base=RDX), 0)
    a.jump_if(Cond.E, fell)
    a.alu(Alu.XOR, R9, 1)
    a.alu(Alu.CMP, RCX, 3)
    a.alu(Alu.ADC, RCX, 0)  # up, to 3 at most
    a.store8(counter, RCX)
    a.load(RCX, outcomes)
    a.add_quietly(RCX, RCX, RCX, 1)
    a.jump(learnt)
    a.bind(fell)
    a.alu(Alu.CMP, RCX, 1)
    a.alu(Alu.ADC, RCX, -1)  # down, to 0 at least
    a.store8(counter, RCX)
    a.load(RCX, outcomes)
    a.add_quietly(RCX, RCX, RCX)
    a.bind(learnt)
    a.alu(Alu.AND, RCX, DIRECTIONS - 1)
    a.store(outcomes, RCX)


def _pop(a: UnitAssembler) -> None:
    """Compare the newest entry of the return stack with the target."""
    known = Label()
    a.load8(RAX, a.field(layout.TOP))
    a.load(RCX, a.field(layout.STACK, plus=RAX))
    a.alu(Alu.SUB, RAX, layout.STACK_ENTRY)
    a.store8(a.field(layout.TOP), RAX)
    a.alu(Alu.CMP, RCX, -UNKNOWN)
    a.jump_if(Cond.E, known)
    a.alu(Alu.ADD, RCX, a.field(layout.TARGET))
    a.set_if(Cond.NE, R9)
    a.bind(known)


def _target(a: UnitAssembler) -> None:
    """The last target that was seen here with this path."""
    entry = a.field(layout.TARGET_CACHE, plus=RAX, scale=8)
    path = a.field(layout.PATH)
    _hash(a, 10, layout.PATH, TARGETS)
    a.load(RCX, a.field(layout.TARGET))
    a.alu(Alu.CMP, RCX, entry)
    a.set_if(Cond.NE, R9)
    a.store(entry, RCX)
    a.load(RAX, path)
    a.shift_left(RAX, 3)
    a.alu(Alu.XOR, RAX, RCX)
    a.shift_right(RCX, 5)
    a.alu(Alu.XOR, RAX, RCX)
    a.alu(Alu.AND, RAX, TARGETS - 1)
    a.store(path, RAX)


def _push(a: UnitAssembler) -> None:
    """Push the address behind a call, unless that is where it goes."""
    next_instruction = Label()
    a.load(RAX, Mem(layout.RECORD_BEHIND, base=RDX))
    a.load(RCX, a.field(layout.TARGET))
    a.alu(Alu.ADD, RCX, RAX)
    a.jump_if(Cond.E, next_instruction)
    a.load8(RCX, a.field(layout.TOP))
    a.add8(RCX, layout.STACK_ENTRY)
    a.store8(a.field(layout.TOP), RCX)
    a.zero_extend8(RCX, RCX)
    a.store(a.field(layout.STACK, plus=RCX), RAX)
    a.bind(next_instruction)


def _hash(a: UnitAssembler, shift: int, history: int, entries: int) -> None:
    """rax: the branch's address mixed with a history, as an index below `entries`."""
    a.load(RAX, Mem(layout.RECORD_SOURCE, base=RDX))
    a.move(RCX, RAX)
    a.shift_right(RCX, shift)
    a.alu(Alu.XOR, RAX, RCX)
    a.alu(Alu.XOR, RAX, a.field(history))
    a.alu(Alu.AND, RAX, entries - 1)
