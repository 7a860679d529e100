"""Rows of a trace as lines: for people, and as JSON."""

import json
from collections.abc import Iterator
from typing import Any

from branchmon.symbols import Place
from branchmon.traces.rows import Event
from branchmon.traces.select import NAMES_OF_KINDS, Chosen
from branchmon.traces.symbols import TraceSymbols


def text_lines(chosen: Chosen, symbols: TraceSymbols) -> Iterator[str]:
    """Thread, seconds, instructions before the branch, kind, from, to."""
    rows = chosen.rows
    for row in chosen.index.tolist():
        thread, time, gap = int(rows.thread[row]), int(rows.time[row]), int(rows.gap[row])
        head = f"{thread:>8} {time / 1e9:14.9f}"
        event = chosen.events.get(row)
        name = NAMES_OF_KINDS.get(int(rows.kind[row]), f"kind-{rows.kind[row]}")
        if event is not None:
            yield f"{head}           -- {name}: {_note_text(event)}"
        elif not rows.is_branch[row]:
            yield f"{head} {gap:>10}  {name}"
        else:
            source, target = int(rows.source[row]), int(rows.target[row])
            taken = "" if rows.taken[row] else "  (not taken)"
            yield (
                f"{head} {gap:>10}  {name:14} {source:>12x} {symbols.describe(thread, source)}"
                f" => {target:x} {symbols.describe(thread, target)}{taken}"
            )


def json_lines(chosen: Chosen, symbols: TraceSymbols) -> Iterator[str]:
    """One JSON object a row; docs/traces.md has the keys."""
    rows = chosen.rows
    for row in chosen.index.tolist():
        thread = int(rows.thread[row])
        record: dict[str, Any] = {
            "thread": thread,
            "time": int(rows.time[row]),
            "kind": NAMES_OF_KINDS.get(int(rows.kind[row]), int(rows.kind[row])),
        }
        event = chosen.events.get(row)
        if event is not None:
            record["note"] = event.note
        else:
            record["gap"] = int(rows.gap[row])
        if rows.is_branch[row]:
            record["branch"] = int(chosen.numbers[row])
            record["taken"] = bool(rows.taken[row])
            for side, column in (("source", rows.source), ("target", rows.target)):
                record[side] = int(column[row])
                record.update(_place_json(side, symbols.describe(thread, int(column[row]))))
            record["size"] = int(rows.size[row])
        yield json.dumps(record, separators=(",", ":"))


def _place_json(side: str, place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if place.symbol:
        found[f"{side}_symbol"] = place.symbol
        found[f"{side}_offset"] = place.offset
    if place.module:
        found[f"{side}_module"] = place.module
    return found


def _note_text(event: Event) -> str:
    note = dict(event.note)
    if "added" in note:
        added, removed = note.pop("added"), note.pop("removed", [])
        paths = dict.fromkeys(str(entry[6]) for entry in added if isinstance(entry, list) and len(entry) > 6)
        note["added"] = f"{len(added)} ({', '.join(paths)})" if added else 0
        note["removed"] = len(removed) if isinstance(removed, list) else removed
    if "names" in note:
        note["names"] = len(note["names"])
    return " ".join(f"{key}={value}" for key, value in note.items() if value not in (None, "", False))
