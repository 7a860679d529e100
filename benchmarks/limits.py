"""Measures docs/limits.md: which attack on the toy server trips which event at which setting; `make limits`."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import false_alarms  # noqa: E402

import attacks  # noqa: E402
import rop  # noqa: E402
from branchmon.driver.pmu import Trip  # noqa: E402
from branchmon.events import EVENTS_BY_NAME  # noqa: E402
from branchmon.session import Session  # noqa: E402

DOCUMENT = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- {}, measured by `make limits`: begin -->", "<!-- {}: end -->"
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
    """Both tables, or those that the command line names."""
    tables = {"attacks": _attacks, "false alarms": _false_alarms}
    for name in sys.argv[1:] or tables:
        tables[name]()


def _attacks() -> None:
    with tempfile.TemporaryDirectory() as directory:
        target = rop.build_server(Path(directory))
        ways = attacks.alignments(WAYS)
        names = [event.removeprefix("intel_bm/").rstrip("/").replace(",window_size=64", "") for event in EVENTS]
        rows = [["attack", *names], ["---"] * (len(names) + 1)]
        for chain in rop.chains(target):
            cells = [_cell(target, event, chain, ways) for event in EVENTS]
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
    _write("attacks", rows)


def _false_alarms() -> None:
    rows = [["program", *EVENTS_BY_NAME], ["---"] * (len(EVENTS_BY_NAME) + 1)]
    with tempfile.TemporaryDirectory() as directory:
        for name, command in false_alarms.build(Path(directory)).items():
            trace = Path(directory) / "trace"
            false_alarms.record(command, trace)
            default = false_alarms.shown(trace, "threshold=127,window_size=1023")
            narrow = false_alarms.shown(trace, "threshold=127,window_size=64")
            cells = [f"{d[0]} ({d[1]}; {n[1]})" for d, n in zip(default, narrow, strict=True)]
            print(name, cells, flush=True)
            rows.append([name, *cells])
    _write("false alarms", rows)


def _cell(target: rop.Target, event: str, chain: rop.Chain, ways: list[tuple[bytes, ...]]) -> str:
    """In how many of the ways the attack itself tripped the unit, before and after it had effect."""
    entry = int.from_bytes(chain.requests[-1][target.offset :][:8], "little")
    trips = [0, 0]

    def look(session: Session, trip: Trip, effect: bool) -> None:
        # Where the chain was entered, its trips are its own; before, they are those of serving a request.
        if any(branch.target == entry for branch in trip.lbr):
            trips[effect] += 1

    before = after = 0
    for way in ways:
        trips[:] = 0, 0
        seen = attacks.run_server(target, event, (*way, *chain.requests), listener=look, evidence=True)
        assert seen.effect, f"{chain.name} does nothing: the row would say nothing"
        if trips[False]:
            before += 1
        elif trips[True]:
            after += 1
    if before == len(ways):
        return "**stopped**"
    parts = [f"{before} of {len(ways)} stopped"] if before else []
    if after:
        parts.append(f"{after} of {len(ways)} too late")
    return ", ".join(parts) or "evades"


def _write(name: str, rows: list[list[str]]) -> None:
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(table)
    text = DOCUMENT.read_text("utf-8")
    head, _, rest = text.partition(BEGIN.format(name))
    _, _, tail = rest.partition(END.format(name))
    DOCUMENT.write_text(f"{head}{BEGIN.format(name)}\n\n{table}\n\n{END.format(name)}{tail}", "utf-8")


if __name__ == "__main__":
    main()
