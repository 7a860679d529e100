"""Between a :class:`~branchmon.device.unit.Unit` and the block in which generated code keeps it."""

import struct
from collections.abc import MutableSequence
from typing import NamedTuple

from branchmon.device import counters as c
from branchmon.device import predictor as p
from branchmon.device import unit as u
from branchmon.device.lbr import LBR_DEPTH, LastBranch
from branchmon.device.unit import Unit
from branchmon.events import BmEvent, BranchKind, WindowClass
from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.program import Counter, Family, Program

_LBR_RECORD = struct.Struct("<QQQ")
_MASK = (1 << 64) - 1
_BRANCH_TOTALS = tuple(int(kind) for kind in BranchKind if kind != BranchKind.PLAIN)


class Stored(NamedTuple):
    """What a block tells beside the unit's own state."""

    trips: int
    """Trips without a stop since the load."""
    counter_trips: tuple[int, int]
    """Those of them that hit each counter: for ``Task.count_trips``."""
    gap: int
    """Instructions since the last branch that was recorded; give it to the next load."""
    reason: int
    """Bits ``REASON_*`` if the thread has left for the tracer."""


class _Block:
    """A block's bytes with typed access."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def put(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self.data, at, value & _MASK)

    def get(self, at: int) -> int:
        """A signed field."""
        value: int = struct.unpack_from("<q", self.data, at)[0]
        return value


def size(program: Program) -> int:
    """Bytes of the block that this program uses: the predictor's tables are last."""
    return layout.SIZE if program.families else layout.SIZE_WITHOUT_PREDICTOR


def load(
    program: Program, unit: Unit, *, stops: bool, exit_hook: int = 0, ring: tuple[int, int] = (0, 0), gap: int = 0
) -> bytes:
    """The block for a unit that is settled (:meth:`Program.unsettled`).

    :param stops: a trip leaves for the tracer; otherwise it is counted and the unit restarts.
    :param exit_hook: where to jump to leave.
    :param ring: first address and end of the recording ring; 0 where nothing is recorded.
    :param gap: instructions that retired since the last recorded branch, as :class:`Stored` has it.
    """
    if not unit.monitoring:
        return idle(program)
    block = _Block(bytearray(size(program)))
    s = unit.state
    _load_window(program, unit, block)
    for i, base in enumerate(c.COUNTERS):
        count, highest, threshold = s[base + c.COUNT], s[base + c.HIGHEST], s[base + c.THRESHOLD]
        limit = min(max(highest, count) + 1, threshold)
        block.put(layout.LIMIT[i], limit)
        block.put(layout.LEFT[i], limit - count)
        block.put(layout.FLOOR[i], c.BIAS_MIN - limit)
        block.put(layout.THRESHOLD[i], threshold)
        block.put(layout.HIGHEST[i], highest)
        block.data[layout.HIT[i]] = s[base + c.HIT]
    block.put(layout.EXIT_HOOK, exit_hook)
    block.put(layout.IP, unit.ip)
    block.put(layout.RING_NEXT, ring[0])
    block.put(layout.RING_END, ring[1])
    block.put(layout.RING_LAST, unit.totals[u.INSTRUCTIONS] - gap)
    data = block.data
    data[layout.EVENT] = s[c.EVENT]
    data[layout.LBRS_VALID] = s[c.LBRS_VALID]
    data[layout.FREEZES_LBR] = s[c.FREEZE_LBR]
    data[layout.TRIP_KIND] = layout.NO_TRIP_KIND
    if not s[c.EXCEPT] or unit.pmi is None:
        data[layout.ON_TRIP] = layout.ON_TRIP_FREEZE
    else:
        data[layout.ON_TRIP] = layout.ON_TRIP_STOP if stops else layout.ON_TRIP_RESTART
    for i, total in enumerate(unit.totals):
        block.put(layout.TOTALS + 8 * i, total)
    if program.lbr:
        records = unit.lbr.read()
        for i, last in enumerate(records):
            word = last.mispredicted | last.kind << 8
            _LBR_RECORD.pack_into(data, layout.LBR + i * layout.LBR_RECORD, last.source, last.target, word)
        block.put(layout.LBR_COUNT, len(records))
        block.put(layout.LBR_NEXT, len(records) % LBR_DEPTH * layout.LBR_RECORD)
    _load_predictor(program, unit.predictor, block)
    return bytes(data)


