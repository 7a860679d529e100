"""Recorded branches through the unit, in batches of columns: what a task would have seen under given registers.

Equal, trip for trip, to feeding a :class:`~branchmon.device.unit.Unit` under the driver branch by branch: at a trip
STATUS is read and cleared, and every counter whose hit bit was set has its event counted.

Two steps, because many settings share the first: :func:`predict_branches` turns a task's branches into *codes* (the
kind, plus :data:`MISPREDICTED` where the predictor was wrong; where nobody asks for predictions, the kinds are the
codes); :func:`replay` runs one setting over gaps and codes. Both carry on from batch to batch, their state being arrays
that the caller keeps. The functions here are plain Python over arrays; :mod:`branchmon.device.compiled` holds the very
same functions compiled. :class:`branchmon.device.stream.Replay` is a convenient face of both.
"""

from collections.abc import MutableSequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchmon.device.counters import (
    AND_MODE,
    COUNT,
    COUNTER_0,
    COUNTER_1,
    COUNTERS,
    ENABLED,
    EVENT,
    EXCEPT,
    HIGHEST,
    HIT,
    LBRS_VALID,
    MONITORING,
    SELECT,
    STATE_SIZE,
    THRESHOLD,
    WINDOW,
    WINDOW_SIZE,
    WINDOWS,
    advance,
    retire,
)
from branchmon.device.predictor import predict
from branchmon.device.registers import THRESHOLD_MAX, WINDOW_SIZE_MAX

Column = NDArray[Any]

KIND_MASK = 7
"""A code's kind."""
MISPREDICTED = 8
"""Set in the code of a mispredicted branch."""
CODES = 16

# A trip's row:
TRIP_INDEX = 0
"""Which branch of the stream tripped, 0 and up; if a plain instruction did, the branch after it."""
TRIP_INSTRUCTION = 1
"""Which instruction of the stream tripped, 1 and up."""
TRIP_CODE = 2
"""Code of the instruction that tripped; 0 for a plain one."""
TRIP_HITS = 3
"""CntrHit0 in bit 0, CntrHit1 in bit 1."""
TRIP_WINDOW = 4
"""CountWindow as frozen."""
TRIP_COUNT_0 = 5
"""Count0 as frozen, signed for a bias."""
TRIP_COUNT_1 = 6
TRIP_SIZE = 7

# How far a replay is, one integer a field:
ROW = 0  # the next row of the batch
GAP_DONE = 1  # how much of that row's gap has retired
BASE = 2  # branches in earlier batches
RETIRED = 3  # instructions
TRIPS = 4
EVENTS_0 = 5  # trips that hit counter 0: what read() of its event gives
EVENTS_1 = 6
PROGRESS_SIZE = 7


def interrupt(s: MutableSequence[int], progress: MutableSequence[int], trips: Column, written: int, code: int) -> int:
    """The unit has just tripped: signal it and, with EnExcept, do what the driver's handler does.

    :returns: rows of `trips` that are now in use.
    """
    if s[EXCEPT] == 0:
        return written
    hits = s[COUNTER_0 + HIT] | s[COUNTER_1 + HIT] << 1
    progress[TRIPS] += 1
    progress[EVENTS_0] += s[COUNTER_0 + HIT]
    progress[EVENTS_1] += s[COUNTER_1 + HIT]
    if written < len(trips):
        trips[written, TRIP_INDEX] = progress[BASE] + progress[ROW]
        trips[written, TRIP_INSTRUCTION] = progress[RETIRED]
        trips[written, TRIP_CODE] = code
        trips[written, TRIP_HITS] = hits
        trips[written, TRIP_WINDOW] = s[WINDOW]
        trips[written, TRIP_COUNT_0] = s[COUNTER_0 + COUNT]
        trips[written, TRIP_COUNT_1] = s[COUNTER_1 + COUNT]
        written += 1
    s[EVENT] = 0
    s[LBRS_VALID] = 0
    s[WINDOW] = 0
    for c in COUNTERS:
        s[c + HIT] = 0
        s[c + COUNT] = 0
    return written


