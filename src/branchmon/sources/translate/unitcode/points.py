"""Event points: the code at a branch, with short cuts for what nearly always happens.

A short cut decides the common case (the window has not ended, no count comes to its limit, the return goes where its
call came from) and does all that is to be done, without touching flags: by ``lea``, ``movzx`` and ``jrcxz``. Everything
else jumps to the routine, which starts afresh: a short cut changes nothing before it is sure.

Where a unit stands still (EVENT), its block is such that no short cut that moves a count is taken.
"""

from typing import NamedTuple

from branchmon.events import BranchKind
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Label, Mem, Reg
from branchmon.sources.translate.unitcode.emit import UnitAssembler
from branchmon.sources.translate.unitcode.program import CALLS, Effect, Family, Program

RAX, RCX, RDX = Reg.RAX, Reg.RCX, Reg.RDX

_STEP = {Effect.UP: -1, Effect.BIAS_UP: -1, Effect.BIAS_DOWN: 1}
"""What an effect adds to LEFT."""


class Site(NamedTuple):
    """One event point."""

    kind: BranchKind
    record: int
    entry: int
    spilled: bool
    falls_behind: bool | None


def emit_point(a: UnitAssembler, site: Site) -> None:
    """The code of an event point, which falls through at its end."""
    program, slots = a.program, a.slots
    end, slow = Label(), Label()
    spilled = {RAX, RCX, RDX} if site.spilled else set()
    places = {RAX: slots.rax, RCX: slots.rcx, RDX: slots.rdx}
    if has_short_cut(program, site.kind):
        used = {RCX} | ({RDX} if _uses_rdx(program, site.kind) else set())
        for register in sorted(used - spilled):
            a.store(Mem(places[register]), register)
        _emit_checks(a, site.kind, slow)
        _emit_changes(a, site)
        if not site.spilled:
            for register in sorted(used):
                a.load(register, Mem(places[register]))
        if not _can_fail(program, site.kind):
            return
        a.jump_short(end)
        spilled |= used
    a.bind(slow)
    for register in (RAX, RCX, RDX):
        if register not in spilled:
            a.store(Mem(places[register]), register)
    if not site.spilled:
        a.load_address(RAX, site.record + layout.RECORD_TARGET)
    behind = Label()
    a.lea_address(RDX, site.record)
    a.lea_label(RCX, behind)
    a.jump_address(site.entry)
    a.bind(behind)
    if not site.spilled:
        for register in (RAX, RCX, RDX):
            a.load(register, Mem(places[register]))
    a.bind(end)


def has_short_cut(program: Program, kind: BranchKind) -> bool:
    """There is a common case that can be decided in a few instructions."""
    if program.lbr or program.recording:
        return False
    if (
        program.predicts(kind)
        and kind not in (BranchKind.RETURN, BranchKind.CALL)
        and Family.TARGETS in program.families
    ):
        return False
    if program.predicts(kind) and kind == BranchKind.CONDITIONAL:
        return False
    for counter, effect in zip(program.counters, program.effects(kind), strict=True):
        if effect in _STEP and program.and_mode:
            return False
        if effect == Effect.RESET or (effect == Effect.JUDGED and counter is not None and counter.consecutive):
            return False
    return True


def _steps(program: Program, kind: BranchKind) -> list[tuple[int, Effect]]:
    """The counters that a branch of this kind moves whatever was predicted, and how."""
    return [(i, effect) for i, effect in enumerate(program.effects(kind)) if effect in _STEP]


def _pops(program: Program, kind: BranchKind) -> bool:
    return kind == BranchKind.RETURN and program.predicts(kind)


def _pushes(program: Program, kind: BranchKind) -> bool:
    return kind in CALLS and Family.RETURNS in program.families


def _uses_rdx(program: Program, kind: BranchKind) -> bool:
    steps = _steps(program, kind)
    falls = any(effect == Effect.BIAS_DOWN for _, effect in steps)
    return falls or len(steps) > 1 or _pops(program, kind) or _pushes(program, kind)


def _can_fail(program: Program, kind: BranchKind) -> bool:
    return bool(_steps(program, kind)) or _pops(program, kind) or program.is_window_unit(kind)


