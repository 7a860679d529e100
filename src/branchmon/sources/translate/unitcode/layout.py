"""The unit's block in a thread's area: what stands at which offset, and the records that points refer to.

All offsets are from the start of the block, in bytes; fields are 8 bytes, little endian, unless said otherwise.
"""

import struct
from typing import NamedTuple

from branchmon.device.lbr import LBR_DEPTH
from branchmon.device.predictor import DIRECTIONS, RETURN_STACK, TARGETS


class Slots(NamedTuple):
    """Offsets from %gs: of the unit's block, and of the slots for the program's rax, rcx, rdx at an event point."""

    unit: int
    rax: int
    rcx: int
    rdx: int


LANES = 0
"""Four lanes; lane 0 counts down what is left of the window (or, for windows of other classes, just down)."""
BASE = 32
"""Lane 0 plus what has gone from it since the program began: BASE - lane 0 is a total."""
WINDOWS = 40
"""Windows that ended without a trip, as ``state[WINDOWS]``."""
WINDOW_LEFT = 48
"""What is left of a window of returns or indirect branches."""
WINDOW_SIZE = 56
"""The window's size, at least 1."""
FROZEN_WINDOW = 64
"""CountWindow at a trip while EVENT is set."""
LEFT = (72, 80)
"""LIMIT - count, for each counter."""
LIMIT = (88, 96)
"""The count at which something rare happens: a trip or a new highest count."""
THRESHOLD = (104, 112)
HIGHEST = (120, 128)
TRIPS = 136
"""Trips without a stop since the load: all, and by counter."""
COUNTER_TRIPS = (144, 152)
IP = 160
"""Address of the last branch of an event point."""
TARGET = 168
CONTINUE = 176
FLAGS = 184
SAVED = (192, 200, 208, 392)
"""r8, r9, r10 while a routine runs, and rdx within it."""
EXIT_HOOK = 216
REASON = 224
RING_NEXT = 232
RING_END = 240
RING_LAST = 248
"""Instructions retired up to and with the last branch recorded."""
# One byte each:
EVENT = 256
LBRS_VALID = 257
HIT = (258, 259)
ON_TRIP = 260
"""What a trip does: one of the ON_TRIP_ values below."""
TOP = 262
"""16 times the index of the return stack's newest entry."""
FREEZES_LBR = 263
LBR_NEXT = 264
"""Byte offset in the LBR ring of the record to be written next."""
OUTCOMES = 272
PATH = 280
LBR_COUNT = 288
"""Records ever written."""
TRIP_KIND = 296
"""One byte: the kind of the branch that tripped while EVENT is set; NO_TRIP_KIND if EVENT was set at the load."""
TOTALS = 304
"""Ten totals as in ``Unit.totals``; which of them are kept here is the program's choice."""
FLOOR = (400, 408)
"""-(LIMIT + 128), for each counter: LEFT + FLOOR is 0 where a bias can fall no further."""
LBR = 448
LBR_RECORD = 24
"""Bytes of a last-branch record: source, target, mispredicted (bit 0) and kind (from bit 8)."""
STACK = LBR + LBR_DEPTH * LBR_RECORD
STACK_ENTRY = 16
"""Stride of the return stack's entries: so the index wraps in a byte. An entry is the negated address."""
TARGET_CACHE = STACK + RETURN_STACK * STACK_ENTRY
DIRECTION_COUNTERS = TARGET_CACHE + 8 * TARGETS
"""One byte each."""
END = DIRECTION_COUNTERS + DIRECTIONS
SIZE = (END + 63) & ~63
SIZE_WITHOUT_PREDICTOR = STACK

ON_TRIP_RESTART = 0
"""Count it and write STATUS 0."""
ON_TRIP_FREEZE = 1
"""Set EVENT and stand still."""
ON_TRIP_STOP = 2
"""Set EVENT and leave for the tracer."""

NO_TRIP_KIND = 0xFF

FAR_AWAY = 1 << 55
"""More than any program retires; its top byte is 0, as short cuts at event points need it."""

REASON_TRIP = 1
REASON_RING = 2

# A site's record:
RECORD_SOURCE = 0
RECORD_TARGET = 8
"""Where a direct branch of this record goes on; unused at ``spilled`` points."""
RECORD_BEHIND = 16
"""Minus the address behind the branch."""
RECORD_SIZE_OF_BRANCH = 24
RECORD_KIND = 25
RECORD_TAKEN = 26
RECORD_SIZE = 32
RECORD_ADDRESSES = ((RECORD_SOURCE, 1), (RECORD_TARGET, 1), (RECORD_BEHIND, -1))
"""Offsets in a record, and the sign with which a module's load address is added to it."""

RING_ROW = 24
RING_DTYPE = {
    "names": ["source", "target", "gap", "size", "kind", "taken"],
    "formats": ["<u8", "<u8", "<u4", "u1", "u1", "u1"],
    "offsets": [0, 8, 16, 20, 21, 22],
    "itemsize": RING_ROW,
}
"""A row of the recording ring, for ``numpy.dtype``: fields as in :class:`branchmon.events.Branch`."""

_RECORD = struct.Struct("<QQQBBB5x")
_MASK = (1 << 64) - 1


def record(source: int, size: int, kind: int, taken: int = 1, target: int = 0) -> bytes:
    """A site's record: fields as in :class:`branchmon.events.Branch`; `target` for direct branches only."""
    return _RECORD.pack(source, target, -(source + size) & _MASK, size, kind, taken)
