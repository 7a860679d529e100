"""What stands where: a thread's area behind %gs, and the tables that all threads of a process share.

Nothing of it is shared with the tracer or with other processes: all of our memory in a program is private and
anonymous, so that a forked child has a copy of its own, and the tracer reads and writes it through ``/proc/PID/mem``.
"""

from branchmon.sources.translate.unitcode import Slots, layout

# Offsets from a thread's %gs, in bytes.
RAX, RCX, RDX = 0, 8, 16
"""The program's registers where the code cache needs some of its own."""
R11, RDI, RSI = 24, 32, 40
WHERE = 48
"""The address in the cache that the thread left from."""
PID, TID = 56, 60
"""32 bits each: whom to stop when it leaves."""
ZMM31 = 64
"""The program's zmm31, while the lanes are in the register."""
GO = 128
"""Where to go on in the cache."""
TARGET = 136
"""Where a return or an indirect branch goes."""
SAVED = 144
"""Bytes from here on are not touched by the gateway."""
UNIT = 192
"""The unit's block."""

SLOTS = Slots(UNIT, RAX, RCX, RDX)
AREA_SIZE = (UNIT + layout.SIZE + 4095) & ~4095
RING_ROWS = 8192
RING_SIZE = RING_ROWS * layout.RING_ROW
"""Of a thread's recording ring, which stands behind its area."""

# The shared tables, below 2 GiB so that code reaches them by an absolute 32-bit address.
LOOKUP_SLOTS = 65536
"""Entries of the lookup table: by the low 16 bits of a target's address, where in the cache to ask for it."""
LOOKUP_SIZE = LOOKUP_SLOTS * 8
CALLS_SIZE = 65536
"""A byte for each system call number (its low 16 bits): not 0 where the tracer carries it out."""
CALLS = LOOKUP_SIZE
TABLES_SIZE = LOOKUP_SIZE + CALLS_SIZE
