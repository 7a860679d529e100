"""The translated code of one address space: where it lies, what is in it, how blocks find each other.

Safe while other threads execute in it: new code is written where nobody is yet and then made reachable by a store of
one byte, or, in the lookup table, by a store that a thread of the program makes itself.
"""

import bisect
import struct
from typing import TYPE_CHECKING

from branchmon.events import BranchKind
from branchmon.sources.translate import area
from branchmon.sources.translate.blocks import End, Reader
from branchmon.sources.translate.emit import Block, Emitter, Leave, Special
from branchmon.sources.translate.gateway import STORE_RAX, STORE_RCX, Gateway
from branchmon.sources.translate.unitcode import Program, Routines

if TYPE_CHECKING:
    from branchmon.sources.step.space import AddressSpace
    from branchmon.sources.translate.unitcode.program import Lanes

BATCH = 16
"""Blocks that are translated at a time: the one that is asked for and those it leads to."""
REGION_SIZE = 64 << 20
_MARGIN = 64 << 10
_I32, _U64, _LANES = struct.Struct("<i"), struct.Struct("<Q"), struct.Struct("<4q")
_MASK16 = area.LOOKUP_SLOTS - 1
_CHAIN_SWITCH = 17
"""Offset in a lookup entry of the byte that switches on the jump to the next entry."""
_CHAIN_JUMP = 18
"""Offset of that jump."""


class Full(Exception):
    """A region has no room: everything has to be forgotten."""


class Region:
    """A stretch of code cache: code grows from the start, constants and records from the end.

    :ivar routines: the address of the unit's routines.
    """

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size
        self.next = base
        self.top = base + size
        self.routines = 0
        self.starts: list[int] = []
        self.blocks: list[Block] = []
        self._constants: dict[tuple[int, ...] | int, int] = {}
        self._pending: list[bytes] = []

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size

    def _put(self, data: bytes, align: int) -> int:
        top = (self.top - len(data)) & -align
        self._pending.append(data + bytes(self.top - top - len(data)))
        self.top = top
        return top

    def constant(self, lanes: "Lanes") -> int:
        """The address of 32 bytes that hold four lanes."""
        address = self._constants.get(lanes)
        if address is None:
            address = self._constants[lanes] = self._put(_LANES.pack(*lanes), 32)
        return address

    def word(self, value: int) -> int:
        """The address of 8 bytes that hold a value."""
        address = self._constants.get(value)
        if address is None:
            address = self._constants[value] = self._put(_U64.pack(value), 8)
        return address

    def record(self, data: bytes) -> int:
        """The address of a copy of a site's record."""
        return self._put(data, 8)

    def written(self) -> tuple[int, bytes]:
        """The constants and records made since the last time: where they belong."""
        data = b"".join(reversed(self._pending))
        self._pending.clear()
        return self.top, data

    def block_at(self, address: int) -> Block | None:
        """The block whose body, or the end of it, is at an address."""
        i = bisect.bisect_right(self.starts, address) - 1
        if i < 0:
            return None
        block = self.blocks[i]
        return block if address <= block.start + block.size else None


class Exit:
    """Where blocks go that lead to code which is not translated yet.

    :ivar stub: its code: a jump that a single byte switches on, and a way to the tracer.
    :ivar sites: addresses of the displacements that lead to it.
    """

    __slots__ = ("region", "sites", "stub")

    def __init__(self, region: Region, stub: int) -> None:
        self.region = region
        self.stub = stub
        self.sites: list[int] = []


