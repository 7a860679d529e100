"""The program's code as blocks: straight runs of instructions, up to and with the branch that ends them."""

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from iced_x86 import Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

if TYPE_CHECKING:
    from branchmon.sources.step.space import AddressSpace

LONGEST_BLOCK = 64
"""Instructions."""
_CHUNK_BITS = 16
_LONGEST_INSTRUCTION = 15


class End(IntEnum):
    """How a block ends."""

    CUT = 0
    """It goes on with the next one."""
    STEP = 1
    """Before an instruction that has to be single-stepped."""
    CONDITIONAL = 2
    LOOP = 3
    """``loop`` and its kin, ``jrcxz``: conditionals of 8 bits' reach."""
    JUMP = 4
    CALL = 5
    RETURN = 6
    INDIRECT_JUMP = 7
    INDIRECT_CALL = 8
    SYSCALL = 9


class Run(NamedTuple):
    """One block as the program has it."""

    pc: int
    body: bytes
    """The instructions before the one that ends it."""
    instructions: int
    """Instructions, that which ends it included (where there is one: not for CUT and STEP)."""
    relative: list[int]
    """Offsets in `body` of the 32-bit displacements that are relative to rip."""
    wrapped: bool
    """It uses zmm31, or saves or loads extended state: the lanes have to be out of the way."""
    end: End
    last: bytes
    """The instruction that ends it."""
    instruction: Instruction | None
    next: int
    """The address behind it."""


class _Class(IntEnum):
    PLAIN = 0
    STEP = 1
    WRAP = 2
    EVEX = 3
    CONDITIONAL = 4
    LOOP = 5
    JUMP = 6
    CALL = 7
    RETURN = 8
    INDIRECT_JUMP = 9
    INDIRECT_CALL = 10
    SYSCALL = 11


_ENDS = {
    _Class.CONDITIONAL: End.CONDITIONAL,
    _Class.LOOP: End.LOOP,
    _Class.JUMP: End.JUMP,
    _Class.CALL: End.CALL,
    _Class.RETURN: End.RETURN,
    _Class.INDIRECT_JUMP: End.INDIRECT_JUMP,
    _Class.INDIRECT_CALL: End.INDIRECT_CALL,
    _Class.SYSCALL: End.SYSCALL,
}


def _mnemonics(names: str) -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name) for name in names.split())


_WRAP = _mnemonics("XRSTOR XRSTOR64 XRSTORS XRSTORS64 XSAVE XSAVE64 XSAVEC XSAVEC64 XSAVEOPT XSAVEOPT64")
_STEP = _mnemonics(
    "POPF POPFQ POPFD RDGSBASE WRGSBASE SWAPGS RDSSPD RDSSPQ INCSSPD INCSSPQ RSTORSSP SAVEPREVSSP SETSSBSY ENTER XSAVES"
    " XSAVES64"
)
_ZMM31 = frozenset((Register.XMM31, Register.YMM31, Register.ZMM31))
_classes: dict[int, _Class] = {}
_ADDRESS_SIZE = 0x67
_USUAL_RETURNS = frozenset((Code.RETNQ, Code.RETNQ_IMM16))
_USUAL_INDIRECT = frozenset((Code.JMP_RM64, Code.CALL_RM64))


def _class_of(instruction: Instruction) -> _Class:
    """What an instruction code is, whatever its operands."""
    found = _classify(instruction)
    _classes[instruction.code] = found
    return found


def _classify(instruction: Instruction) -> _Class:
    flow, mnemonic = instruction.flow_control, instruction.mnemonic
    if flow == FlowControl.NEXT:
        if mnemonic in _STEP:
            return _Class.STEP
        if (mnemonic == Mnemonic.MOV or mnemonic == Mnemonic.POP) and any(
            instruction.op_kind(i) == OpKind.REGISTER and Register.ES <= instruction.op_register(i) <= Register.GS
            for i in range(instruction.op_count)
        ):
            return _Class.STEP
        if mnemonic in _WRAP:
            return _Class.WRAP
        return _Class.PLAIN
    if instruction.is_jcc_short_or_near:
        return _Class.CONDITIONAL
    if instruction.is_loop or instruction.is_loopcc or instruction.is_jcx_short:
        return _Class.LOOP
    if instruction.is_jmp_short_or_near:
        return _Class.JUMP
    if instruction.is_call_near:
        return _Class.CALL
    if instruction.is_jmp_near_indirect:
        return _Class.INDIRECT_JUMP
    if instruction.is_call_near_indirect:
        return _Class.INDIRECT_CALL
    if mnemonic == Mnemonic.RET:
        return _Class.RETURN
    if mnemonic == Mnemonic.SYSCALL:
        return _Class.SYSCALL
    return _Class.STEP


