"""A trace's contents on a terminal."""

from typing import TextIO

from rich.console import Console
from rich.table import Table

from branchmon.traces.contents import Contents

_KINDS = ("conditional", "jump", "call", "return", "indirect-jump", "indirect-call", "far")


def print_contents(contents: Contents, file: TextIO) -> None:
    """Print everything that `branchmon info` says."""
    console = Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else 200)
    metadata = contents.metadata
    program = " ".join(metadata.program) or ", ".join(f"process {pid}" for pid in metadata.pids) or "imported"
    each = f", {contents.bytes / contents.branches:.2f} bytes a branch" if contents.branches else ""
    facts = {
        "trace": f"{contents.path}, {contents.bytes:,} bytes{each}",
        "state": "complete" if contents.cut is None else f"cut: {contents.cut}",
        "program": program,
        "source": f"{metadata.source}, {'exact' if metadata.exact else 'approximate'}",
        "recorded": f"{metadata.started} by {metadata.writer}, {contents.seconds:.3f} s",
        "host": ", ".join(value for value in metadata.host.values() if value),
        "branches": f"{contents.branches:,} in {contents.instructions:,} instructions",
        "threads": str(len(contents.threads)),
        "gaps": ", ".join(f"{count} {why}" for why, count in contents.gaps.items()) or "none",
        "signals": str(contents.signals),
        "lines": _lines(contents),
    }
    for name, value in facts.items():
        if value:
            console.print(f"{name:>9}  {value}", markup=False)
    for sentence in contents.approximations:
        console.print(f"{'note':>9}  {sentence}", markup=False)
    console.print(_threads(contents))


def _lines(contents: Contents) -> str:
    end = contents.end
    if not isinstance(end.get("lines"), int):
        return ""
    return f"{end['lines']} = {end.get('records')} records + {end.get('gaps')} gaps + {end.get('ignored')} ignored"


def _threads(contents: Contents) -> Table:
    table = Table(box=None, padding=(0, 1))
    for heading in ("thread", "process"):
        table.add_column(heading, justify="right")
    table.add_column("name")
    for heading in ("instructions", *_KINDS):
        table.add_column(heading, justify="right")
    for thread in contents.threads:
        kinds = [f"{thread.branches.get(kind, 0):,}" for kind in _KINDS]
        table.add_row(str(thread.tid), str(thread.pid), thread.comm, f"{thread.instructions:,}", *kinds)
    return table
