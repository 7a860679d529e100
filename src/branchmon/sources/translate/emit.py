"""Machine code for a batch of blocks.

A block in the cache is its body, copied, and behind it what its branch comes to: the block's increment of the lanes,
the branch's event point, and where it goes on. What can fault (a return's pop, a call's push, the operand of an
indirect branch) comes before the increment: so whatever has been counted has been executed.

Where a thread may be found by a signal while the program's state is not simply in its registers, `Special` says how to
make it so.
"""

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from branchmon.events import BranchKind
from branchmon.sources.translate import area
from branchmon.sources.translate.blocks import End, Run
from branchmon.sources.translate.gateway import (
    LOAD_LANES,
    LOAD_RAX,
    LOAD_RCX,
    LOAD_RDX,
    LOAD_ZMM31,
    STORE_LANES,
    STORE_RAX,
    STORE_RCX,
    STORE_RDX,
    STORE_ZMM31,
)
from branchmon.sources.translate.unitcode import layout

if TYPE_CHECKING:
    from branchmon.sources.translate.code import Code, Region
    from branchmon.sources.translate.unitcode.program import Lanes

_MASK = (1 << 64) - 1
_I32 = struct.Struct("<i")
_SPILL2 = STORE_RCX + STORE_RAX
_UNSPILL2 = LOAD_RCX + LOAD_RAX
_ADD_LANES = b"\x62\x61\x85\x20\xd4\x3d"  # vpaddq ymm31, ymm31, [rip + …]
_WRAP = STORE_LANES + LOAD_ZMM31
_UNWRAP = STORE_ZMM31 + LOAD_LANES
_PUSH_LIMIT = 1 << 31
_KINDS = {
    End.CUT: BranchKind.PLAIN,
    End.STEP: BranchKind.PLAIN,
    End.CONDITIONAL: BranchKind.CONDITIONAL,
    End.LOOP: BranchKind.CONDITIONAL,
    End.JUMP: BranchKind.JUMP,
    End.CALL: BranchKind.CALL,
    End.RETURN: BranchKind.RETURN,
    End.INDIRECT_JUMP: BranchKind.INDIRECT_JUMP,
    End.INDIRECT_CALL: BranchKind.INDIRECT_CALL,
    End.SYSCALL: BranchKind.FAR,
}
_LAHF, _SAHF = b"\x9f", b"\x9e"


class State(IntEnum):
    """How a special place's state becomes the program's."""

    SPILLED = 1
    """rax and rcx are in the area; the branch at `pc` has not executed."""
    SPILLED_RDX = 5
    """The same, with rdx in the area too."""
    SYSCALL = 2
    """At a ``syscall`` that has retired and not executed: rcx is the program's."""
    AFTER_SYSCALL = 3
    """Behind a ``syscall`` that has executed."""
    CHECKED = 4
    """A system call's number is being looked at: rcx is in the area; nothing has been counted."""


class Special(NamedTuple):
    """A place in the cache where a stopped thread needs more than its rip translated."""

    state: State
    pc: int
    """Where the program stands; for AFTER_SYSCALL the ``syscall`` itself."""
    executed: int
    """Instructions that it has executed and that are not counted in the lanes."""


class Leave(NamedTuple):
    """A place that threads leave from on purpose."""

    why: str
    """``step``: the instruction at `pc` has to be stepped; ``call``: a system call for the tracer; ``exit``: `pc` is
    not translated yet."""
    pc: int
    executed: int
    resume: int
    """Where in the cache to go on after a ``call`` that the tracer has no interest in."""


class Block(NamedTuple):
    """A translated block."""

    start: int
    """Of its body, in the cache."""
    pc: int
    size: int
    """Of its body, in the program and in the cache."""
    wrapped: bool


