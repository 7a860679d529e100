"""The rows of a table of counts, and how several runs become one row: mean and its standard deviation, as perf."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from branchmon.counts import CountResult, EventCount, TaskCount

NOT_COUNTED = "<not counted>"
"""What perf shows for an event whose task never ran while it was enabled."""


@dataclass(frozen=True)
class Row:
    """One count to show.

    :ivar task: the task it is of; None: all tasks.
    :ivar noise: standard deviation of the mean over runs, in percent of the mean; None: there was one run.
    """

    count: EventCount
    task: TaskCount | None = None
    noise: float | None = None

    @property
    def counted(self) -> bool:
        """The event was enabled while its task ran."""
        return self.count.enabled_ns > 0

    @property
    def running_percent(self) -> float:
        """Part of the enabled time that the event was on a counter, in percent."""
        return 100.0 * self.count.running_ns / self.count.enabled_ns if self.count.enabled_ns else 100.0

    @property
    def thread(self) -> str:
        """``comm-tid``, as perf names a thread; empty for all tasks."""
        return "" if self.task is None else f"{self.task.comm}-{self.task.tid}"


def rows_of(runs: Sequence[CountResult]) -> list[Row]:
    """One row an event, or a task and event where tasks are apart; the mean of several runs.

    Tasks are shown apart for one run only: those of two runs have nothing to do with each other.
    """
    last = runs[-1]
    if len(runs) == 1:
        if last.tasks:
            return [Row(count, task) for task in last.tasks for count in task.events]
        return [Row(count) for count in last.events]
    rows = []
    for counts in zip(*(run.events for run in runs), strict=True):
        trips = [count.trips for count in counts]
        mean = EventCount(
            counts[0].name,
            round(sum(trips) / len(trips)),
            round(sum(count.enabled_ns for count in counts) / len(counts)),
            round(sum(count.running_ns for count in counts) / len(counts)),
            max(count.highest for count in counts),
        )
        rows.append(Row(mean, noise=relative_deviation(trips)))
    return rows


def differences(now: CountResult, before: CountResult | None) -> list[Row]:
    """The rows of `now` less what `before` had already."""
    earlier = {_key(row): row.count for row in rows_of([before])} if before is not None else {}
    return [
        Row(row.count.since(earlier[_key(row)]), row.task) if _key(row) in earlier else row for row in rows_of([now])
    ]


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of the mean of `values`; 0 for one value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def relative_deviation(values: Sequence[float]) -> float:
    """:func:`deviation` in percent of the mean; 0 where the mean is 0."""
    mean = sum(values) / len(values)
    return 100.0 * deviation(values) / mean if mean else 0.0


def _key(row: Row) -> tuple[int, str]:
    return (0 if row.task is None else row.task.tid, row.count.name)
