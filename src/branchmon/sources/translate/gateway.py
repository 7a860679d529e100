"""The code at the start of each code cache: how a thread leaves for the tracer, and how it comes back.

A thread leaves by stopping itself: ``tgkill(self, SIGSTOP)``, which no program can block; the tracer knows the stop by
its address and swallows it. Its registers are in its area then. Nothing here touches flags or the program's stack.

Source: ``man 2 tgkill``; the ``syscall`` instruction destroys rcx and r11, and nothing else.
"""

import signal

from branchmon.sources.translate import area
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Assembler, Label, Mem, Reg

_TGKILL = 234
RAX, RCX, RDX = Reg.RAX, Reg.RCX, Reg.RDX


def _gs(opcode: bytes, offset: int) -> bytes:
    """An instruction with the operand ``gs:[offset]``; `opcode` ends with ModRM and SIB."""
    return b"\x65" + opcode + offset.to_bytes(4, "little")


STORE_RAX = _gs(b"\x48\x89\x04\x25", area.RAX)
STORE_RCX = _gs(b"\x48\x89\x0c\x25", area.RCX)
STORE_RDX = _gs(b"\x48\x89\x14\x25", area.RDX)
LOAD_RAX = _gs(b"\x48\x8b\x04\x25", area.RAX)
LOAD_RCX = _gs(b"\x48\x8b\x0c\x25", area.RCX)
LOAD_RDX = _gs(b"\x48\x8b\x14\x25", area.RDX)
STORE_LANES = _gs(b"\x62\x61\xfe\x28\x7f\x3c\x25", area.UNIT + layout.LANES)
LOAD_LANES = _gs(b"\x62\x61\xfe\x28\x6f\x3c\x25", area.UNIT + layout.LANES)
STORE_ZMM31 = _gs(b"\x62\x61\xfe\x48\x7f\x3c\x25", area.ZMM31)
LOAD_ZMM31 = _gs(b"\x62\x61\xfe\x48\x6f\x3c\x25", area.ZMM31)


class Gateway:
    """The code, position independent, and offsets into it.

    :ivar leave_spilled: leave; rcx is the place, the program's rax, rcx and rdx are in the area.
    :ivar leave: the same, with rax and rdx still the program's.
    :ivar at_stop: a thread at this address, or at :attr:`stopped` behind it, has left.
    :ivar miss: the lookup found nothing for the target in rax; the program's rax and rcx are in the area.
    :ivar missed: the place that it leaves from then.
    :ivar enter: come back: rcx is where to, the program's rcx is in the area.
    :ivar enter_entry: come back from a miss: rcx is the address of a lookup table's entry, rax what to write there and
        where to go; TARGET is the target; the program's rax and rcx are in the area.
    :ivar syscall: a ``syscall`` instruction, for system calls in the program's name.
    """

    def __init__(self, *, vector: bool) -> None:
        a = Assembler()
        again = Label()
        self.leave = len(a.code)
        a.code += STORE_RAX + STORE_RDX
        self.leave_spilled = len(a.code)
        if vector:
            a.code += STORE_LANES + LOAD_ZMM31
        a.code += _gs(b"\x4c\x89\x1c\x25", area.R11)
        a.code += _gs(b"\x48\x89\x3c\x25", area.RDI) + _gs(b"\x48\x89\x34\x25", area.RSI)
        a.store(Mem(area.WHERE), RCX)
        a.bind(again)
        a.code += _gs(b"\x8b\x3c\x25", area.PID) + _gs(b"\x8b\x34\x25", area.TID)
        a.move_imm(RDX, signal.SIGSTOP)
        a.move_imm(RAX, _TGKILL)
        self.at_stop = len(a.code)
        a.code += b"\x0f\x05"
        self.stopped = len(a.code)
        a.jump(again)
        a.code += b"\xcc" * (-len(a.code) % 16)
        self.miss = len(a.code)
        a.store(Mem(area.TARGET), RAX)
        a.code += STORE_RDX
        missed = Label()
        a.bind(missed)
        self.missed = len(a.code)
        a.lea_label(RCX, missed)
        a.jump_address(self.leave_spilled)
        a.code += b"\xcc" * (-len(a.code) % 16)
        self.enter = len(a.code)
        if vector:
            a.code += STORE_ZMM31 + LOAD_LANES
        a.store(Mem(area.GO), RCX)
        a.code += LOAD_RCX
        a.jump_memory(Mem(area.GO))
        a.code += b"\xcc" * (-len(a.code) % 16)
        self.enter_entry = len(a.code)
        if vector:
            a.code += STORE_ZMM31 + LOAD_LANES
        a.store(Mem(0, base=RCX), RAX)
        a.move(RCX, RAX)
        a.load(RAX, Mem(area.TARGET))
        a.jump_register(RCX)
        a.code += b"\xcc" * (-len(a.code) % 16)
        self.syscall = len(a.code)
        a.code += b"\x0f\x05\xcc\xcc"
        a.code += b"\xcc" * (-len(a.code) % 16)
        self.code = bytes(a.code)
