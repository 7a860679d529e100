"""Decoding one instruction: what it is to the unit, and what a source has to know to follow it.

The one module of the sources that imports iced-x86 (about 25 ms). Callers cache what it returns by address.
"""

from typing import NamedTuple

from iced_x86 import Decoder, DecoderError, FlowControl, Instruction, Mnemonic, Register

from branchmon.events import BranchKind

LONGEST = 15
"""Bytes of the longest x86 instruction: what to read for :func:`decode`."""

# What an instruction needs of who steps or translates it: bits of Op.flags.
REP_STRING = 0x001
"""A string instruction with a rep prefix: one step is one iteration, it retires once."""
SYSCALL = 0x002
PUSHF = 0x004
POPF = 0x008
SHADOW = 0x010
"""``mov ss`` or ``pop ss``: no trap before the next instruction has executed too."""
INT3 = 0x020
"""``int3``, or ``int 3``: traps to the program's own SIGTRAP handler."""
INT1 = 0x040
IRET = 0x080
SYSENTER = 0x100
TRUNCATED = 0x200
"""The bytes end, or memory does, inside the instruction."""
INVALID = 0x400
"""Not an instruction known to the decoder, whose tables are of early 2024."""
OWN_NEXT = 0x800
"""A conditional branch to the very next instruction: only flags tell whether it was taken (:func:`taken`)."""
INT80 = 0x2000
"""``int 0x80``: a 32-bit system call."""
LOOP = 0x1000
"""``loop``, ``loope``, ``loopne``, ``jrcxz``: decided by rcx."""

PLAIN = int(BranchKind.PLAIN)
CONDITIONAL = int(BranchKind.CONDITIONAL)
_JUMP = int(BranchKind.JUMP)
_CALL = int(BranchKind.CALL)
_RETURN = int(BranchKind.RETURN)
_INDIRECT_JUMP = int(BranchKind.INDIRECT_JUMP)
_INDIRECT_CALL = int(BranchKind.INDIRECT_CALL)
_FAR = int(BranchKind.FAR)


class Op(NamedTuple):
    """One decoded instruction."""

    kind: int
    """A :class:`~branchmon.events.BranchKind` value."""
    size: int
    """Bytes, 1-15; 0 if it could not be decoded."""
    flags: int
    """The bits above."""
    target: int
    """Where a direct near branch goes when taken; 0 for everything else."""


_UNKNOWN = Op(PLAIN, 0, INVALID, 0)
_TRUNCATED = Op(PLAIN, 0, TRUNCATED, 0)
_PLAIN_BY_SIZE = tuple(Op(PLAIN, size, 0, 0) for size in range(LONGEST + 1))

_PUSHF = frozenset((Mnemonic.PUSHF, Mnemonic.PUSHFQ, Mnemonic.PUSHFD))
_POPF = frozenset((Mnemonic.POPF, Mnemonic.POPFQ, Mnemonic.POPFD))
_FAR_FLAGS = {
    Mnemonic.SYSCALL: SYSCALL,
    Mnemonic.SYSENTER: SYSENTER,
    Mnemonic.INT: 0,
    Mnemonic.INT3: INT3,
    Mnemonic.INT1: INT1,
    Mnemonic.INTO: 0,
    Mnemonic.IRET: IRET,
    Mnemonic.IRETD: IRET,
    Mnemonic.IRETQ: IRET,
    Mnemonic.RETF: 0,
    Mnemonic.SYSRET: 0,
    Mnemonic.SYSRETQ: 0,
    Mnemonic.SYSEXIT: 0,
    Mnemonic.SYSEXITQ: 0,
}


def decode(code: bytes, address: int) -> Op:
    """The instruction that `code` starts with.

    :param code: up to :data:`LONGEST` bytes as they stand at `address`; fewer where memory ends.
    """
    if not code:
        return _TRUNCATED
    decoder = Decoder(64, code, ip=address)
    instruction = decoder.decode()
    if instruction.is_invalid:
        return _TRUNCATED if decoder.last_error == DecoderError.NO_MORE_BYTES else _UNKNOWN
    return classify(instruction)


