"""Counts as ``perf stat -x SEP`` prints them: value, unit, event, [noise,] run time, percent running, metric, its unit.

Source: perf-stat(1), "CSV FORMAT".
"""

from collections.abc import Sequence

from branchmon.counts import CountResult
from branchmon.reports.rows import NOT_COUNTED, Row, rows_of


class CsvReport:
    """One line an event.

    :param separator: what stands between the fields.
    :param verbose: lines ``total:NAME`` as well.
    """

    def __init__(self, separator: str, *, verbose: bool = False) -> None:
        self.separator = separator
        self.verbose = verbose

    def whole(self, runs: Sequence[CountResult], target: str) -> str:
        """The result of one run, or of several."""
        lines = [self._row(row) for row in rows_of(runs)]
        return "".join(f"{line}\n" for line in lines) + self.end(runs[-1])

    def interval(self, at: float, rows: Sequence[Row], *, first: bool) -> str:
        """The rows of one interval that ended `at` seconds after the start."""
        return "".join(f"{at:16.9f}{self.separator}{self._row(row)}\n" for row in rows)

    def end(self, result: CountResult) -> str:
        """After the last line of counts."""
        if not self.verbose:
            return ""
        named = result.totals.named()
        lines = [[str(value), "", f"total:{name}", "0", "100.00", "", ""] for name, value in named.items()]
        return "".join(f"{self.separator.join(line)}\n" for line in lines)

    def _row(self, row: Row) -> str:
        fields = [] if row.task is None else [row.thread]
        fields += [str(row.count.trips) if row.counted else NOT_COUNTED, "", row.count.name]
        if row.noise is not None:
            fields.append(f"{row.noise:.2f}%")
        fields += [str(row.count.running_ns), f"{row.running_percent:.2f}", "", ""]
        return self.separator.join(self._quoted(field) for field in fields)

    def _quoted(self, field: str) -> str:
        """A field with the separator in it, such as an event with terms, in quotes (perf leaves it ambiguous)."""
        if self.separator and self.separator in field:
            return '"' + field.replace('"', '""') + '"'
        return field
