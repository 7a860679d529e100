"""A small x86-64 assembler: the instructions that the generated unit needs, 64-bit where a name says nothing else."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Reg(IntEnum):
    """A general register, by its number."""

    RAX = 0
    RCX = 1
    RDX = 2
    R8 = 8
    R9 = 9
    R10 = 10


class Mem(NamedTuple):
    """A memory operand: ``[base + disp]``, or ``gs:[plus * scale + disp]``."""

    disp: int
    base: Reg | None = None
    plus: Reg | None = None
    scale: int = 1


class Cond(IntEnum):
    """A condition, by the low four bits of ``jcc`` and ``setcc``."""

    B = 2
    AE = 3
    E = 4
    NE = 5
    S = 8
    NS = 9
    L = 12
    GE = 13
    LE = 14
    G = 15


class Alu(IntEnum):
    """The eight operations that share one encoding."""

    ADD = 0
    OR = 1
    ADC = 2
    AND = 4
    SUB = 5
    XOR = 6
    CMP = 7


@dataclass
class Label:
    """A place in the code; jumps to it may come before it is bound."""

    position: int | None = None
    near: list[int] = field(default_factory=list)
    short: list[int] = field(default_factory=list)


class Assembler:
    """Code that grows. `origin` is its first byte's address, for operands that are absolute addresses."""

    def __init__(self, origin: int = 0) -> None:
        self.code = bytearray()
        self.origin = origin

    @property
    def here(self) -> int:
        """The address of the next instruction."""
        return self.origin + len(self.code)

    # ---- moves -----------------------------------------------------------------------------------------------------

    def load(self, to: Reg, source: Mem) -> None:
        """``mov to, [source]``"""
        self._memory(0x8B, to, source)

    def load32(self, to: Reg, source: Mem) -> None:
        """``mov to, dword [source]``: the upper half becomes 0."""
        self._memory(0x8B, to, source, wide=False)

    def load8(self, to: Reg, source: Mem) -> None:
        """``movzx to, byte [source]``"""
        self._memory((0x0F, 0xB6), to, source, wide=False)

    def store(self, to: Mem, source: Reg) -> None:
        """``mov [to], source``"""
        self._memory(0x89, source, to)

    def store32(self, to: Mem, source: Reg) -> None:
        """``mov dword [to], source``"""
        self._memory(0x89, source, to, wide=False)

    def store8(self, to: Mem, source: Reg) -> None:
        """``mov byte [to], source``: the low byte of a register."""
        self._memory(0x88, source, to, wide=False)

    def set8(self, to: Mem, value: int) -> None:
        """``mov byte [to], value``"""
        self._memory(0xC6, 0, to, wide=False)
        self.code.append(value & 0xFF)

    def set64(self, to: Mem, value: int) -> None:
        """``mov qword [to], value``: a signed 32-bit value."""
        self._memory(0xC7, 0, to)
        self.code += value.to_bytes(4, "little", signed=True)

    def move(self, to: Reg, source: Reg) -> None:
        """``mov to, source``"""
        self._registers(0x8B, to, source)

    def move_imm(self, to: Reg, value: int) -> None:
        """``mov to, value``: an unsigned 32-bit value."""
        if to >= 8:
            self.code.append(0x41)
        self.code.append(0xB8 | to & 7)
        self.code += value.to_bytes(4, "little")

    def zero(self, register: Reg) -> None:
        """``xor register, register`` (sets flags)."""
        self._registers(0x33, register, register, wide=False)

    def lea(self, to: Reg, source: Mem) -> None:
        """``lea to, [source]``: no flags."""
        self._memory(0x8D, to, source)

    def add_quietly(self, to: Reg, a: Reg, b: Reg, plus: int = 0) -> None:
        """``lea to, [a + b + plus]``: no flags; `plus` a signed byte."""
        self.code += bytes((0x48 | to >> 3 << 2 | b >> 3 << 1 | a >> 3, 0x8D, 0x44 | (to & 7) << 3))
        self.code += bytes(((b & 7) << 3 | a & 7, plus & 0xFF))

    def lea_address(self, to: Reg, address: int) -> None:
        """``lea to, [rip + …]``: an absolute address within 2 GiB."""
        self.code += bytes((0x48 | to >> 3 << 2, 0x8D, 5 | (to & 7) << 3))
        self._relative(address)

    def load_address(self, to: Reg, address: int) -> None:
        """``mov to, [rip + …]``: from an absolute address within 2 GiB."""
        self.code += bytes((0x48 | to >> 3 << 2, 0x8B, 5 | (to & 7) << 3))
        self._relative(address)

    def lea_label(self, to: Reg, label: Label) -> None:
        """``lea to, [label]``"""
        self.code += bytes((0x48 | to >> 3 << 2, 0x8D, 5 | (to & 7) << 3))
        self._near(label)

    # ---- arithmetic ------------------------------------------------------------------------------------------------

    def alu(self, op: Alu, to: Reg, source: "Reg | Mem | int", *, wide: bool = True) -> None:
        """``op to, source``; an immediate is signed, 32 bits at most. `wide` false: 32-bit operands."""
        if isinstance(source, Mem):
            self._memory(op << 3 | 3, to, source, wide=wide)
        elif isinstance(source, Reg):
            self._registers(op << 3 | 3, to, source, wide=wide)
        else:
            short = -128 <= source < 128
            self._registers(0x83 if short else 0x81, op, to, wide=wide)
            self.code += source.to_bytes(1 if short else 4, "little", signed=True)

    def alu_memory(self, op: Alu, to: Mem, source: "Reg | int") -> None:
        """``op qword [to], source``; an immediate is a signed byte."""
        if isinstance(source, Reg):
            self._memory(op << 3 | 1, source, to)
        else:
            self._memory(0x83, op, to)
            self.code += source.to_bytes(1, "little", signed=True)

    def cmp8(self, place: Mem, value: int) -> None:
        """``cmp byte [place], value``"""
        self._memory(0x80, 7, place, wide=False)
        self.code.append(value & 0xFF)

    def add8(self, register: Reg, value: int) -> None:
        """``add register, value``: its low byte; rax, rcx or rdx."""
        self.code += bytes((0x80, 0xC0 | register, value & 0xFF))

    def zero_extend8(self, to: Reg, source: Reg) -> None:
        """``movzx to, source``: from the low byte."""
        self._registers((0x0F, 0xB6), to, source, wide=False)

    def test(self, register: Reg) -> None:
        """``test register, register``"""
        self._registers(0x85, register, register)

    def shift_right(self, register: Reg, bits: int) -> None:
        """``shr register, bits``"""
        self._registers(0xC1, 5, register)
        self.code.append(bits)

    def shift_left(self, register: Reg, bits: int) -> None:
        """``shl register, bits``"""
        self._registers(0xC1, 4, register)
        self.code.append(bits)

    def invert(self, register: Reg) -> None:
        """``not register``: no flags."""
        self._registers(0xF7, 2, register)

    def divide(self, by: Reg) -> None:
        """``div by``: rdx:rax; quotient in rax, remainder in rdx."""
        self._registers(0xF7, 6, by)

    def byte_swap(self, register: Reg) -> None:
        """``bswap register``: no flags."""
        self.code += bytes((0x48 | register >> 3, 0x0F, 0xC8 | register & 7))

    def set_if(self, condition: Cond, register: Reg) -> None:
        """``setcc register``: its low byte."""
        self._registers((0x0F, 0x90 | condition), 0, register, wide=False)

    # ---- flags and vectors -----------------------------------------------------------------------------------------

    def save_flags(self) -> None:
        """``lahf; seto al``: the arithmetic flags into ax."""
        self.code += b"\x9f\x0f\x90\xc0"

    def restore_flags(self) -> None:
        """``add al, 127; sahf``: the arithmetic flags from ax."""
        self.code += b"\x04\x7f\x9e"

    def store_lanes(self, to: Mem) -> None:
        """``vmovdqu64 gs:[to], ymm31``"""
        self.code += b"\x65\x62\x61\xfe\x28\x7f\x3c\x25" + to.disp.to_bytes(4, "little", signed=True)

    def load_lanes(self, source: Mem) -> None:
        """``vmovdqu64 ymm31, gs:[source]``"""
        self.code += b"\x65\x62\x61\xfe\x28\x6f\x3c\x25" + source.disp.to_bytes(4, "little", signed=True)

    def lane0_to_rcx(self) -> None:
        """``vmovq rcx, xmm31``"""
        self.code += b"\x62\x61\xfd\x08\x7e\xf9"

    # ---- jumps -----------------------------------------------------------------------------------------------------

    def bind(self, label: Label) -> None:
        """The label stands here."""
        position = label.position = len(self.code)
        for at in label.near:
            self.code[at : at + 4] = (position - at - 4).to_bytes(4, "little", signed=True)
        for at in label.short:
            self.code[at : at + 1] = (position - at - 1).to_bytes(1, "little", signed=True)

    def jump_if(self, condition: Cond, to: Label) -> None:
        """``jcc to``, within 2 GiB."""
        self.code += bytes((0x0F, 0x80 | condition))
        self._near(to)

    def jump(self, to: Label) -> None:
        """``jmp to``, within 2 GiB."""
        self.code.append(0xE9)
        self._near(to)

    def jump_short(self, to: Label) -> None:
        """``jmp to``, within 127 bytes."""
        self.code.append(0xEB)
        self._short(to)

    def jump_if_rcx_zero(self, to: Label) -> None:
        """``jrcxz to``, within 127 bytes: no flags."""
        self.code.append(0xE3)
        self._short(to)

    def jump_address(self, address: int) -> None:
        """``jmp``, to an absolute address within 2 GiB."""
        self.code.append(0xE9)
        self._relative(address)

    def jump_register(self, register: Reg) -> None:
        """``jmp register``"""
        self._registers(0xFF, 4, register, wide=False)

    def jump_memory(self, place: Mem) -> None:
        """``jmp [place]``"""
        self._memory(0xFF, 4, place, wide=False)

    # ---- encoding --------------------------------------------------------------------------------------------------

    def _near(self, label: Label) -> None:
        at = len(self.code)
        if label.position is None:
            label.near.append(at)
            self.code += bytes(4)
        else:
            self.code += (label.position - at - 4).to_bytes(4, "little", signed=True)

    def _short(self, label: Label) -> None:
        at = len(self.code)
        if label.position is None:
            label.short.append(at)
            self.code.append(0)
        else:
            self.code += (label.position - at - 1).to_bytes(1, "little", signed=True)

    def _relative(self, address: int) -> None:
        self.code += (address - self.here - 4).to_bytes(4, "little", signed=True)

    def _opcode(self, opcode: int | tuple[int, int]) -> bytes:
        return bytes(opcode) if isinstance(opcode, tuple) else bytes((opcode,))

    def _registers(self, opcode: int | tuple[int, int], reg: int, rm: int, *, wide: bool = True) -> None:
        rex = (0x48 if wide else 0x40) | reg >> 3 << 2 | rm >> 3
        if rex != 0x40:
            self.code.append(rex)
        self.code += self._opcode(opcode)
        self.code.append(0xC0 | (reg & 7) << 3 | rm & 7)

    def _memory(self, opcode: int | tuple[int, int], reg: int, place: Mem, *, wide: bool = True) -> None:
        """An instruction with a memory operand; without a base register it is in the thread's area (gs)."""
        if place.base is None:
            self.code.append(0x65)
        index = 0 if place.plus is None else place.plus
        base = 0 if place.base is None else place.base
        rex = (0x48 if wide else 0x40) | reg >> 3 << 2 | index >> 3 << 1 | base >> 3
        if rex != 0x40:
            self.code.append(rex)
        self.code += self._opcode(opcode)
        if place.base is not None:
            short = -128 <= place.disp < 128
            self.code.append((0x40 if short else 0x80) | (reg & 7) << 3 | base & 7)
            self.code += place.disp.to_bytes(1 if short else 4, "little", signed=True)
            return
        self.code.append(4 | (reg & 7) << 3)
        scale = {1: 0, 2: 1, 4: 2, 8: 3}[place.scale] << 6
        self.code.append(scale | (4 if place.plus is None else index & 7) << 3 | 5)
        self.code += place.disp.to_bytes(4, "little", signed=True)