def replay_plain(
    instructions: int, s: MutableSequence[int], progress: MutableSequence[int], trips: Column, written: int
) -> int:
    """Retire instructions that are not branches until ``progress[GAP_DONE]`` is `instructions`, or `trips` is full.

    :returns: rows of `trips` that are now in use.
    """
    while progress[GAP_DONE] < instructions:
        if written > 0 and written == len(trips):
            break
        blocked = s[EVENT]
        retired = advance(s, instructions - progress[GAP_DONE])
        progress[GAP_DONE] += retired
        progress[RETIRED] += retired
        if s[EVENT] != 0 and blocked == 0:
            written = interrupt(s, progress, trips, written, 0)
    return written


def replay_rows(
    gaps: Column,
    codes: Column,
    rows: int,
    s: MutableSequence[int],
    progress: MutableSequence[int],
    trips: Column,
    written: int,
) -> int:
    """Retire up to `rows` rows, one instruction after the other; stops early when `trips` is full.

    :returns: rows of `trips` that are now in use.
    """
    end = min(progress[ROW] + rows, len(gaps))
    while progress[ROW] < end:
        row = progress[ROW]
        written = replay_plain(int(gaps[row]), s, progress, trips, written)
        if written > 0 and written == len(trips):
            break
        code = int(codes[row])
        progress[RETIRED] += 1
        if retire(s, code & KIND_MASK, code >> 3) != 0:
            written = interrupt(s, progress, trips, written, code)
        progress[ROW] += 1
        progress[GAP_DONE] = 0
    return written


def learn_effects(s: MutableSequence[int], keep: Column, add: Column, steps: Column) -> None:
    """What :func:`retire` does to counts and window for each code, as tables: count = (count & keep) + add.

    Asked of `retire` itself, on a unit that is far from every limit, so that there is no second meaning.
    """
    trial: Any = np.zeros(STATE_SIZE, np.int64)
    middle = 5
    for code in range(CODES):
        for i in range(STATE_SIZE):
            trial[i] = s[i]
        trial[WINDOW_SIZE] = WINDOW_SIZE_MAX
        trial[WINDOW] = 0
        trial[EVENT] = 0
        for c in COUNTERS:
            trial[c + THRESHOLD] = THRESHOLD_MAX
            trial[c + COUNT] = middle
        retire(trial, code & KIND_MASK, code >> 3)
        steps[code] = trial[WINDOW]
        for i in range(2):
            count = trial[COUNTERS[i] + COUNT]
            keep[i, code] = 0 if count == 0 else -1
            add[i, code] = 0 if count == 0 else count - middle


def outlives_window(s: MutableSequence[int], c: int) -> int:
    """-1 if the counter at `c` keeps its count when a window ends, else 0: asked of :func:`retire`."""
    trial: Any = np.zeros(STATE_SIZE, np.int64)
    for i in range(STATE_SIZE):
        trial[i] = s[i]
    trial[WINDOW_SIZE] = 0
    trial[EVENT] = 0
    for other in COUNTERS:
        trial[other + THRESHOLD] = THRESHOLD_MAX
        trial[other + COUNT] = 1
    retire(trial, 0, 0)
    return -1 if trial[c + COUNT] != 0 else 0


def steady(s: MutableSequence[int]) -> int:
    """1 if plain instructions cannot trip and every trip is served at once: :func:`replay` may take its short cut."""
    if s[MONITORING] == 0 or s[EXCEPT] == 0 or s[EVENT] != 0 or s[WINDOW_SIZE] == 0:
        return 0
    for c in COUNTERS:
        if s[c + ENABLED] != 0 and s[c + THRESHOLD] == 0:
            return 0
    return 1


