"""One setting over one task's recorded branches, and the predictor before it: the convenient face of ``replay``."""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from branchmon.device import counters, predictor
from branchmon.device import replay as plain
from branchmon.device.registers import (
    MSR_BR_DETECT_COUNTER_CONFIG_0,
    MSR_BR_DETECT_COUNTER_CONFIG_1,
    MSR_BR_DETECT_CTRL,
    Control,
)
from branchmon.device.unit import INSTRUCTIONS, NOT_TAKEN, TOTALS_SIZE, Unit
from branchmon.device.unit import MISPREDICTED as MISPREDICTED_TOTAL

Codes = NDArray[np.uint8]
TripRows = NDArray[np.int64]


def _functions(compiled: bool) -> ModuleType:
    if not compiled:
        return plain
    from branchmon.device import compiled as module

    return module


def _signed(column: ArrayLike) -> NDArray[Any]:
    """The column as integers that mix with int64 in compiled code: unsigned 64-bit ones reinterpreted."""
    array = np.asarray(column)
    if not len(array):
        return np.zeros(0, np.int64)
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    return array.view(np.int64) if array.dtype == np.uint64 else array


class Predictions:
    """The predictor over one task's branches, and what retired in total.

    :param late: the recording begins in the middle of a program (see :func:`branchmon.device.predictor.forget`).
    :param compiled: run the compiled functions; False: the same ones in plain Python.
    """

    def __init__(self, *, late: bool = False, compiled: bool = True) -> None:
        self._module = _functions(compiled)
        start = predictor.new_predictor()
        if late:
            predictor.forget(start)
        self.predictor = np.array(start, np.int64)
        self.totals: NDArray[np.int64] = np.zeros(TOTALS_SIZE, np.int64)
        """As :attr:`branchmon.device.unit.Unit.totals`, all of it taken as monitored."""

    def feed(
        self,
        gaps: ArrayLike,
        kinds: ArrayLike,
        taken: ArrayLike,
        sources: ArrayLike,
        sizes: ArrayLike,
        targets: ArrayLike,
    ) -> Codes:
        """The next branches, as columns of :class:`branchmon.events.Branch`; their codes, for any number of replays."""
        kind, took = _signed(kinds), _signed(taken)
        codes = np.zeros(len(kind), np.uint8)
        wrong = self._module.predict_branches(
            kind, took, _signed(sources), _signed(sizes), _signed(targets), self.predictor, codes
        )
        self.totals[1:8] += np.bincount(kind, minlength=8)[1:8]
        self.totals[INSTRUCTIONS] += int(np.sum(gaps, dtype=np.int64)) + len(kind)
        self.totals[MISPREDICTED_TOTAL] += wrong
        self.totals[NOT_TAKEN] += int(len(took) - np.count_nonzero(took))
        return codes

    def executed(self) -> None:
        """The task executed a new program: the predictor starts empty."""
        self.predictor[:] = predictor.new_predictor()


class Replay:
    """The unit with its registers set, and the driver's interrupt handler, over one task's branches.

    :param control: MSR_BR_DETECT_CTRL.
    :param configs: MSR_BR_DETECT_COUNTER_CONFIG_0 and _1.
    :param record: give the trips; False: only count them, faster.
    :param compiled: run the compiled functions; False: the same ones in plain Python.
    :raises branchmon.device.registers.GeneralProtection: a value that the register refuses.
    """

    def __init__(
        self, control: int, configs: tuple[int, int] = (0, 0), *, record: bool = True, compiled: bool = True
    ) -> None:
        self._module = _functions(compiled)
        unit = Unit()
        unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_0, configs[0])
        unit.wrmsr(MSR_BR_DETECT_COUNTER_CONFIG_1, configs[1])
        unit.wrmsr(MSR_BR_DETECT_CTRL, control)
        self.predicting = unit.predicting and not Control.FREEZE_LBR.get(control)
        self.state = np.array(unit.state, np.int64)
        """As laid out in :mod:`branchmon.device.counters`."""
        self.progress = np.zeros(plain.PROGRESS_SIZE, np.int64)
        self._buffer: TripRows = np.zeros((4096 if record else 0, plain.TRIP_SIZE), np.int64)

    def feed(self, gaps: ArrayLike, codes: ArrayLike) -> TripRows:
        """The next branches: instructions before each, and their codes (or kinds, where no prediction is asked for).

        :returns: the trips among them, one a row, columns ``TRIP_INDEX`` and so on of :mod:`branchmon.device.replay`.
        """
        gap, code, progress = _signed(gaps), _signed(codes), self.progress
        progress[plain.ROW] = progress[plain.GAP_DONE] = 0
        parts: list[TripRows] = []
        while progress[plain.ROW] < len(gap):
            used = self._module.replay(gap, code, self.state, progress, self._buffer)
            parts.append(self._buffer[:used].copy())
        progress[plain.BASE] += len(gap)
        progress[plain.ROW] = 0
        return self._joined(parts)

    def plain(self, instructions: int) -> TripRows:
        """Instructions after the last branch, or before a pause; the trips among them, as :meth:`feed` gives them."""
        progress = self.progress
        progress[plain.GAP_DONE] = 0
        parts: list[TripRows] = []
        while progress[plain.GAP_DONE] < instructions:
            used = self._module.replay_plain(instructions, self.state, progress, self._buffer, 0)
            parts.append(self._buffer[:used].copy())
        progress[plain.GAP_DONE] = 0
        return self._joined(parts)

    @property
    def events(self) -> tuple[int, int]:
        """For each counter, the trips that hit it: what read() of its event gives."""
        return int(self.progress[plain.EVENTS_0]), int(self.progress[plain.EVENTS_1])

    @property
    def trips(self) -> int:
        """Trips so far."""
        return int(self.progress[plain.TRIPS])

    @property
    def windows(self) -> int:
        """Windows that ended without a trip."""
        return int(self.state[counters.WINDOWS])

    @property
    def highest(self) -> tuple[int, int]:
        """For each counter, the highest count seen."""
        first, second = (int(self.state[base + counters.HIGHEST]) for base in counters.COUNTERS)
        return first, second

    def _joined(self, parts: list[TripRows]) -> TripRows:
        return np.concatenate(parts) if parts else self._buffer[:0].copy()