def _load_window(program: Program, unit: Unit, block: _Block) -> None:
    s, totals = unit.state, unit.totals
    window_size = max(1, s[c.WINDOW_SIZE])
    left = window_size - s[c.WINDOW]
    block.put(layout.WINDOW_SIZE, window_size)
    block.put(layout.WINDOW_LEFT, left)
    block.put(layout.WINDOWS, s[c.WINDOWS])
    block.put(layout.FROZEN_WINDOW, s[c.WINDOW])
    lane0 = left
    if s[c.EVENT]:
        # Nothing must look like the common case to the short cuts at event points.
        lane0 = -layout.FAR_AWAY
        block.put(layout.WINDOW_LEFT, 1)
    if program.window == WindowClass.BRANCHES:
        gone = sum(totals[kind] for kind in _BRANCH_TOTALS)
        lanes = (totals[u.INSTRUCTIONS], totals[BranchKind.CONDITIONAL], totals[_last_total(program)])
    else:
        gone = totals[u.INSTRUCTIONS]
        lanes = (totals[BranchKind.CONDITIONAL], totals[BranchKind.JUMP], totals[_last_total(program)])
    for i, value in enumerate((lane0, *lanes)):
        block.put(layout.LANES + 8 * i, value)
    block.put(layout.BASE, lane0 + gone)


def _last_total(program: Program) -> int:
    """The total that the last lane counts."""
    if program.lane_for_not_taken:
        return u.NOT_TAKEN
    return int(BranchKind.JUMP if program.window == WindowClass.BRANCHES else BranchKind.CALL)


def _load_predictor(program: Program, predictor: MutableSequence[int], block: _Block) -> None:
    data = block.data
    if Family.RETURNS in program.families:
        data[layout.TOP] = predictor[p.TOP] * layout.STACK_ENTRY
        for i in range(p.RETURN_STACK):
            block.put(layout.STACK + i * layout.STACK_ENTRY, -int(predictor[p.STACK + i]))
    if Family.TARGETS in program.families:
        block.put(layout.PATH, predictor[p.PATH])
        targets = predictor[p.TARGET_CACHE : p.TARGET_CACHE + p.TARGETS]
        struct.pack_into(f"<{p.TARGETS}Q", data, layout.TARGET_CACHE, *(int(each) & _MASK for each in targets))
    if Family.DIRECTIONS in program.families:
        block.put(layout.OUTCOMES, predictor[p.OUTCOMES])
        directions = predictor[p.DIRECTION_COUNTERS : p.DIRECTION_COUNTERS + p.DIRECTIONS]
        data[layout.DIRECTION_COUNTERS : layout.DIRECTION_COUNTERS + p.DIRECTIONS] = bytes(directions)


def idle(program: Program) -> bytes:
    """A block with which the program's code runs, counts nothing that anyone reads, and never leaves."""
    block = _Block(bytearray(size(program)))
    for at in (layout.LANES, layout.WINDOW_LEFT, layout.WINDOW_SIZE, *layout.THRESHOLD, *layout.LIMIT, *layout.LEFT):
        block.put(at, layout.FAR_AWAY)
    return bytes(block.data)


def store(program: Program, block: bytes, unit: Unit, lanes: bytes | None = None) -> Stored:
    """Bring a unit up to date from the block of a thread that stands between two instructions.

    :param block: at least :func:`size` bytes.
    :param lanes: the 32 bytes of ymm31 where the block's copy of the lanes is stale.

    Only the totals in :attr:`Program.exact_totals` are written. Harmless when repeated.
    """
    b = _Block(bytearray(block[: size(program)]))
    if lanes is not None:
        b.data[layout.LANES : layout.LANES + 32] = lanes
    before = unit.totals[u.INSTRUCTIONS]
    instructions = _store_totals(program, b, unit)
    trips = b.get(layout.TRIPS)
    _store_state(program, b, unit, trips)
    unit.ip = b.get(layout.IP) & _MASK
    if program.lbr:
        count = b.get(layout.LBR_COUNT)
        first = count % LBR_DEPTH if count > LBR_DEPTH else 0
        order = ((first + i) % LBR_DEPTH for i in range(min(count, LBR_DEPTH)))
        unit.lbr.load([_last_branch(b.data, i) for i in order])
    _store_predictor(program, unit.predictor, b)
    if instructions != before and not unit.predicting:
        unit.unpredicted()
    counter_trips = (b.get(layout.COUNTER_TRIPS[0]), b.get(layout.COUNTER_TRIPS[1]))
    gap = instructions - b.get(layout.RING_LAST) if program.recording else 0
    return Stored(trips, counter_trips, gap, b.get(layout.REASON))