def replay(gaps: Column, codes: Column, s: MutableSequence[int], progress: MutableSequence[int], trips: Column) -> int:
    """Retire the batch from row ``progress[ROW]`` on, to its end or until `trips` is full.

    :param gaps: instructions before each branch.
    :param codes: the branches' codes.
    :param s: the unit's state (:mod:`branchmon.device.counters`), changed in place.
    :param progress: see ``ROW`` and so on, changed in place.
    :param trips: filled from row 0 on, :data:`TRIP_SIZE` columns; with no row, trips are counted but not recorded.
    :returns: rows of `trips` in use.

    The counts live in local variables: between two trips a window's end is the only thing that can happen, and what a
    branch does to a count was asked of :func:`retire`.
    """
    if steady(s) == 0:
        return replay_rows(gaps, codes, len(gaps), s, progress, trips, 0)
    # After one branch in full, no count stands at a limit by a register write, and the short cut below holds.
    written = replay_rows(gaps, codes, 1, s, progress, trips, 0)
    if (written > 0 and written == len(trips)) or progress[ROW] >= len(gaps):
        return written
    keep = np.zeros((2, CODES), np.int64)
    add = np.zeros((2, CODES), np.int64)
    steps = np.zeros(CODES, np.int64)
    learn_effects(s, keep, add, steps)
    keep0, keep1, add0, add1 = keep[0], keep[1], add[0], add[1]
    stay0, stay1 = outlives_window(s, COUNTER_0), outlives_window(s, COUNTER_1)
    plain = steps[0]
    never = 1 << 30
    limit0 = s[COUNTER_0 + THRESHOLD] if s[COUNTER_0 + ENABLED] != 0 else never
    limit1 = s[COUNTER_1 + THRESHOLD] if s[COUNTER_1 + ENABLED] != 0 else never
    low0, high0 = (-128, 127) if s[COUNTER_0 + SELECT] == 1 else (0, 255)
    low1, high1 = (-128, 127) if s[COUNTER_1 + SELECT] == 1 else (0, 255)
    both = s[AND_MODE] != 0 and limit0 != never and limit1 != never
    size = s[WINDOW_SIZE]
    window, windows = s[WINDOW], s[WINDOWS]
    count0, count1 = s[COUNTER_0 + COUNT], s[COUNTER_1 + COUNT]
    highest0, highest1 = s[COUNTER_0 + HIGHEST], s[COUNTER_1 + HIGHEST]
    retired = progress[RETIRED]
    first, stop = progress[ROW], len(gaps)
    for row in range(first, len(gaps)):
        gap = int(gaps[row])
        code = codes[row]
        retired += gap + 1
        window += gap * plain
        if window >= size:
            windows += window // size
            window %= size
            count0 &= stay0
            count1 &= stay1
        count0 = min(max((count0 & keep0[code]) + add0[code], low0), high0)
        count1 = min(max((count1 & keep1[code]) + add1[code], low1), high1)
        window += steps[code]
        highest0 = max(highest0, count0)
        highest1 = max(highest1, count1)
        if count0 >= limit0 or count1 >= limit1:
            if count0 >= limit0:
                s[COUNTER_0 + HIT] = 1
            if count1 >= limit1:
                s[COUNTER_1 + HIT] = 1
            if not both or (count0 >= limit0 and count1 >= limit1):
                s[WINDOW] = window
                s[COUNTER_0 + COUNT], s[COUNTER_1 + COUNT] = count0, count1
                progress[ROW], progress[RETIRED] = row, retired
                written = interrupt(s, progress, trips, written, int(code))
                window = count0 = count1 = 0
                if written > 0 and written == len(trips):
                    stop = row + 1
                    break
                continue
        if window >= size:
            windows += 1
            window = 0
            count0 &= stay0
            count1 &= stay1
    s[WINDOW], s[WINDOWS] = window, windows
    s[COUNTER_0 + COUNT], s[COUNTER_1 + COUNT] = count0, count1
    if limit0 != never:  # a disabled counter's count is whatever software wrote
        s[COUNTER_0 + HIGHEST] = highest0
    if limit1 != never:
        s[COUNTER_1 + HIGHEST] = highest1
    progress[ROW], progress[RETIRED] = stop, retired
    return written


def predict_branches(
    kinds: Column,
    taken: Column,
    sources: Column,
    sizes: Column,
    targets: Column,
    predictor: MutableSequence[int],
    codes: Column,
) -> int:
    """Predict a batch of branches in order and write their codes; how many were mispredicted."""
    wrong = 0
    for row in range(len(kinds)):
        kind = int(kinds[row])
        missed = predict(predictor, kind, int(taken[row]), int(sources[row]), int(sizes[row]), int(targets[row]))
        codes[row] = kind | missed << 3
        wrong += missed
    return wrong