class Reader:
    """Decodes the code of an address space, which it reads in chunks."""

    def __init__(self, space: "AddressSpace") -> None:
        self._space = space
        self._chunks: dict[int, tuple[int, bytes, Decoder]] = {}

    def forget(self) -> None:
        """The code may have changed."""
        self._chunks.clear()

    def _chunk(self, pc: int) -> tuple[int, bytes, Decoder]:
        number = pc >> _CHUNK_BITS
        found = self._chunks.get(number)
        if found is not None and found[0] <= pc:
            return found
        start, end = number << _CHUNK_BITS, (number + 1) << _CHUNK_BITS
        mapping = self._space.mapping_at(pc)
        if mapping is not None:
            start, end = max(start, mapping.start), min(end + _LONGEST_INSTRUCTION, mapping.end)
        data = self._space.read(start, end - start)
        chunk = self._chunks[number] = (start, data, Decoder(64, data, ip=start))
        return chunk

    def count(self, start: int, end: int) -> int:
        """Instructions of a block from `start` up to `end`."""
        if start == end:
            return 0
        first, _, decoder = self._chunk(start)
        decoder.position = start - first
        decoder.ip = start
        count, at = 0, start
        while at < end:
            at = decoder.decode().next_ip
            count += 1
        return count

    def run(self, pc: int, limit: int = LONGEST_BLOCK) -> Run:
        """The block at an address where code stands."""
        start, data, decoder = self._chunk(pc)
        begin = pc - start
        if not 0 <= begin < len(data):
            return Run(pc, b"", 0, [], False, End.STEP, b"", None, pc)
        decoder.position = begin
        decoder.ip = pc
        relative: list[int] = []
        wrapped = False
        count, at = 0, pc
        classes = _classes
        while True:
            instruction = decoder.decode()
            kind = classes.get(instruction.code)
            if kind is None:
                kind = _class_of(instruction)
            if kind > _Class.EVEX or kind == _Class.STEP:
                break
            if instruction.memory_segment == Register.GS and instruction.has_segment_prefix:
                kind = _Class.STEP
                break
            if instruction.is_ip_rel_memory_operand:
                if instruction.memory_base != Register.RIP:
                    kind = _Class.STEP
                    break
                relative.append(at - pc + decoder.get_constant_offsets(instruction).displacement_offset)
            if kind == _Class.WRAP or (data[at - start] == 0x62 and _uses_zmm31(instruction)):
                wrapped = True
            count += 1
            at = instruction.next_ip
            if count >= limit:
                return Run(pc, data[begin : at - start], count, relative, wrapped, End.CUT, b"", None, at)
        body, last = data[begin : at - start], data[at - start : instruction.next_ip - start]
        end = _ENDS.get(kind, End.STEP)
        if end == End.STEP or _is_odd(instruction, kind, last):
            return Run(pc, body, count, relative, wrapped, End.STEP, b"", None, at)
        return Run(pc, body, count + 1, relative, wrapped, end, last, instruction, instruction.next_ip)


def _uses_zmm31(instruction: Instruction) -> bool:
    return instruction.memory_index in _ZMM31 or any(
        instruction.op_kind(i) == OpKind.REGISTER and instruction.op_register(i) in _ZMM31
        for i in range(instruction.op_count)
    )


def _is_odd(instruction: Instruction, kind: _Class, last: bytes) -> bool:
    """A branch that compilers do not make: with an operand size of 16 bits, say. It is stepped."""
    if kind == _Class.SYSCALL:
        return len(last) != 2
    if kind == _Class.RETURN:
        return instruction.code not in _USUAL_RETURNS
    if kind in (_Class.INDIRECT_JUMP, _Class.INDIRECT_CALL):
        if instruction.memory_segment == Register.GS and instruction.has_segment_prefix:
            return True
        if instruction.is_ip_rel_memory_operand and instruction.memory_base != Register.RIP:
            return True
        return instruction.code not in _USUAL_INDIRECT
    if instruction.op0_kind != OpKind.NEAR_BRANCH64:
        return True
    if kind == _Class.LOOP:
        return len(last) != (3 if last[0] == _ADDRESS_SIZE else 2)
    return False
