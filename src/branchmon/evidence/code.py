"""The machine code around the branches of a trip: which call stands before an address, how long a gadget is."""

from collections.abc import Callable

from iced_x86 import Decoder, Formatter, FormatterSyntax

from branchmon.events import BranchKind
from branchmon.sources.decode import LONGEST, classify, decode
from branchmon.symbols import Symbolizer

_LONGEST_CALL = 9  # FF /2 with SIB and disp32 is 7 bytes; a REX and a notrack or bnd prefix
_LONGEST_FUNCTION = 1 << 18
_SIGRETURN = bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05")
"""``mov rax, 15; syscall`` in the encodings of glibc and musl."""


class Code:
    """Reads and decodes the code of one stopped process; what it decoded is kept as long as the object lives.

    :param read: memory as the program sees it.
    :param symbolizer: knows the functions.
    """

    def __init__(self, read: Callable[[int, int], bytes], symbolizer: Symbolizer) -> None:
        self._read = read
        self.symbolizer = symbolizer
        self._listings: dict[tuple[int, int], frozenset[int]] = {}
        self._formatter: Formatter | None = None

    def preceded_by_call(self, address: int) -> bool:
        """Bytes that read as a near call end exactly at `address`: a return may come back here."""
        before = self._read(address - _LONGEST_CALL, _LONGEST_CALL)
        if len(before) < _LONGEST_CALL:
            before = self._read_back(address)
        for size in range(2, len(before) + 1):
            op = decode(before[-size:], address - size)
            if op.size == size and op.kind in (BranchKind.CALL, BranchKind.INDIRECT_CALL):
                return True
        return False

    def _read_back(self, address: int) -> bytes:
        """What is mapped of the bytes before `address`."""
        for size in range(_LONGEST_CALL - 1, 0, -1):
            data = self._read(address - size, size)
            if len(data) == size:
                return data
        return b""

    def is_sigreturn(self, address: int) -> bool:
        """The C library's way out of a signal handler stands at `address`: handlers return here without a call."""
        return self._read(address, 9).startswith(_SIGRETURN)

    def starts_an_instruction(self, address: int) -> bool | None:
        """Whether an instruction of the function's own listing starts at `address`; None: no symbol."""
        function = self.symbolizer.function(address)
        if function is None or function[1] - function[0] > _LONGEST_FUNCTION:
            return None
        listing = self._listings.get(function)
        if listing is None:
            data = self._read(function[0], function[1] - function[0])
            listing = self._listings[function] = frozenset(i.ip for i in Decoder(64, data, ip=function[0]))
        return address in listing

    def instructions(self, start: int, end: int, limit: int) -> int | None:
        """Instructions from `start` through the one at `end`, straight on; None: above `limit`, or they do not meet."""
        if not start <= end < start + limit * LONGEST:
            return None
        data = self._read(start, end - start + LONGEST)
        for count, instruction in enumerate(Decoder(64, data, ip=start), 1):
            if instruction.ip >= end or count > limit:
                return count if instruction.ip == end and count <= limit else None
        return None

    def text(self, address: int) -> str:
        """The instruction at `address` in Intel syntax; ``(bad)`` if there is none."""
        data = self._read(address, LONGEST)
        instruction = Decoder(64, data, ip=address).decode() if data else None
        if instruction is None or instruction.is_invalid:
            return "(bad)"
        if self._formatter is None:
            self._formatter = Formatter(FormatterSyntax.INTEL)
            self._formatter.hex_prefix, self._formatter.hex_suffix = "0x", ""
            self._formatter.space_after_operand_separator = True
        return self._formatter.format(instruction)

    def size(self, address: int) -> int:
        """Bytes of the instruction at `address`; 0 if there is none."""
        return decode(self._read(address, LONGEST), address).size

    def kind(self, address: int) -> int:
        """What the instruction at `address` is: a :class:`~branchmon.events.BranchKind` value."""
        data = self._read(address, LONGEST)
        return classify(Decoder(64, data, ip=address).decode()).kind if data else int(BranchKind.PLAIN)
