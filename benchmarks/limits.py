"""Measures docs/limits.md: which attack on the toy server trips which event at which setting; `make limits`."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import attacks  # noqa: E402
import rop  # noqa: E402

DOCUMENT = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- measured by `make limits`: begin -->", "<!-- end -->"
WAYS = 16
EVENTS = (
    "intel_bm/rets,threshold=8,window_size=64/",
    "intel_bm/call-ret,threshold=8,window_size=64/",
    "intel_bm/ret-misp,threshold=3,window_size=64/",
    "intel_bm/ret-misp,threshold=2,window_size=64/",
    "intel_bm/branch-misp,threshold=8,window_size=64/",
    "intel_bm/indirect-branch-misp,threshold=3,window_size=64/",
    "intel_bm/far-branch,threshold=3,window_size=64/",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        target = rop.build_server(Path(directory))
        ways = attacks.alignments(WAYS)
        names = [event.removeprefix("intel_bm/").rstrip("/").replace(",window_size=64", "") for event in EVENTS]
        rows = [["attack", *names], ["---"] * (len(names) + 1)]
        alone = {event: [attacks.run_server(target, event, way).before for way in ways] for event in EVENTS}
        for chain in rop.chains(target):
            cells = [_cell(target, event, chain, ways, alone[event]) for event in EVENTS]
            rows.append([f"{chain.name}: {chain.about}", *cells])
            print(chain.name, cells, flush=True)
        served = tuple(request for way in ways for request in (*way, *rop.REQUESTS))
        benign = [attacks.run_server(target, event, served) for event in EVENTS]
        rows.append(
            [
                f"*no attack*: {len(served)} requests",
                *(f"{seen.before} trips, highest count {seen.highest}" for seen in benign),
            ]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(table)
    _write(table)


def _cell(target: rop.Target, event: str, chain: rop.Chain, ways: list[tuple[bytes, ...]], alone: list[int]) -> str:
    """What the trips beyond those of the harmless requests show."""
    before = after = 0
    highest = 0
    for way, false_alarms in zip(ways, alone, strict=True):
        seen = attacks.run_server(target, event, (*way, *chain.requests))
        assert seen.effect, f"{chain.name} does nothing: the row would say nothing"
        highest = max(highest, seen.highest)
        if seen.before > false_alarms:
            before += 1
        elif seen.after:
            after += 1
    if before == len(ways):
        return "**stopped**"
    parts = [f"{before} of {len(ways)} stopped"] if before else []
    if after:
        parts.append(f"{after} of {len(ways)} seen too late")
    return ", ".join(parts) or f"evades (highest count {highest})"


def _write(table: str) -> None:
    text = DOCUMENT.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
