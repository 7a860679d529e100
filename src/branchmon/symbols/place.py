"""What is known of an address."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """An address, described.

    :ivar address: as asked.
    :ivar module: path of the mapped file, ``[vdso]``, ``[anon]`` (memory without a file); empty: nothing is there.
    :ivar module_address: the address as the module's own file numbers it (what ``nm`` and ``objdump`` print): the same
        in every run. In memory without a file: the distance from the mapping's start.
    :ivar build_id: the module's GNU build-id in hexadecimal; empty if it has none.
    :ivar symbol: name of the function (if stripped: of the nearest export before the address); may be empty.
    :ivar offset: bytes from the symbol's start; 0 without a symbol.
    :ivar covered: the symbol's own extent holds the address; False: it is only the nearest one before.
    :ivar file: source file from DWARF; empty if unknown or not asked for.
    :ivar line: source line, 1 and up; 0 if unknown.
    """

    address: int
    module: str = ""
    module_address: int = 0
    build_id: str = ""
    symbol: str = ""
    offset: int = 0
    covered: bool = False
    file: str = ""
    line: int = 0

    @property
    def module_name(self) -> str:
        """The module without its directory: ``libc.so.6``."""
        return os.path.basename(self.module)

    @property
    def name(self) -> str:
        """``main+0x12``, or ``prog+0x1234`` (module and its own address) without a symbol, or the bare address."""
        if self.symbol:
            return f"{self.symbol}+{self.offset:#x}" if self.offset else self.symbol
        if self.module:
            return f"{self.module_name}+{self.module_address:#x}"
        return f"{self.address:#x}"

    def __str__(self) -> str:
        """For people: ``main+0x12 (prog) at prog.c:7``."""
        text = f"{self.name} ({self.module_name})" if self.symbol and self.module else self.name
        return f"{text} at {os.path.basename(self.file)}:{self.line}" if self.file else text
