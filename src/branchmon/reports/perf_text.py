"""Counts as ``perf stat`` prints them for people. Source: ``tools/perf/util/stat-display.c`` of Linux."""

import contextlib
import locale
import math
from collections.abc import Sequence

from branchmon.counts import CountResult, Totals
from branchmon.events import BranchKind
from branchmon.reports.rows import NOT_COUNTED, Row, deviation, relative_deviation, rows_of

KIND_NAMES: dict[BranchKind, str] = {
    BranchKind.CONDITIONAL: "conditional branches",
    BranchKind.JUMP: "direct jumps",
    BranchKind.CALL: "direct calls",
    BranchKind.RETURN: "near returns",
    BranchKind.INDIRECT_JUMP: "indirect jumps",
    BranchKind.INDIRECT_CALL: "indirect calls",
    BranchKind.FAR: "far branches",
}


class TextReport:
    """The table for people.

    :param verbose: the highest count of each event and the totals as well.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        with contextlib.suppress(locale.Error):  # thousands as perf separates them
            locale.setlocale(locale.LC_NUMERIC, "")

    def whole(self, runs: Sequence[CountResult], target: str) -> str:
        """The result of one run, or of several."""
        last = runs[-1]
        times = f" ({len(runs)} runs)" if len(runs) > 1 else ""
        lines = ["", f" Performance counter stats for {target}{times}:", ""]
        lines += [self._row(row) for row in rows_of(runs)]
        if self.verbose:
            lines += ["", *self._totals(last.totals)]
        lines += ["", *_footer(runs)]
        lines += [f" Warning: {warning}" for warning in last.warnings]
        return "\n".join(lines) + "\n"

    def interval(self, at: float, rows: Sequence[Row], *, first: bool) -> str:
        """The rows of one interval that ended `at` seconds after the start."""
        lines = ["#           time             counts unit events"] if first else []
        lines += [f"{at:16.9f} {self._row(row)}" for row in rows]
        return "\n".join(lines) + "\n"

    def end(self, result: CountResult) -> str:
        """After the last interval."""
        lines = ["", *self._totals(result.totals), ""] if self.verbose else []
        lines += [f" Warning: {warning}" for warning in result.warnings]
        return "\n".join(lines) + "\n" if lines else ""

    def _row(self, row: Row) -> str:
        task = "" if row.task is None else f"{row.task.comm:>16}-{row.task.tid:<8} "
        number = f"{row.count.trips:n}" if row.counted else NOT_COUNTED
        text = f"{task}{number:>18}      {row.count.name}"
        if self.verbose:
            text = f"{text:<{56 + len(task)}} # highest count in a window: {row.count.highest}"
        return text + _noise(row.noise)

    def _totals(self, totals: Totals) -> list[str]:
        """What the counters saw: the numbers to choose a threshold by."""
        rows = [
            (totals.instructions, "instructions"),
            (totals.all_branches, "branches"),
            *((totals.kind(kind), f"  {name}") for kind, name in KIND_NAMES.items()),
            (totals.not_taken, "  not taken"),
            (totals.mispredicted, "  mispredicted (by the model)"),
            (totals.windows, "windows that ended without a trip"),
        ]
        return [" What retired while monitored:", "", *(f"{number:18n}      {name}" for number, name in rows)]


def _footer(runs: Sequence[CountResult]) -> list[str]:
    last = runs[-1]
    if len(runs) > 1:
        seconds = [run.elapsed for run in runs]
        mean, spread = sum(seconds) / len(seconds), deviation(seconds)
        digits = 2 + (0 if spread > 1 or spread == 0 else math.ceil(-math.log10(spread)))
        noise = _noise(relative_deviation(seconds))
        return [f" {mean:17.{digits}f} +- {spread:.{digits}f} seconds time elapsed{noise}", ""]
    lines = [f" {last.elapsed:17.9f} seconds time elapsed", ""]
    if last.user is not None and last.system is not None:
        lines += [f" {last.user:17.9f} seconds user", f" {last.system:17.9f} seconds sys", "", ""]
    return lines


def _noise(percent: float | None) -> str:
    return f"  ( +-{percent:6.2f}% )" if percent else ""
