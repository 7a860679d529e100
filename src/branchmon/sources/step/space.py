"""An address space as the stepper sees it: decoded instructions by address, forgotten when code may have changed."""

import os
import struct
from typing import TYPE_CHECKING

from branchmon.sources.base import Mapping
from branchmon.sources.context import open_memory, read_memory, write_memory
from branchmon.sources.decode import LONGEST, Op, decode
from branchmon.sources.maps import VSYSCALL, executable, read_mappings

if TYPE_CHECKING:
    from branchmon.sources.translate.code import Code


class AddressSpace:
    """Shared by the tasks that share memory (threads, vfork children).

    :ivar ops: decoded instructions by address: look here first, then ask :meth:`op`. Instructions in pages that can be
        written while they can be executed, here or through another mapping, are never in it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.users = 0
        """How many tasks use it."""
        self.ops: dict[int, Op] = {}
        self._by_bytes: dict[tuple[int, bytes], Op] = {}
        self._stale = True
        self._executable: list[Mapping] = []
        self._volatile: list[tuple[int, int]] = []
        self._memory: int | None = None
        self.code: Code | None = None
        """Its translated code, if it has any."""
        self.syscall_at = 0
        """Address of a ``syscall`` instruction, once somebody has looked for one."""

    def forked(self, pid: int) -> "AddressSpace":
        """The copy that a forked process starts with."""
        copy = AddressSpace(pid)
        copy.ops = dict(self.ops)
        copy._stale = self._stale
        copy._executable = self._executable
        copy._volatile = self._volatile
        copy.syscall_at = self.syscall_at
        return copy

    def op(self, address: int) -> Op:
        """The instruction at an address, decoded now."""
        if self._stale:
            self.refresh()
        code = self.read(address, LONGEST)
        if any(start <= address < end for start, end in self._volatile):
            op = self._by_bytes.get((address, code))
            if op is None:
                op = self._by_bytes[address, code] = decode(code, address)
            return op
        op = self.ops[address] = decode(code, address)
        return op

    # ---- what changes code -----------------------------------------------------------------------------------------

    def forget(self) -> None:
        """The code may have changed anywhere."""
        self.ops.clear()
        self._by_bytes.clear()
        self._stale = True

    def changed(self, start: int, length: int, *, executable: bool) -> bool:
        """Mappings in a range were made, removed or reprotected; True if that touches code.

        :param executable: code may run there now.
        """
        end = start + length
        if any(mapping.start < end and start < mapping.end for mapping in self._executable):
            self.forget()
            return True
        if executable:
            self._stale = True
        return executable

    def refresh(self) -> list[Mapping]:
        """Read the mappings anew; the executable ones."""
        self._executable = executable(read_mappings(self.pid))
        self._volatile = [
            (mapping.start, mapping.end)
            for mapping in self._executable
            if "w" in mapping.permissions or "s" in mapping.permissions
        ]
        self._stale = False
        return self._executable

    def mapping_at(self, address: int) -> Mapping | None:
        """The executable mapping that an address is in."""
        if self._stale:
            self.refresh()
        for mapping in self._executable:
            if mapping.start <= address < mapping.end:
                return mapping
        return None

    def lasting(self, address: int) -> bool:
        """Code that nobody can write stands at an address."""
        mapping = self.mapping_at(address)
        return (
            mapping is not None
            and "w" not in mapping.permissions
            and "s" not in mapping.permissions
            and mapping.start < VSYSCALL
        )

    def is_code(self, start: int, length: int) -> bool:
        """A range touches an executable mapping."""
        if self._stale:
            self.refresh()
        return any(mapping.start < start + length and start < mapping.end for mapping in self._executable)

    def write(self, address: int, data: bytes) -> None:
        """Write memory, read-only pages too."""
        write_memory(self.memory(), address, data)

    # ---- memory ----------------------------------------------------------------------------------------------------

    def memory(self) -> int:
        """A descriptor of its memory."""
        if self._memory is None:
            self._memory = open_memory(self.pid)
        return self._memory

    def read(self, address: int, size: int) -> bytes:
        """Memory as far as it is mapped; empty if the process is gone."""
        try:
            return read_memory(self.memory(), address, size)
        except OSError:
            return b""

    def read_u64(self, address: int) -> int:
        """Eight bytes as a number; 0 if they are not mapped."""
        data = self.read(address, 8)
        value: int = struct.unpack("<Q", data)[0] if len(data) == 8 else 0
        return value

    def set_bits(self, address: int, bits: int, *, to: bool) -> None:
        """Set or clear bits of one byte."""
        byte = self.read(address, 1)
        if byte:
            value = byte[0] | bits if to else byte[0] & ~bits
            if value != byte[0]:
                write_memory(self.memory(), address, bytes([value]))

    def left(self) -> None:
        """A task uses it no more; the last one closes it."""
        self.users -= 1
        if self.users <= 0 and self._memory is not None:
            os.close(self._memory)
            self._memory = None