def _store_totals(program: Program, b: _Block, unit: Unit) -> int:
    """Write the exact totals; all instructions so far."""
    gone = b.get(layout.BASE) - b.get(layout.LANES)
    first, second, third = (b.get(layout.LANES + 8 * i) for i in (1, 2, 3))
    totals = [b.get(layout.TOTALS + 8 * i) for i in range(u.TOTALS_SIZE)]
    totals[_last_total(program)] = third
    if program.window == WindowClass.BRANCHES:
        instructions = totals[u.INSTRUCTIONS] = first
        totals[BranchKind.CONDITIONAL] = second
        derived = BranchKind.JUMP if program.lane_for_not_taken else BranchKind.CALL
        totals[derived] = gone - sum(totals[kind] for kind in _BRANCH_TOTALS if kind != derived)
    else:
        instructions = totals[u.INSTRUCTIONS] = gone
        totals[BranchKind.CONDITIONAL], totals[BranchKind.JUMP] = first, second
    for i in program.exact_totals:
        unit.totals[i] = totals[i]
    return instructions


def _store_state(program: Program, b: _Block, unit: Unit, trips: int) -> None:
    s, data = unit.state, b.data
    windows = b.get(layout.WINDOWS)
    window_size = b.get(layout.WINDOW_SIZE)
    frozen = data[layout.EVENT]
    ended = 0
    if frozen:
        window = _frozen_window(b, unit)
    elif program.lane_window:
        left = b.get(layout.LANES)
        if left <= 0:  # windows that ended since the last event point
            ended, window = 1 + -left // window_size, -left % window_size
        else:
            window = window_size - left
    else:
        window = window_size - b.get(layout.WINDOW_LEFT)
    restarted = bool(trips) or windows + ended != s[c.WINDOWS]
    for i, (base, counter) in enumerate(zip(c.COUNTERS, program.counters, strict=True)):
        if counter is None:
            if trips or (restarted and _clears(s, base)):
                s[base + c.COUNT] = 0
            if trips:
                s[base + c.HIT] = 0
            continue
        count = b.get(layout.LIMIT[i]) - b.get(layout.LEFT[i])
        s[base + c.COUNT] = 0 if ended and counter.clears_with_window else count
        s[base + c.HIGHEST] = b.get(layout.HIGHEST[i])
        s[base + c.HIT] = data[layout.HIT[i]]
    s[c.WINDOW], s[c.WINDOWS] = window, windows + ended
    s[c.EVENT] = frozen
    s[c.LBRS_VALID] = data[layout.LBRS_VALID]


def _frozen_window(b: _Block, unit: Unit) -> int:
    """CountWindow of a tripped unit."""
    s, kind = unit.state, b.data[layout.TRIP_KIND]
    if kind == layout.NO_TRIP_KIND or s[c.WINDOW_SIZE]:
        return b.get(layout.FROZEN_WINDOW)
    select = s[c.WINDOW_SELECT]  # a window of size 0: the tripping instruction is all it can hold
    indirect = kind in (BranchKind.INDIRECT_JUMP, BranchKind.INDIRECT_CALL)
    if select == WindowClass.RETURNS:
        return int(kind == BranchKind.RETURN)
    return int(select != WindowClass.INDIRECT_BRANCHES or indirect)


def _clears(s: MutableSequence[int], base: int) -> bool:
    return Counter(BmEvent(s[base + c.SELECT]), bool(s[base + c.CONSECUTIVE])).clears_with_window


def _last_branch(data: bytearray, i: int) -> LastBranch:
    source, target, word = _LBR_RECORD.unpack_from(data, layout.LBR + i * layout.LBR_RECORD)
    return LastBranch(source, target, bool(word & 1), word >> 8)


def _store_predictor(program: Program, predictor: MutableSequence[int], b: _Block) -> None:
    data = b.data
    if Family.RETURNS in program.families:
        predictor[p.TOP] = data[layout.TOP] // layout.STACK_ENTRY
        for i in range(p.RETURN_STACK):
            predictor[p.STACK + i] = -b.get(layout.STACK + i * layout.STACK_ENTRY) & _MASK
    if Family.TARGETS in program.families:
        predictor[p.PATH] = b.get(layout.PATH)
        targets = struct.unpack_from(f"<{p.TARGETS}Q", data, layout.TARGET_CACHE)
        predictor[p.TARGET_CACHE : p.TARGET_CACHE + p.TARGETS] = targets
    if Family.DIRECTIONS in program.families:
        predictor[p.OUTCOMES] = b.get(layout.OUTCOMES)
        directions = data[layout.DIRECTION_COUNTERS : layout.DIRECTION_COUNTERS + p.DIRECTIONS]
        predictor[p.DIRECTION_COUNTERS : p.DIRECTION_COUNTERS + p.DIRECTIONS] = list(directions)
