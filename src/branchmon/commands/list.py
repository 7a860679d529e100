"""examples:
  branchmon list                        what can be counted here, and how
  branchmon list --set threshold=100    with an attribute changed
  branchmon list --json | jq .sources   for programs; docs/list.md has the schema

Show the events, the PMU's attributes, the sources of retired branches with what they can do on this machine, and what
the machine really has.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from branchmon.commands.options import add_settings, settings
from branchmon.driver.attributes import NUM_COUNTERS, SPECS, Attributes
from branchmon.driver.config import FORMATS
from branchmon.driver.pmu import PMU_NAME
from branchmon.driver.refusals import store_attributes
from branchmon.events import BmEvent
from branchmon.machine import Machine, this_machine

if TYPE_CHECKING:
    from branchmon.sources.base import Capabilities

SCHEMA_VERSION = 1
"""Raised when a key of ``--json`` changes its meaning or goes away; new keys do not raise it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the lists."""
    from branchmon.sources.choose import capabilities, default_name

    attributes = Attributes()
    store_attributes(attributes, settings(arguments))
    sources, default, machine = capabilities(), default_name(), this_machine()
    if arguments.json:
        print(json.dumps(as_json(attributes, sources, default, machine), indent=2, ensure_ascii=False))
    else:
        print(as_text(attributes, sources, default, machine))
    return 0


def as_json(
    attributes: Mapping[str, int], sources: Sequence["Capabilities"], default: str | None, machine: Machine
) -> dict[str, Any]:
    """The lists as ``--json`` prints them; the schema is docs/list.md."""
    return {
        "version": SCHEMA_VERSION,
        "pmu": {"name": PMU_NAME, "num_counters": NUM_COUNTERS, "format": FORMATS},
        "events": [
            {
                "name": event.perf_name,
                "perf": f"{PMU_NAME}/{event.perf_name}/",
                "config": int(event),
                "meaning": event.meaning,
            }
            for event in BmEvent
        ],
        "attributes": [
            {
                "name": spec.name,
                "low": spec.low,
                "high": spec.high,
                "default": spec.default,
                "value": attributes[spec.name],
                "meaning": spec.meaning,
            }
            for spec in SPECS.values()
        ],
        "sources": [
            {
                "name": source.name,
                "available": source.available,
                "default": source.name == default,
                "why": source.why,
                "exact": source.exact,
                "attach": source.attach,
                "threads": source.threads,
                "survives": source.survives,
            }
            for source in sources
        ],
        "machine": vars(machine),
    }


def as_text(
    attributes: Mapping[str, int], sources: Sequence["Capabilities"], default: str | None, machine: Machine
) -> str:
    """The lists for people."""
    width = max(len(_perf(event)) for event in BmEvent)
    lines = [f"Events of {PMU_NAME}, at most {NUM_COUNTERS} at once in a task:"]
    lines += [f"  {_perf(event):{width}}  {event.meaning}" for event in BmEvent]
    lines += ["", "Attributes, by --set NAME=VALUE or as a term of an event:"]
    lines += [f"  {'name':16} {'range':8} {'default':>7} {'value':>6}  meaning"]
    for spec in SPECS.values():
        extent = f"{spec.low}-{spec.high}"
        lines.append(f"  {spec.name:16} {extent:8} {spec.default:7} {attributes[spec.name]:6}  {spec.meaning}")
    lines += ["", "Sources of retired branches (* is the default here):"]
    lines += [_source_line(source, starred=source.name == default) for source in sources]
    lines += ["", "This machine:", *(f"  {line}" for line in _machine_lines(machine))]
    return "\n".join(lines)


def _perf(event: BmEvent) -> str:
    return f"{PMU_NAME}/{event.perf_name}/"


def _source_line(source: "Capabilities", *, starred: bool) -> str:
    abilities = [
        "exact" if source.exact else "not exact",
        "attaches" if source.attach else "cannot attach",
        "threads" if source.threads else "one thread only",
        "the program outlives branchmon" if source.survives else "the program dies if branchmon is killed",
    ]
    state = ", ".join(abilities) if source.available else "not here"
    return f"{'*' if starred else ' '} {source.name:10} {state}\n             {source.why}"


def _machine_lines(machine: Machine) -> list[str]:
    family = "" if machine.family is None else f" (family {machine.family}, model {machine.model})"
    return [
        f"{machine.cpu}{family}, {machine.cpus} processors, Linux {machine.kernel}",
        "silicon: this processor has the branch monitoring unit"
        if machine.silicon
        else "silicon: no branch monitoring unit in this processor",
        f"kernel: has a PMU {PMU_NAME}; perf reaches it without branchmon"
        if machine.kernel_pmu
        else f"kernel: no PMU {PMU_NAME}; `branchmon shell` gives programs one",
        "hardware counters: yes" if machine.hardware_pmu else "hardware counters: none (most likely a virtual machine)",
        f"limits: perf_event_paranoid {_or_dash(machine.paranoid)}, yama ptrace_scope {_or_dash(machine.ptrace_scope)}",
    ]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
