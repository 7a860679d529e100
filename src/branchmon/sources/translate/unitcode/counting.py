"""The counters, the window and the trip (:mod:`branchmon.device.counters`) in generated code.

Windows are reconciled where a count moves: only there does it matter whether one has ended since. rdx (the site's
record) and r9 (mispredicted) are kept; rax, rcx, r8 and r10 are free.
"""

from branchmon.device.counters import BIAS_MIN
from branchmon.events import BmEvent, BranchKind
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Alu, Cond, Label, Mem, Reg
from branchmon.sources.translate.unitcode.emit import UnitAssembler
from branchmon.sources.translate.unitcode.program import Effect

RAX, RCX, RDX, R8, R9, R10 = Reg.RAX, Reg.RCX, Reg.RDX, Reg.R8, Reg.R9, Reg.R10

_SATURATION = {Effect.UP: 255, Effect.JUDGED: 255, Effect.BIAS_UP: 127}


class SharedParts:
    """Labels of the parts that the routines of all kinds share."""

    def __init__(self) -> None:
        self.window_ended = Label()
        self.tripped = Label()


def emit_counting(a: UnitAssembler, kind: BranchKind, shared: SharedParts) -> None:
    """Retire a branch of this kind in the order of SPEC section 1: counters, window, hits, trip, end of the window."""
    program = a.program
    if not program.moves_state(kind):
        return
    done = Label()
    effects = program.effects(kind)
    a.cmp8(a.field(layout.EVENT), 0)
    a.jump_if(Cond.NE, done)
    if program.lane_window:
        same_window = Label()
        a.load(RCX, a.field(layout.LANES))
        a.test(RCX)
        a.jump_if(Cond.NS, same_window)
        a.call(shared.window_ended)
        a.bind(same_window)
    for i, effect in enumerate(effects):
        _change(a, i, effect)
    unit = program.is_window_unit(kind)
    if unit:
        a.alu_memory(Alu.SUB, a.field(layout.WINDOW_LEFT), 1)
    if any(effect in _SATURATION for effect in effects):
        _test_trip(a, shared, done)
    if unit:
        a.load(RAX, a.field(layout.WINDOW_LEFT))
        a.test(RAX)
        a.jump_if(Cond.NE, done)
        a.load(RAX, a.field(layout.WINDOW_SIZE))
        a.store(a.field(layout.WINDOW_LEFT), RAX)
        a.alu_memory(Alu.ADD, a.field(layout.WINDOWS), 1)
        _clear_counts(a)
    a.bind(done)


def _change(a: UnitAssembler, i: int, effect: Effect) -> None:
    """What the branch does to counter `i`, with saturation and the highest count."""
    counter = a.program.counters[i]
    if effect == Effect.NONE or counter is None:
        return
    if effect == Effect.RESET:
        _clear_count(a, i)
        return
    store, done = Label(), Label()
    if effect == Effect.JUDGED:
        wrong = Label()
        a.test(R9)
        a.jump_if(Cond.NE, wrong)
        if counter.consecutive:
            _clear_count(a, i)
        a.jump(done)
        a.bind(wrong)
    a.load(RAX, a.field(layout.LIMIT[i]))
    a.alu(Alu.SUB, RAX, a.field(layout.LEFT[i]))
    if effect == Effect.BIAS_DOWN:
        a.alu(Alu.CMP, RAX, BIAS_MIN)
        a.jump_if(Cond.LE, done)
        a.alu(Alu.SUB, RAX, 1)
    else:
        a.alu(Alu.CMP, RAX, _SATURATION[effect])
        a.jump_if(Cond.GE, done)
        a.alu(Alu.ADD, RAX, 1)
        a.alu(Alu.CMP, RAX, a.field(layout.HIGHEST[i]))
        a.jump_if(Cond.LE, store)
        _new_highest(a, i)
    a.bind(store)
    a.load(RCX, a.field(layout.LIMIT[i]))
    a.alu(Alu.SUB, RCX, RAX)
    a.store(a.field(layout.LEFT[i]), RCX)
    a.bind(done)


def _new_highest(a: UnitAssembler, i: int) -> None:
    """rax is a count never reached before: the limit is one above it, but never above the threshold."""
    low = Label()
    a.store(a.field(layout.HIGHEST[i]), RAX)
    a.lea(RCX, Mem(1, base=RAX))
    a.alu(Alu.CMP, RCX, a.field(layout.THRESHOLD[i]))
    a.jump_if(Cond.LE, low)
    a.load(RCX, a.field(layout.THRESHOLD[i]))
    a.bind(low)
    a.store(a.field(layout.LIMIT[i]), RCX)
    counter = a.program.counters[i]
    if counter is not None and counter.event == BmEvent.CALL_RET:
        a.invert(RCX)
        a.alu(Alu.ADD, RCX, 1 + BIAS_MIN)
        a.store(a.field(layout.FLOOR[i]), RCX)


