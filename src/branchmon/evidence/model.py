"""The records that ``watch --json`` writes, one JSON object a line. Schema: docs/evidence.schema.json.

Addresses are strings in hexadecimal: JSON readers keep only 53 bits of a number. Within one :data:`SCHEMA` version,
fields are only added.
"""

import msgspec

from branchmon.evidence.facts import Facts

SCHEMA = 1
"""Version of the records."""


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """An address, described; fields that are not known are left out."""

    address: str
    name: str
    """For people: ``main+0x12``."""
    module: str = ""
    module_address: str = ""
    """As the module's own file numbers it."""
    build_id: str = ""
    symbol: str = ""
    offset: int = 0
    nearest: bool = False
    """The symbol is only the nearest one before the address."""
    file: str = ""
    line: int = 0


class Counter(msgspec.Struct, frozen=True):
    """One counter at the trip."""

    event: str
    threshold: int
    count: int
    hit: bool
    consecutive: bool


class BranchRecord(msgspec.Struct, frozen=True):
    """One of the last branches."""

    kind: str
    mispredicted: bool
    source: Location
    target: Location


class StackWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Eight bytes of the stack."""

    offset: int
    """From the stack pointer; negative: already popped."""
    value: str
    code: Location | None = None
    """Where it points, if into executable memory."""
    call_preceded: bool | None = None
    """A call stands right before that address: it can be a return address."""


class Evidence(msgspec.Struct, frozen=True, tag_field="type", tag="trip"):
    """One trip."""

    schema: int
    number: int
    """1 and up, over all tasks."""
    time: str
    """UTC, ISO 8601 with microseconds."""
    monotonic_ns: int
    pid: int
    tid: int
    comm: str
    events: list[str]
    """Names of the events that were hit."""
    counters: list[Counter]
    window: int
    window_size: int
    window_class: str
    and_mode: bool
    instruction: Location
    """The branch that tripped."""
    instruction_text: str
    next: Location
    """Where the task goes on."""
    next_text: str
    registers: dict[str, str]
    stack: list[StackWord]
    last_branches: list[BranchRecord]
    """Oldest first."""
    facts: Facts
    verdict: str
    fingerprint: str
    actions: list[str] = []


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="start"):
    """The first record."""

    schema: int
    version: str
    target: str
    events: list[str]
    attributes: dict[str, int]
    actions: list[str]


class Dropped(msgspec.Struct, frozen=True, tag_field="type", tag="dropped"):
    """Records that the reader was too slow for, since the last one that it got."""

    schema: int
    records: int


class Ended(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    """The last record: how many trips there were, and what became of them."""

    schema: int
    trips: int
    reported: int
    suppressed: int
    limited: int
    """Left out by the rate limit."""
    unmet: int
    """Left out because an ``--only-if`` did not hold."""
    dropped: int
    status: int | None
    """The program's exit status, 128 + n if signal n killed it; None: it goes on."""


Record = Started | Evidence | Dropped | Ended


def json_schema() -> dict[str, object]:
    """The JSON schema of a line, as published in docs/evidence.schema.json."""
    schema: dict[str, object] = msgspec.json.schema(Record)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"branchmon watch, {SCHEMA}", **schema}


def encode(record: Record) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(record) + b"\n"