def _emit_checks(a: UnitAssembler, kind: BranchKind, slow: Label) -> None:
    """Go to `slow` unless it is the common case. A counter that rises has its new LEFT in rcx; two, in rdx and rcx."""
    program = a.program
    steps = _steps(program, kind)
    if _pops(program, kind):
        a.load8(RDX, a.field(layout.TOP))
        a.load(RCX, a.field(layout.STACK, plus=RDX))
        a.add_quietly(RCX, RCX, RAX)
        _go_on_if_rcx_zero(a, slow)
    slow_pad = Label()  # jrcxz reaches 127 bytes, which is not always as far as `slow`
    if program.lane_window and steps:
        if program.vector:
            a.lane0_to_rcx()
            a.byte_swap(RCX)
            a.zero_extend8(RCX, RCX)
        else:
            a.load8(RCX, a.field(layout.LANES + 7))
        slow_pad = _go_on_if_rcx_zero(a, slow)
    elif steps or program.is_window_unit(kind):
        go_on = Label()
        a.jump_short(go_on)
        a.bind(slow_pad)
        a.jump(slow)
        a.bind(go_on)
        _emit_step(a, layout.WINDOW_LEFT, -1)
        a.jump_if_rcx_zero(slow_pad)
    for n, (i, effect) in enumerate(steps):
        if effect == Effect.BIAS_DOWN:
            continue  # checked below, for there is nothing to keep
        if n:
            a.move(RDX, RCX)
        _emit_step(a, layout.LEFT[i], -1)
        a.jump_if_rcx_zero(slow_pad)
    for i, effect in steps:
        if effect == Effect.BIAS_DOWN:
            a.load(RCX, a.field(layout.LEFT[i]))
            a.load(RDX, a.field(layout.FLOOR[i]))
            a.add_quietly(RCX, RCX, RDX)
            a.jump_if_rcx_zero(slow_pad)


def _go_on_if_rcx_zero(a: UnitAssembler, slow: Label) -> Label:
    """Go to `slow` unless rcx is 0; a label that leads there, too."""
    go_on, slow_pad = Label(), Label()
    a.jump_if_rcx_zero(go_on)
    a.bind(slow_pad)
    a.jump(slow)
    a.bind(go_on)
    return slow_pad


def _emit_changes(a: UnitAssembler, site: Site) -> None:
    """Do what the branch does in the common case."""
    program, kind = a.program, site.kind
    rising = [i for i, effect in _steps(program, kind) if effect != Effect.BIAS_DOWN]
    for i, register in zip(reversed(rising), (RCX, RDX), strict=False):
        a.store(a.field(layout.LEFT[i]), register)
    for i, effect in _steps(program, kind):
        if effect == Effect.BIAS_DOWN:
            _emit_step(a, layout.LEFT[i], 1)
            a.store(a.field(layout.LEFT[i]), RCX)
    if program.is_window_unit(kind):
        _emit_step(a, layout.WINDOW_LEFT, -1)
        a.store(a.field(layout.WINDOW_LEFT), RCX)
    if kind in program.kept_totals:
        _emit_step(a, layout.TOTALS + 8 * kind, 1)
        a.store(a.field(layout.TOTALS + 8 * kind), RCX)
    if _pops(program, kind):
        a.load8(RDX, a.field(layout.TOP))
        a.lea(RDX, Mem(-layout.STACK_ENTRY, base=RDX))
        a.store8(a.field(layout.TOP), RDX)
    if _pushes(program, kind) and site.falls_behind is not True:
        _emit_push(a, site)


def _emit_push(a: UnitAssembler, site: Site) -> None:
    """Push the address behind a call, unless that is where it goes."""
    next_instruction = Label()
    a.load_address(RDX, site.record + layout.RECORD_BEHIND)
    if site.spilled:
        a.add_quietly(RCX, RAX, RDX)
        a.jump_if_rcx_zero(next_instruction)
    elif site.falls_behind is None:
        a.load_address(RCX, site.record + layout.RECORD_TARGET)
        a.add_quietly(RCX, RCX, RDX)
        a.jump_if_rcx_zero(next_instruction)
    a.load8(RCX, a.field(layout.TOP))
    a.lea(RCX, Mem(layout.STACK_ENTRY, base=RCX))
    a.store8(a.field(layout.TOP), RCX)
    a.zero_extend8(RCX, RCX)
    a.store(a.field(layout.STACK, plus=RCX), RDX)
    a.bind(next_instruction)


def _emit_step(a: UnitAssembler, field: int, amount: int) -> None:
    """rcx: a field plus `amount`."""
    a.load(RCX, a.field(field))
    a.lea(RCX, Mem(amount, base=RCX))