def _test_trip(a: UnitAssembler, shared: SharedParts, done: Label) -> None:
    """Set the hits of the counts of this moment; if any (or, in AND mode, all) are met, trip and go to `done`."""
    enabled = [i for i, counter in enumerate(a.program.counters) if counter is not None]
    no_trip = Label()
    a.zero(R8)
    for i in enabled:
        below = Label()
        a.load(RAX, a.field(layout.LIMIT[i]))
        a.alu(Alu.SUB, RAX, a.field(layout.LEFT[i]))
        a.alu(Alu.CMP, RAX, a.field(layout.THRESHOLD[i]))
        a.jump_if(Cond.L, below)
        a.set8(a.field(layout.HIT[i]), 1)
        a.alu(Alu.ADD, R8, 1)
        a.bind(below)
    a.alu(Alu.CMP, R8, len(enabled) if a.program.and_mode else 1)
    a.jump_if(Cond.B, no_trip)
    a.call(shared.tripped)
    a.jump(done)
    a.bind(no_trip)


def emit_shared(a: UnitAssembler, shared: SharedParts) -> None:
    """The parts that the routines jump to; they return by ``jmp r10``."""
    if a.program.lane_window:
        a.bind(shared.window_ended)
        _window_ended(a)
    a.bind(shared.tripped)
    _tripped(a)


def _window_ended(a: UnitAssembler) -> None:
    """Lane 0, in rcx, is negative: windows ended before this branch. Find what is left of the one that it is in."""
    within_next = Label()
    a.invert(RCX)  # units between the end of the first of them and this branch
    a.load(R8, a.field(layout.WINDOW_SIZE))
    a.zero(RAX)
    a.alu(Alu.CMP, RCX, R8)
    a.jump_if(Cond.B, within_next)
    a.store(a.field(layout.SAVED[3]), RDX)
    a.move(RAX, RCX)
    a.zero(RDX)
    a.divide(R8)
    a.move(RCX, RDX)
    a.load(RDX, a.field(layout.SAVED[3]))
    a.bind(within_next)
    a.alu(Alu.ADD, RAX, 1)
    a.alu_memory(Alu.ADD, a.field(layout.WINDOWS), RAX)
    a.alu(Alu.SUB, R8, RCX)
    a.alu(Alu.SUB, R8, 1)
    _set_lane0(a)
    _clear_counts(a)
    a.jump_register(R10)


def _tripped(a: UnitAssembler) -> None:
    """A trip: as the interrupt handler does it without a stop, or freeze."""
    freeze = Label()
    a.cmp8(a.field(layout.ON_TRIP), layout.ON_TRIP_RESTART)
    a.jump_if(Cond.NE, freeze)
    a.alu_memory(Alu.ADD, a.field(layout.TRIPS), 1)
    for i, counter in enumerate(a.program.counters):
        if counter is not None:
            a.load8(RAX, a.field(layout.HIT[i]))
            a.alu_memory(Alu.ADD, a.field(layout.COUNTER_TRIPS[i]), RAX)
            a.set8(a.field(layout.HIT[i]), 0)
            _clear_count(a, i)
    a.load(R8, a.field(layout.WINDOW_SIZE))
    _set_window_left(a)
    a.jump_register(R10)
    a.bind(freeze)
    _freeze(a)
    a.jump_register(R10)


def _freeze(a: UnitAssembler) -> None:
    """EVENT is set, window and last branches stand still; with stops wanted, the thread leaves after the branch."""
    no_stop = Label()
    a.set8(a.field(layout.EVENT), 1)
    a.load(R8, a.field(layout.WINDOW_SIZE))
    a.alu(Alu.SUB, R8, a.field(layout.LANES if a.program.lane_window else layout.WINDOW_LEFT))
    a.store(a.field(layout.FROZEN_WINDOW), R8)
    a.load8(RAX, Mem(layout.RECORD_KIND, base=RDX))
    a.store8(a.field(layout.TRIP_KIND), RAX)
    a.load8(RAX, a.field(layout.FREEZES_LBR))
    a.store8(a.field(layout.LBRS_VALID), RAX)
    # Far below zero, so that no short cut at a point takes this for the common case.
    a.move_imm(R8, 1)
    if a.program.lane_window:
        a.shift_left(R8, layout.FAR_AWAY.bit_length() - 1)
        a.invert(R8)
    _set_window_left(a)
    a.cmp8(a.field(layout.ON_TRIP), layout.ON_TRIP_STOP)
    a.jump_if(Cond.NE, no_stop)
    a.alu_memory(Alu.OR, a.field(layout.REASON), layout.REASON_TRIP)
    a.bind(no_stop)


def _set_window_left(a: UnitAssembler) -> None:
    """r8 is what is left of the window from here on."""
    if a.program.lane_window:
        _set_lane0(a)
    else:
        a.store(a.field(layout.WINDOW_LEFT), R8)


def _set_lane0(a: UnitAssembler) -> None:
    """Lane 0 becomes r8; the total that it tells stays."""
    a.move(RCX, R8)
    a.alu(Alu.SUB, RCX, a.field(layout.LANES))
    a.alu_memory(Alu.ADD, a.field(layout.BASE), RCX)
    a.store(a.field(layout.LANES), R8)
    a.lanes_from_memory()


def _clear_counts(a: UnitAssembler) -> None:
    """The window has ended."""
    for i, counter in enumerate(a.program.counters):
        if counter is not None and counter.clears_with_window:
            _clear_count(a, i)


def _clear_count(a: UnitAssembler, i: int) -> None:
    a.load(RAX, a.field(layout.LIMIT[i]))
    a.store(a.field(layout.LEFT[i]), RAX)
