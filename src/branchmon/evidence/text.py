"""Evidence for people: with rich, on a terminal in colour, elsewhere plain."""

import io
from typing import TYPE_CHECKING

from branchmon.evidence.model import Evidence, Location, StackWord

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 132
BRANCHES_SHOWN = 32


def render(evidence: Evidence, *, terminal: bool, width: int = PLAIN_WIDTH) -> str:
    """The report of one trip."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, emoji=False, markup=False
    )
    _print(console, evidence)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n\n"


def summary(evidence: Evidence) -> str:
    """One line: for syslog."""
    return (
        f"trip of {','.join(evidence.events)} in {evidence.comm}[{evidence.pid}] at {_place(evidence.instruction)}:"
        f" {evidence.verdict}; fingerprint {evidence.fingerprint}"
        + (f"; {', '.join(evidence.actions)}" if evidence.actions else "")
    )


def _print(console: "Console", evidence: Evidence) -> None:
    from rich.text import Text

    task = f"{evidence.comm}[{evidence.pid}]"
    if evidence.tid != evidence.pid:
        task += f" thread {evidence.tid}"
    console.print(Text(f"trip {evidence.number}: {', '.join(evidence.events)} in {task} at {evidence.time}", "bold"))
    for counter in evidence.counters:
        state = "reached" if counter.hit else "below"
        console.print(
            f"  {counter.event}: count {counter.count} {state} threshold {counter.threshold}, in"
            f" {evidence.window} of a window of {evidence.window_size} {evidence.window_class}"
        )
    console.print(Text.assemble("  verdict: ", (evidence.verdict, "bold red")))
    console.print(f"  facts: {_facts(evidence)}")
    console.print(f"  at     {_place(evidence.instruction)}: {evidence.instruction_text}")
    console.print(f"  goes on {_place(evidence.next)}: {evidence.next_text}")
    console.print(_registers(evidence))
    if evidence.last_branches:
        console.print("  last branches, newest first (! mispredicted):")
        console.print(_branches(evidence))
    console.print("  stack (> a return address, * another pointer into code):")
    console.print(_stack(evidence))
    console.print(f"  fingerprint {evidence.fingerprint}")
    if evidence.actions:
        console.print(f"  actions: {', '.join(evidence.actions)}")


def _facts(evidence: Evidence) -> str:
    import msgspec

    facts = msgspec.to_builtins(evidence.facts)
    return ", ".join(f"{name} {'?' if value is None else value}" for name, value in facts.items())


def _registers(evidence: Evidence) -> "RenderableType":
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    items = [f"{name:>7} {value:<18}" for name, value in evidence.registers.items()]
    for i in range(0, len(items), 4):
        table.add_row("", *items[i : i + 4])
    return table


def _branches(evidence: Evidence) -> "RenderableType":
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for branch in reversed(evidence.last_branches[-BRANCHES_SHOWN:]):
        table.add_row(
            "", "!" if branch.mispredicted else " ", branch.kind, _place(branch.source), "→", _place(branch.target)
        )
    return table


def _stack(evidence: Evidence) -> "RenderableType":
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for word in evidence.stack:
        at = f"rsp{word.offset:+#x}" if word.offset else "rsp"
        table.add_row("", _mark(word), at, word.value, "" if word.code is None else _place(word.code))
    return table


def _mark(word: StackWord) -> str:
    if word.code is None:
        return " "
    return ">" if word.call_preceded else "*"


def _place(location: Location) -> str:
    module = location.module.rsplit("/", 1)[-1]
    text = f"{location.name} ({module})" if location.symbol and module else location.name
    return f"{text} at {location.file.rsplit('/', 1)[-1]}:{location.line}" if location.file else text
