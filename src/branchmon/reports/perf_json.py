"""Counts as ``perf stat -j`` prints them: one JSON object a line; and, verbose, one object with everything.

The schema of the latter is docs/stat.md.
"""

import json
from collections.abc import Sequence
from typing import Any

from branchmon.counts import CountResult
from branchmon.events import BranchKind
from branchmon.reports.rows import NOT_COUNTED, Row, rows_of

SCHEMA_VERSION = 1
"""Of the verbose object: raised when a key changes its meaning or goes away."""


class JsonReport:
    """perf's lines.

    :param verbose: instead of a line an event, one object a run with totals, windows and highest counts.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose

    def whole(self, runs: Sequence[CountResult], target: str) -> str:
        """The result of one run, or of several: verbose, an object a run."""
        if self.verbose:
            return "".join(_line(as_object(run, target)) for run in runs)
        return "".join(_line(_fields(row)) for row in rows_of(runs))

    def interval(self, at: float, rows: Sequence[Row], *, first: bool) -> str:
        """The rows of one interval that ended `at` seconds after the start."""
        return "".join(_line({"interval": round(at, 9), **_fields(row)}) for row in rows)

    def end(self, result: CountResult) -> str:
        """After the last interval."""
        return _line(as_object(result, "")) if self.verbose else ""


def as_object(result: CountResult, target: str) -> dict[str, Any]:
    """Everything that one run counted."""
    totals = result.totals
    return {
        "version": SCHEMA_VERSION,
        "target": target,
        "totals": totals.named(),
        "branches_by_kind": {kind.name.lower(): totals.kind(kind) for kind in BranchKind if kind != BranchKind.PLAIN},
        "not_taken": totals.not_taken,
        "windows": totals.windows,
        "events": [_verbose_fields(row) for row in rows_of([result])],
        "elapsed": result.elapsed,
        "user": result.user,
        "system": result.system,
        "status": result.status,
        "warnings": result.warnings,
    }


def _fields(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {} if row.task is None else {"thread": row.thread}
    fields["counter-value"] = f"{row.count.trips:.6f}" if row.counted else NOT_COUNTED
    fields["unit"] = ""
    fields["event"] = row.count.name
    if row.noise is not None:
        fields["variance"] = round(row.noise, 2)
    fields["event-runtime"] = row.count.running_ns
    fields["pcnt-running"] = round(row.running_percent, 2)
    fields["metric-value"] = 0.0
    fields["metric-unit"] = ""
    return fields


def _verbose_fields(row: Row) -> dict[str, Any]:
    return {**_fields(row), "trips": row.count.trips, "highest": row.count.highest}


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(", ", " : ")) + "\n"  # perf's spacing
