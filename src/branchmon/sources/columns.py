"""Branches in columns through a task's unit: what a recorded trace, or any source that has whole batches, counts with.

Equal to calling :meth:`branchmon.device.unit.Unit.retire` for each branch, by the device's replay functions. Where
somebody wants to see each trip (:attr:`~branchmon.driver.tasks.Task.wants_stops`), the rows up to the next one are
counted, and the branch that trips is retired singly, so that listeners find the unit as they would live.
"""

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from branchmon.device import counters as c
from branchmon.device import replay as r
from branchmon.device.lbr import LBR_DEPTH
from branchmon.device.unit import INSTRUCTIONS, MISPREDICTED, NOT_TAKEN
from branchmon.traces.rows import Rows
from branchmon.traces.schema import RowKind

if TYPE_CHECKING:
    from branchmon.device.unit import Unit
    from branchmon.driver.tasks import Task

_NO_TRIPS = np.zeros((0, r.TRIP_SIZE), np.int64)


class ColumnFeed:
    """Feeds tasks with rows.

    :param compiled: run the compiled functions; False: the same ones in plain Python, slow.
    """

    def __init__(self, *, compiled: bool = True) -> None:
        self.row = 0
        """While a listener looks: which of the rows tripped."""
        self._functions: Any = r
        if compiled:
            from branchmon.device import compiled as functions

            self._functions = functions

    def retire(self, task: "Task", rows: Rows) -> None:
        """Retire rows of one task, branches and plain ones, with every trip among them."""
        unit = task.unit
        if not unit.monitoring or not len(rows):
            return
        work = _Work(rows, self._codes(unit, rows))
        predicting = unit.predicting
        start = 0
        while start < len(rows) and unit.monitoring:
            if predicting != unit.predicting:  # a listener reprogrammed the unit
                predicting = unit.predicting
                work.codes[start:] = self._codes(unit, rows.take(slice(start, None)))
            trip = self._next_trip(unit, work, start) if task.wants_stops else None
            end = len(rows) if trip is None else start + trip
            self._count(task, work, slice(start, end))
            if trip is not None:
                self.row = end
                _retire_singly(unit, work, end)
                end += 1
            start = end

    def _codes(self, unit: "Unit", rows: Rows) -> NDArray[np.uint8]:
        """The rows' codes: kinds, and which were mispredicted if anybody wants to know."""
        if not unit.predicting:
            unit.unpredicted()
            return rows.kind.copy()
        predictor = np.asarray(unit.predictor, np.int64)
        codes = np.zeros(len(rows), np.uint8)
        self._functions.predict_branches(
            rows.kind,
            rows.taken.view(np.uint8),
            rows.source.view(np.int64),
            rows.size,
            rows.target.view(np.int64),
            predictor,
            codes,
        )
        unit.predictor = cast("MutableSequence[int]", predictor)
        return codes

    def _next_trip(self, unit: "Unit", work: "_Work", start: int) -> int | None:
        """How many rows from here the unit trips next; None: it does not."""
        state = np.array(unit.state, np.int64)
        progress = np.zeros(r.PROGRESS_SIZE, np.int64)
        trips = np.zeros((1, r.TRIP_SIZE), np.int64)
        if self._functions.replay(work.gaps[start:], work.codes[start:], state, progress, trips):
            return int(trips[0, r.TRIP_INDEX])
        return None

    def _count(self, task: "Task", work: "_Work", part: slice) -> None:
        """Retire rows without stopping at their trips."""
        if part.stop <= part.start:
            return
        unit = task.unit
        state = np.array(unit.state, np.int64)
        progress = np.zeros(r.PROGRESS_SIZE, np.int64)
        self._functions.replay(work.gaps[part], work.codes[part], state, progress, _NO_TRIPS)
        unit.state[:] = state.tolist()
        for slot, events in enumerate((progress[r.EVENTS_0], progress[r.EVENTS_1])):
            if events:
                task.count_trips(slot, int(events))
        task.pmu.trips += int(progress[r.TRIPS])
        unit.totals[INSTRUCTIONS] += int(progress[r.RETIRED])
        work.count_branches(unit, part)


class _Work:
    """A task's rows, as the replay functions take them."""

    def __init__(self, rows: Rows, codes: NDArray[np.uint8]) -> None:
        self.rows = rows
        self.codes = codes
        self.gaps = rows.gap.astype(np.int64)
        # A plain row has no branch: the last of its instructions is retired as the row's own.
        self.gaps[rows.kind == RowKind.PLAIN] -= 1

    def count_branches(self, unit: "Unit", part: slice) -> None:
        """Everything of a unit but its state: totals, last branches, the last branch's address."""
        rows, codes = self.rows, self.codes[part]
        kinds = np.bincount(rows.kind[part], minlength=8)
        for kind in range(1, 8):
            unit.totals[kind] += int(kinds[kind])
        branches = np.flatnonzero(rows.kind[part]) + part.start
        unit.totals[NOT_TAKEN] += int(len(branches) - rows.taken[branches].sum())
        unit.totals[MISPREDICTED] += int((codes >= r.MISPREDICTED).sum())
        if len(branches):
            unit.ip = int(rows.source[branches[-1]])
        if unit.recording_lbr:
            for i in branches[rows.taken[branches]][-LBR_DEPTH:].tolist():
                code = int(self.codes[i])
                unit.lbr.record(int(rows.source[i]), int(rows.target[i]), code >> 3, code & r.KIND_MASK)


def _retire_singly(unit: "Unit", work: _Work, row: int) -> None:
    """Retire one row, and stand at each of its trips."""
    unit.retire_plain(int(work.gaps[row]))
    code = int(work.codes[row])
    unit.totals[INSTRUCTIONS] += 1
    if code & r.KIND_MASK:
        work.count_branches(unit, slice(row, row + 1))
    if c.retire(unit.state, code & r.KIND_MASK, code >> 3):
        unit.trip()
