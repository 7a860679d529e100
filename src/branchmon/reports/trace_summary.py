"""A trace's analysis on a terminal."""

from typing import TextIO

from rich.console import Console
from rich.table import Table

from branchmon.events import BmEvent, BranchKind
from branchmon.reports.trace_contents import print_contents
from branchmon.traces.analysis import Analysis
from branchmon.traces.trips import TripPlace

SHOWN_TRIPS = 10
SHOWN_RETURNS = 10
SHOWN_MODULES = 30
_KINDS = [kind for kind in BranchKind if kind != BranchKind.PLAIN]


def print_summary(analysis: Analysis, file: TextIO) -> None:
    """Print contents, modules, highest counts, trips and the hottest return sites."""
    print_contents(analysis.contents, file)
    console = Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else 200)
    for table in (_modules(analysis), _highest(analysis), _trips(analysis), _returns(analysis)):
        console.print()
        console.print(table)
    for sentence in notes(analysis):
        console.print(f"note: {sentence}", markup=False)


def notes(analysis: Analysis) -> list[str]:
    """What the reader has to know about the numbers."""
    found = [*analysis.replayed.result.warnings, *analysis.partial]
    found += [f"{path} is another file now than when recorded: no symbols" for path in sorted(analysis.sites.changed)]
    return found


def _table(title: str, *headings: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right")
    return table


def _modules(analysis: Analysis) -> Table:
    table = _table("Branches", "thread", "module", *(_kind(kind) for kind in _KINDS), left=2)
    rows = sorted(analysis.sites.by_module().items(), key=lambda item: (item[0][0], -item[1].total()))
    for (thread, module), counts in rows[:SHOWN_MODULES]:
        table.add_row(str(thread), module or "?", *(f"{counts[kind]:,}" for kind in _KINDS))
    if len(rows) > SHOWN_MODULES:
        table.add_row("", f"… {len(rows) - SHOWN_MODULES} more")
    return table


def _highest(analysis: Analysis) -> Table:
    window = analysis.settings[0][1].window_size
    table = _table(f"Highest count in a window of {window}", "thread", "name", *(e.perf_name for e in BmEvent), left=2)
    names = {thread.tid: thread.comm for thread in analysis.contents.threads}
    for thread, counts in sorted(analysis.highest.items()):
        table.add_row(str(thread), names.get(thread, ""), *(str(counts.get(event, 0)) for event in BmEvent))
    return table


def _trips(analysis: Analysis) -> Table:
    table = _table("Trips", "event", "thread", "where", "count", "window", left=3)
    for count in analysis.replayed.result.events:
        table.add_row(count.name, "all", f"{count.trips:,} trips, highest count {count.highest}", "", "")
    for trip in analysis.replayed.trips[:SHOWN_TRIPS]:
        table.add_row(", ".join(trip.events), str(trip.thread), place(trip), str(max(trip.counts)), str(trip.window))
    return table


def place(trip: TripPlace) -> str:
    """Where a trip is, in words."""
    return str(trip.where) if trip.where is not None else f"{trip.ip:#x}"


def _returns(analysis: Analysis) -> Table:
    table = _table("Hottest returns", "where", "module", "returns", left=2)
    for site in analysis.returns[:SHOWN_RETURNS]:
        table.add_row(site.place.name, site.place.module_name, f"{site.count:,}")
    return table


def _kind(kind: BranchKind) -> str:
    return kind.name.lower().replace("_", "-")