class Emitter:
    """Code for consecutive addresses of one region, from `base`."""

    def __init__(self, code: "Code", region: "Region", base: int) -> None:
        self.code = code
        self.region = region
        self.base = base
        self.out = bytearray()
        self.blocks: list[Block] = []
        self.links: list[tuple[int, int]] = []
        """Offsets of 32-bit displacements, and the program address each leads to."""
        self.entries: list[tuple[int, int]] = []
        """Program address and cache address of lookup entries."""
        program = code.program
        self.vector = program.vector
        self.points = program.points

    @property
    def here(self) -> int:
        """The address of the next byte."""
        return self.base + len(self.out)

    # ---- blocks ----------------------------------------------------------------------------------------------------

    def block(self, run: Run) -> None:
        """A block, except where it goes on when it falls through (CUT, CONDITIONAL, LOOP, SYSCALL, after calls)."""
        out = self.out
        entry = self.here
        if run.wrapped and self.vector:
            out += _WRAP
        start = self.here
        wrapped = run.wrapped and self.vector
        self.blocks.append(Block(start, run.pc, len(run.body), wrapped))
        self.code.blocks[run.pc] = entry
        out += run.body
        if run.relative:
            begin = len(out) - len(run.body)
            for offset in run.relative:
                at = begin + offset
                _I32.pack_into(out, at, _I32.unpack_from(out, at)[0] + run.pc - start)
        if wrapped:
            out += _UNWRAP
        _EMITTERS[run.end](self, run)

    def increment(self, run: Run, *, rcx_free: bool = False) -> None:
        """Add the block to the lanes."""
        count = run.instructions
        lanes = self.code.program.block_increment(count, _KINDS[run.end])
        self._add(lanes, rcx_free=rcx_free)

    def _add(self, lanes: "Lanes", *, rcx_free: bool = False) -> None:
        if not any(lanes):
            return
        out = self.out
        if self.vector:
            out += _ADD_LANES
            out += _I32.pack(self.region.constant(lanes) - self.here - 4)
            return
        if not rcx_free:
            out += STORE_RCX
        for i, amount in enumerate(lanes):
            if amount:
                place = (area.UNIT + layout.LANES + 8 * i).to_bytes(4, "little")
                out += b"\x65\x48\x8b\x0c\x25" + place + b"\x48\x8d\x49" + amount.to_bytes(1, "little", signed=True)
                out += b"\x65\x48\x89\x0c\x25" + place
        if not rcx_free:
            out += LOAD_RCX

    def point(
        self,
        run: Run,
        *,
        target: int = 0,
        taken: int = 1,
        spilled: bool = False,
        falls_behind: bool | None = None,
    ) -> None:
        """The branch's event point, if it has one."""
        kind = _KINDS[run.end]
        if kind not in self.points:
            return
        size = len(run.last)
        record = self.region.record(layout.record(run.next - size, size, int(kind), taken, target))
        self.out += self.code.routines.point(
            kind,
            at=self.here,
            base=self.region.routines,
            record=record,
            spilled=spilled,
            falls_behind=falls_behind,
        )

    # ---- going on --------------------------------------------------------------------------------------------------

    def jump(self, target: int) -> None:
        """Go on at a program address."""
        self.out += b"\xe9\0\0\0\0"
        self.links.append((len(self.out) - 4, target))

    def lookup(self) -> None:
        """Go on at the program address in rax; the program's rax and rcx are in the area, all else in place."""
        self.out += b"\x0f\xb7\xc8\xff\x24\xcd" + self.code.tables.to_bytes(4, "little")

    def entry(self, pc: int) -> None:
        """A lookup entry for the block that follows."""
        out = self.out
        self.entries.append((pc, self.here))
        self.code.entries[pc] = self.here
        miss = self.region.base + self.code.gateway.miss
        out += (
            b"\x48\xb9" + (-pc & _MASK).to_bytes(8, "little") + b"\x48\x8d\x0c\x01\xe3\x0d\xeb\x06\xff\x25\0\0\0\0\xe9"
        )
        out += _I32.pack(miss - self.here - 4)
        out += _UNSPILL2

    def leave(self, why: str, pc: int, executed: int, resume: int = 0) -> None:
        """Leave for the tracer with every register but rcx in place; rcx is in the area."""
        self.out += b"\x48\x8d\x0d"  # lea rcx, [rip - …]: this very instruction
        self.out += _I32.pack(-7)
        self.code.leaves[self.here - 7] = Leave(why, pc, executed, resume)
        self.out += b"\xe9"
        self.out += _I32.pack(self.region.base + self.code.gateway.leave - self.here - 4)

    def special(self, state: State, pc: int, executed: int) -> None:
        """The next instruction is a special place."""
        self.code.specials[self.here] = Special(state, pc, executed)

    # ---- the ends of blocks ----------------------------------------------------------------------------------------

    def _push(self, address: int) -> None:
        """Push a return address."""
        if address < _PUSH_LIMIT:
            self.out += b"\x68" + address.to_bytes(4, "little")
        else:
            self.out += b"\xff\x35"
            self.out += _I32.pack(self.region.word(address) - self.here - 4)

    def _cut(self, run: Run) -> None:
        self.increment(run)

    def _step(self, run: Run) -> None:
        if run.instructions:
            self.increment(run)
        self.out += STORE_RCX
        self.leave("step", run.next, 0)

    def _conditional(self, run: Run) -> None:
        instruction = run.instruction
        assert instruction is not None
        target = instruction.near_branch_target
        self.increment(run)
        opcode = run.last[-5] if len(run.last) >= 6 and run.last[-6] == 0x0F else run.last[-2]
        condition = opcode & 15
        fall = self.code.program.fallthrough_increment
        if BranchKind.CONDITIONAL not in self.points:
            self.out += bytes((0x0F, 0x80 | condition, 0, 0, 0, 0))
            self.links.append((len(self.out) - 4, target))
            if fall is not None:
                self._add(fall)
            return
        self.out += bytes((0x0F, 0x80 | condition, 0, 0, 0, 0))
        self._two_ways(run, len(self.out) - 4, target)

    def _two_ways(self, run: Run, taken_at: int, target: int) -> None:
        """Behind a conditional jump whose displacement is at `taken_at`: both ways with points, or increments."""
        fall = self.code.program.fallthrough_increment
        if fall is not None:
            self._add(fall)
        self.point(run, target=run.next, taken=0)
        self.jump(run.next)
        _I32.pack_into(self.out, taken_at, len(self.out) - taken_at - 4)
        self.point(run, target=target, taken=1)
        self.jump(target)

    def _loop(self, run: Run) -> None:
        instruction = run.instruction
        assert instruction is not None
        self.increment(run)
        self.out += run.last[:-1] + b"\x05\xe9\0\0\0\0\xe9\0\0\0\0"  # taken: over the first jump
        first, second = len(self.out) - 9, len(self.out) - 4
        _I32.pack_into(self.out, first, len(self.out) - first - 4)
        self._two_ways(run, second, instruction.near_branch_target)

    def _jump(self, run: Run) -> None:
        assert run.instruction is not None
        self.increment(run)
        self.point(run, target=run.instruction.near_branch_target)

    def _call(self, run: Run) -> None:
        assert run.instruction is not None
        target = run.instruction.near_branch_target
        self._push(run.next)
        self.increment(run)
        self.point(run, target=target, falls_behind=target == run.next)
        self.jump(target)

    def _spill(self, run: Run) -> bool:
        """Spill for a branch that goes by the lookup; True if rdx is spilled too."""
        self.out += _SPILL2
        if _KINDS[run.end] in self.points:
            self.out += STORE_RDX
            return True
        return False

    def _return(self, run: Run) -> None:
        assert run.instruction is not None
        full = self._spill(run)
        state = State.SPILLED_RDX if full else State.SPILLED
        self.special(state, run.next - len(run.last), run.instructions - 1)
        self.out += b"\x58"  # pop rax
        if run.instruction.op_count:
            self.out += b"\x48\x8d\xa4\x24" + run.instruction.immediate16.to_bytes(4, "little")
        self.increment(run, rcx_free=True)
        self._go_by_lookup(run, full)

    def _go_by_lookup(self, run: Run, full: bool) -> None:
        self.point(run, spilled=True)
        if full:
            self.out += LOAD_RDX
        self.lookup()

    def _load_operand(self, run: Run) -> None:
        """rax: where an indirect branch goes. ``jmp operand`` as ``mov rax, operand``."""
        instruction, last = run.instruction, run.last
        assert instruction is not None
        at = 0
        prefixes = bytearray()
        while last[at] in b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3":
            if last[at] in b"\x64\x67":
                prefixes.append(last[at])
            at += 1
        rex = 0x48
        if last[at] & 0xF0 == 0x40:
            rex |= last[at] & 3
            at += 1
        modrm = last[at + 1]
        self.out += prefixes + bytes((rex, 0x8B, modrm & 0xC7)) + last[at + 2 :]
        if modrm & 0xC7 == 5:
            _I32.pack_into(self.out, len(self.out) - 4, instruction.ip_rel_memory_address - self.here)

    def _indirect_jump(self, run: Run) -> None:
        full = self._spill(run)
        state = State.SPILLED_RDX if full else State.SPILLED
        self.special(state, run.next - len(run.last), run.instructions - 1)
        self._load_operand(run)
        self.increment(run, rcx_free=True)
        self._go_by_lookup(run, full)

    def _indirect_call(self, run: Run) -> None:
        full = self._spill(run)
        state = State.SPILLED_RDX if full else State.SPILLED
        self.special(state, run.next - len(run.last), run.instructions - 1)
        self._load_operand(run)
        self.special(state, run.next - len(run.last), run.instructions - 1)
        self._push(run.next)
        self.increment(run, rcx_free=True)
        self._go_by_lookup(run, full)

    def _syscall(self, run: Run) -> None:
        pc = run.next - len(run.last)
        calls = (self.code.tables + area.CALLS).to_bytes(4, "little")
        self.code.syscalls.add(pc)
        self.out += STORE_RCX
        begin = self.here
        self.out += b"\x0f\xb7\xc8\x0f\xb6\x89" + calls + b"\xe3\x0c"  # movzx ecx, ax; movzx ecx, [calls+rcx]; jrcxz
        self.leave("call", pc, run.instructions - 1, self.here + 12)
        for at in (begin, begin + 3, begin + 10):
            self.code.specials[at] = Special(State.CHECKED, pc, run.instructions - 1)
        self.special(State.CHECKED, pc, run.instructions - 1)
        self.out += LOAD_RCX
        self.increment(run)
        self.point(run, target=run.next)
        self.special(State.SYSCALL, pc, 0)
        self.out += b"\x0f\x05"
        self.special(State.AFTER_SYSCALL, pc, 0)
        self.out += b"\x48\xb9" + run.next.to_bytes(8, "little")


_EMITTERS = {
    End.CUT: Emitter._cut,
    End.STEP: Emitter._step,
    End.CONDITIONAL: Emitter._conditional,
    End.LOOP: Emitter._loop,
    End.JUMP: Emitter._jump,
    End.CALL: Emitter._call,
    End.RETURN: Emitter._return,
    End.INDIRECT_JUMP: Emitter._indirect_jump,
    End.INDIRECT_CALL: Emitter._indirect_call,
    End.SYSCALL: Emitter._syscall,
}