def classify(instruction: Instruction) -> Op:
    """The same for an instruction that iced-x86 has decoded already."""
    size = instruction.len
    if instruction.flow_control == FlowControl.NEXT:
        return _plain(instruction, size)
    mnemonic = instruction.mnemonic
    if instruction.is_jcc_short_or_near or instruction.is_loop or instruction.is_loopcc or instruction.is_jcx_short:
        target = instruction.near_branch_target
        flags = OWN_NEXT if target == instruction.next_ip else 0
        return Op(CONDITIONAL, size, flags if instruction.is_jcc_short_or_near else flags | LOOP, target)
    if instruction.is_jmp_short_or_near:
        return Op(_JUMP, size, 0, instruction.near_branch_target)
    if instruction.is_call_near:
        return Op(_CALL, size, 0, instruction.near_branch_target)
    if instruction.is_jmp_near_indirect:
        return Op(_INDIRECT_JUMP, size, 0, 0)
    if instruction.is_call_near_indirect:
        return Op(_INDIRECT_CALL, size, 0, 0)
    if mnemonic == Mnemonic.RET:
        return Op(_RETURN, size, 0, 0)
    if mnemonic in _FAR_FLAGS:
        flags = _FAR_FLAGS[mnemonic]
        if mnemonic == Mnemonic.INT:
            flags |= {3: INT3, 0x80: INT80}.get(instruction.immediate8, 0)
        return Op(_FAR, size, flags, 0)
    if (
        instruction.is_call_far
        or instruction.is_call_far_indirect
        or instruction.is_jmp_far
        or instruction.is_jmp_far_indirect
    ):
        return Op(_FAR, size, 0, 0)
    return _plain(instruction, size)  # ud2, xbegin, hlt and the like: no branches to the unit


def _plain(instruction: Instruction, size: int) -> Op:
    flags = 0
    mnemonic = instruction.mnemonic
    if instruction.is_string_instruction and (instruction.has_rep_prefix or instruction.has_repne_prefix):
        flags = REP_STRING
    elif mnemonic in _PUSHF:
        flags = PUSHF
    elif mnemonic in _POPF:
        flags = POPF
    elif (mnemonic == Mnemonic.MOV or mnemonic == Mnemonic.POP) and instruction.op0_register == Register.SS:
        flags = SHADOW
    return Op(PLAIN, size, flags, 0) if flags else _PLAIN_BY_SIZE[size]


_CF, _PF, _ZF, _SF, _OF = 1 << 0, 1 << 2, 1 << 6, 1 << 7, 1 << 11


def taken(code: bytes, eflags: int, rcx: int) -> bool:
    """Whether a conditional branch is taken: for those that go to the next instruction either way.

    :param code: the branch's bytes.
    :param eflags: the flags; the branch itself leaves them alone.
    :param rcx: the register's value after the branch (``loop`` has counted it down).
    """
    position = 0
    while code[position] in b"\x2e\x3e\x26\x36\x64\x65\x66\x67\xf2\xf3" or 0x40 <= code[position] <= 0x4F:
        position += 1
    opcode = code[position]
    if 0xE0 <= opcode <= 0xE3:
        count = rcx & 0xFFFFFFFF if 0x67 in code[:position] else rcx
        if opcode == 0xE3:
            return count == 0
        zero = bool(eflags & _ZF)
        return count != 0 and (opcode == 0xE2 or zero == (opcode == 0xE1))
    condition = (code[position + 1] if opcode == 0x0F else opcode) & 15
    less = bool(eflags & _SF) != bool(eflags & _OF)
    holds = (
        bool(eflags & _OF),
        bool(eflags & _CF),
        bool(eflags & _ZF),
        bool(eflags & (_CF | _ZF)),
        bool(eflags & _SF),
        bool(eflags & _PF),
        less,
        less or bool(eflags & _ZF),
    )[condition >> 1]
    return holds != bool(condition & 1)