class Code:
    """See the module.

    :ivar blocks: cache address of the block at each program address.
    :ivar entries: cache address of each program address's lookup entry.
    :ivar chains: the lookup entries of each slot of the lookup table, in the order in which they are tried.
    :ivar stepped: program addresses whose first instruction has to be stepped.
    :ivar syscalls: program addresses of ``syscall`` instructions that are translated.
    :ivar leaves: places that threads leave from on purpose.
    :ivar specials: places where a stopped thread's state needs some care.
    :ivar version: changes whenever anything is written.
    :ivar tables: the address of the lookup table, with the table of system calls behind it.
    :ivar free: areas of threads that are no more.
    """

    def __init__(self, space: "AddressSpace", program: Program, tables: int) -> None:
        self.space = space
        self.tables = tables
        self.regions: list[Region] = []
        self.free: list[int] = []
        self.version = 0
        self.reader = Reader(space)
        self.own: list[tuple[int, int]] = [(tables, area.TABLES_SIZE)]
        """Every mapping of ours: address and size."""
        self._clear()
        self._shape(program)

    def _clear(self) -> None:
        self.blocks: dict[int, int] = {}
        self.entries: dict[int, int] = {}
        self.leaves: dict[int, Leave] = {}
        self.specials: dict[int, Special] = {}
        self.exits: dict[tuple[int, int], Exit] = {}
        self.chains: dict[int, list[int]] = {}
        self.stepped: set[int] = set()
        self.syscalls: set[int] = set()
        self.pages: set[int] = set()

    def _shape(self, program: Program) -> None:
        self.program = program
        self.routines = Routines(program, area.SLOTS)
        self.gateway = Gateway(vector=program.vector)

    def forked(self, space: "AddressSpace") -> "Code":
        """The copy that a forked process has."""
        copy = Code.__new__(Code)
        copy.__dict__.update(self.__dict__)
        copy.space = space
        copy.reader = Reader(space)
        copy.free = list(self.free)
        copy.own = list(self.own)
        copy.regions = [_copy_region(region) for region in self.regions]
        copy.blocks, copy.entries = dict(self.blocks), dict(self.entries)
        copy.leaves, copy.specials = dict(self.leaves), dict(self.specials)
        copy.exits = {}
        regions = dict(zip(self.regions, copy.regions, strict=True))
        for key, exit_ in self.exits.items():
            made = copy.exits[key] = Exit(regions[exit_.region], exit_.stub)
            made.sites = list(exit_.sites)
        copy.chains = {slot: list(chain) for slot, chain in self.chains.items()}
        copy.stepped, copy.syscalls = set(self.stepped), set(self.syscalls)
        copy.pages = set(self.pages)
        return copy

    # ---- making ----------------------------------------------------------------------------------------------------

    def write(self, address: int, data: bytes) -> None:
        """Write to the program's memory."""
        self.version += 1
        self.space.write(address, data)

    def add_region(self, base: int, size: int) -> Region:
        """A new stretch of cache, mapped already."""
        region = Region(base, size)
        self.regions.append(region)
        self.own.append((base, size))
        if len(self.regions) == 1:
            self._write_tables()
        self._start(region)
        return region

    def _write_tables(self) -> None:
        miss = self.regions[0].base + self.gateway.miss
        self.write(self.tables, _U64.pack(miss) * area.LOOKUP_SLOTS)

    def _start(self, region: Region) -> None:
        code = self.gateway.code
        region.routines = region.base + len(code)
        region.next = (region.routines + len(self.routines.code) + 15) & ~15
        self.write(region.base, code + self.routines.code)

    def reset(self, program: Program | None = None) -> None:
        """Forget every block; no thread may be inside."""
        self._clear()
        self.reader.forget()
        if program is not None:
            self._shape(program)
        self.regions = [Region(region.base, region.size) for region in self.regions]
        for region in self.regions:
            self._start(region)
        if self.regions:
            self._write_tables()

    def covers(self, start: int, end: int) -> bool:
        """Translated code came from this range."""
        first, last = start >> 12, (end - 1) >> 12
        if last - first > len(self.pages):
            return any(first <= page <= last for page in self.pages)
        return any(page in self.pages for page in range(first, last + 1))

    def region_for(self, pc: int) -> Region | None:
        """The stretch that code at `pc` is translated into: its data must be in reach."""
        best = None
        for region in self.regions:
            distance = abs(region.base - pc)
            if distance < (1900 << 20) and (best is None or distance < abs(best.base - pc)):
                best = region
        return best

    def region_at(self, address: int) -> Region | None:
        """The stretch that a cache address is in."""
        for region in self.regions:
            if address in region:
                return region
        return None

    # ---- translating -----------------------------------------------------------------------------------------------

    def translate(self, pc: int) -> int | None:
        """Translate the block at `pc` and some that it leads to; its address in the cache.

        :returns: None if `pc` is not code that stays as it is.
        :raises Full: there is no more room.
        """
        if not self.space.lasting(pc):
            return None
        region = self.region_for(pc)
        if region is None:
            return None
        if region.top - region.next < _MARGIN:
            raise Full
        emitter = Emitter(self, region, region.next)
        self._emit(emitter, pc)
        self._resolve(emitter)
        address, data = region.written()
        if data:
            self.write(address, data)
        out = bytes(emitter.out)
        self.write(region.next, out)
        region.next = (region.next + len(out) + 15) & ~15
        for block in emitter.blocks:
            region.starts.append(block.start)
            region.blocks.append(block)
        alone = self.space.users <= 1
        for block in emitter.blocks:
            self._link(block.pc, region, alone=alone)
        if alone:
            for target, entry in emitter.entries:
                slot = self._install(target, entry)
                if slot is not None:
                    self.write(slot, _U64.pack(entry))
        return self.blocks.get(pc)

    def _emit(self, emitter: Emitter, first: int) -> None:
        blocks, region = self.blocks, emitter.region
        work = [first]
        room = BATCH
        both = BranchKind.CONDITIONAL in emitter.points
        while work and room > 0:
            pc = work.pop()
            if pc in blocks or not self._wanted(pc, region):
                continue
            while True:
                if pc in blocks or room <= 0 or not self._wanted(pc, region):
                    emitter.jump(pc)
                    break
                run = self.reader.run(pc)
                room -= 1
                emitter.block(run)
                for page in range(pc >> 12, (max(run.next - 1, pc) >> 12) + 1):
                    self.pages.add(page)
                end = run.end
                if end == End.STEP and not run.instructions:
                    self.stepped.add(pc)
                if end in (End.CUT, End.SYSCALL):
                    pc = run.next
                elif end == End.JUMP:
                    assert run.instruction is not None
                    pc = run.instruction.near_branch_target
                elif end == End.CONDITIONAL and not both:
                    assert run.instruction is not None
                    work.append(run.instruction.near_branch_target)
                    pc = run.next
                elif end in (End.CONDITIONAL, End.LOOP):
                    assert run.instruction is not None
                    work += (run.instruction.near_branch_target, run.next)
                    break
                elif end in (End.CALL, End.INDIRECT_CALL):
                    if end == End.CALL:
                        assert run.instruction is not None
                        work.append(run.instruction.near_branch_target)
                    pc = run.next
                    if pc in blocks or room <= 0 or not self._wanted(pc, region):
                        break
                    emitter.entry(pc)
                else:
                    break

    def _wanted(self, pc: int, region: Region) -> bool:
        return self.space.lasting(pc) and self.region_for(pc) is region

    def _resolve(self, emitter: Emitter) -> None:
        """Lead every jump of a batch to its block, or to an exit."""
        out, base, region = emitter.out, emitter.base, emitter.region
        for at, target in emitter.links:
            address = self.blocks.get(target)
            if address is None or address not in region:
                exit_ = self.exits.get((region.base, target))
                if exit_ is None:
                    exit_ = self.exits[region.base, target] = self._exit(emitter, target)
                exit_.sites.append(base + at)
                address = exit_.stub
            _I32.pack_into(out, at, address - (base + at + 4))

    def _exit(self, emitter: Emitter, target: int) -> Exit:
        stub = emitter.here
        if self.region_for(target) not in (emitter.region, None):  # too far for a jump
            emitter.out += STORE_RCX + STORE_RAX + b"\x48\xb8" + _U64.pack(target)
            emitter.lookup()
        else:
            emitter.out += b"\xeb\x05\xe9\0\0\0\0" + STORE_RCX
            emitter.leave("exit", target, 0)
        return Exit(emitter.region, stub)

    def _link(self, pc: int, region: Region, *, alone: bool) -> None:
        """A block has come that exits were waiting for."""
        exit_ = self.exits.pop((region.base, pc), None)
        if exit_ is None:
            return
        address = self.blocks[pc]
        if exit_.stub not in region or address not in region:
            return
        self.write(exit_.stub + 3, _I32.pack(address - (exit_.stub + 7)))
        self.write(exit_.stub + 1, b"\0")
        if alone:
            for site in exit_.sites:
                self.write(site, _I32.pack(address - (site + 4)))

    # ---- the lookup ------------------------------------------------------------------------------------------------

    def entry(self, pc: int) -> tuple[int, int | None] | None:
        """Make a target known to the lookup.

        :returns: the lookup entry and, unless that is in reach of the table already, the address of the table's slot to
            write it to; None if `pc` cannot be translated.
        :raises Full: there is no more room.
        """
        if pc not in self.blocks and self.translate(pc) is None:
            return None
        entry = self.entries.get(pc)
        if entry is None:
            entry = self._make_entry(pc)
        return entry, self._install(pc, entry)

    def _make_entry(self, pc: int) -> int:
        block = self.blocks[pc]
        region = self.region_at(block)
        assert region is not None
        if region.top - region.next < _MARGIN:
            raise Full
        emitter = Emitter(self, region, region.next)
        emitter.entry(pc)
        emitter.out += b"\xe9" + _I32.pack(block - (emitter.here + 5))
        self.write(region.next, bytes(emitter.out))
        region.next = (region.next + len(emitter.out) + 15) & ~15
        return self.entries[pc]

    def _install(self, pc: int, entry: int) -> int | None:
        """Chain an entry to those of its slot; the slot's address if it is the first of them."""
        slot = pc & _MASK16
        chain = self.chains.setdefault(slot, [])
        if entry not in chain:
            if chain:
                self._chain(chain[-1], entry)
            chain.append(entry)
        return self.tables + 8 * slot if chain[0] == entry else None

    def _chain(self, last: int, entry: int) -> None:
        region = self.region_at(last)
        assert region is not None
        word = region.word(entry)
        address, data = region.written()
        if data:
            self.write(address, data)
        self.write(last + _CHAIN_JUMP + 2, _I32.pack(word - (last + _CHAIN_JUMP + 6)))
        self.write(last + _CHAIN_SWITCH, b"\0")


def _copy_region(region: Region) -> Region:
    copy = Region.__new__(Region)
    copy.__dict__.update(region.__dict__)
    copy.starts, copy.blocks = list(region.starts), list(region.blocks)
    copy._constants = dict(region._constants)
    copy._pending = []
    return copy
