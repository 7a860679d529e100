"""perf's event syntax, for this PMU: ``intel_bm/rets,threshold=100/u``, ``{rets,call-ret}``, ``intel_bm/event=0x1/``.

Source: ``tools/perf/util/parse-events.{l,y}`` of Linux; the terms are SPEC section 2's. As in perf, a term of value 0
means "as the attribute says".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from branchmon.driver.attributes import SPECS
from branchmon.driver.config import EVENT_MASK, TERM_FIELDS
from branchmon.driver.perf_event import PerfEventAttr
from branchmon.driver.pmu import PMU_NAME
from branchmon.errors import UsageError
from branchmon.events import EVENTS_BY_NAME, BmEvent

ALIASES = {"window": "window_size"}
"""Short names of terms."""

_SAMPLING_TERMS = ("period", "freq", "call-graph", "stack-size", "branch_type", "aux-sample-size", "aux-output")
_U64_MAX = (1 << 64) - 1
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_MODIFIERS = "ukhGHpPISDWe"


@dataclass(frozen=True)
class EventRequest:
    """One event as the user asked for it; the sysfs attributes say what it leaves open.

    :ivar name: what to call it in output: as it was typed, or its ``name=`` term.
    :ivar group: events with the same number are opened as one group, the first one leading; None: no group.
    :ivar notes: what the user should know about what he typed.
    """

    name: str
    config: int
    config1: int = 0
    exclude_user: bool = False
    exclude_kernel: bool = False
    exclude_hv: bool = False
    pinned: bool = False
    exclusive: bool = False
    group: int | None = None
    notes: tuple[str, ...] = ()

    def attr(self, type: int, *, inherit: bool, disabled: bool = False, enable_on_exec: bool = False) -> PerfEventAttr:
        """The attr to open it with, for a PMU of number `type`."""
        return PerfEventAttr(
            type,
            self.config,
            self.config1,
            disabled=disabled,
            inherit=inherit,
            enable_on_exec=enable_on_exec,
            pinned=self.pinned,
            exclusive=self.exclusive,
            exclude_user=self.exclude_user,
            exclude_kernel=self.exclude_kernel,
            exclude_hv=self.exclude_hv,
        )


def parse_events(texts: Sequence[str]) -> list[EventRequest]:
    """The events that several ``-e`` ask for, in their order.

    :raises UsageError: something is not an event, a term, a number in range, or the punctuation does not match up.
    """
    requests: list[EventRequest] = []
    groups = 0
    for text in texts:
        for item in _split(text, text):
            if not item.startswith("{"):
                requests.append(_event(item, "", None, text))
                continue
            inner, modifiers = _group(item, text)
            requests += [_event(member, modifiers, groups, text) for member in _split(inner, text)]
            groups += 1
    if not requests:
        raise UsageError("no event given", slug="event-syntax", remedy=f"name one, as in -e {PMU_NAME}/rets/")
    return requests


def _split(text: str, whole: str) -> Iterator[str]:
    """The parts between commas that stand outside ``/…/`` and ``{…}``."""
    start, depth, in_terms = 0, 0, False
    for i, char in enumerate(text):
        if char == "/":
            in_terms = not in_terms
        elif not in_terms and char in "{}":
            depth += 1 if char == "{" else -1
            if depth not in (0, 1):
                raise _syntax(whole, "groups do not nest" if depth > 1 else "} without {")
        elif char == "," and not in_terms and depth == 0:
            yield _part(text[start:i], whole)
            start = i + 1
    if in_terms:
        raise _syntax(whole, "the second / is missing")
    if depth:
        raise _syntax(whole, "the } is missing")
    yield _part(text[start:], whole)


def _part(text: str, whole: str) -> str:
    if not text.strip():
        raise _syntax(whole, "an event is missing at a comma")
    return text.strip()


def _group(item: str, whole: str) -> tuple[str, str]:
    inner, _, tail = item[1:].rpartition("}")
    return inner, _modifiers_after(tail, whole)


def _modifiers_after(tail: str, whole: str) -> str:
    modifiers = tail.removeprefix(":")
    unknown = [char for char in modifiers if char not in _MODIFIERS]
    if unknown:
        raise UsageError(
            f"unknown modifier {unknown[0]!r} in {whole!r}",
            slug="unknown-modifier",
            remedy="the unit counts user mode only; u, h, G, H, D, e and W are taken and change nothing in that",
        )
    for char, why in (
        ("k", "the unit counts user mode only, so there is no count of the kernel"),
        ("p", "a trip has no skid already"),
        ("P", "a trip has no skid already"),
        ("S", "the unit counts trips, it does not sample"),
        ("I", "a counter does not stand still while the task is idle: it is idle too"),
    ):
        if char in modifiers:
            raise UsageError(
                f"modifier {char!r} in {whole!r}: {why}", slug="unknown-modifier", remedy=f"drop the {char}"
            )
    return modifiers


def _event(item: str, group_modifiers: str, group: int | None, whole: str) -> EventRequest:
    if "/" in item:
        pmu, _, rest = item.partition("/")
        terms, _, tail = rest.rpartition("/")
        if pmu != PMU_NAME:
            raise _no_such_event(item)
    else:
        terms, _, tail = item.partition(":")
        if terms not in EVENTS_BY_NAME:
            raise _no_such_event(item)
        tail = tail and f":{tail}"
    modifiers = _modifiers_after(tail, whole) + group_modifiers
    config, config1, name, notes = _terms(terms, item)
    return EventRequest(
        name or item,
        config,
        config1,
        exclude_kernel="u" in modifiers,
        exclude_hv="u" in modifiers or "h" in modifiers,
        pinned="D" in modifiers,
        exclusive="e" in modifiers,
        group=group,
        notes=tuple(notes),
    )


def _terms(text: str, item: str) -> tuple[int, int, str, list[str]]:
    """config, config1, the name asked for, notes; a later term wins, as in perf."""
    config, config1, name, notes = 0, 0, "", []
    for term in text.split(",") if text else []:
        key, equals, value = term.strip().partition("=")
        key = ALIASES.get(key, key)
        if key in EVENTS_BY_NAME and not equals:
            config = config & ~EVENT_MASK | EVENTS_BY_NAME[key]
        elif key == "name":
            name = value
        elif key == "event":
            number = _number(key, value, max(BmEvent), item)
            config = config & ~EVENT_MASK | number
        elif key in ("config", "config1"):
            number = _number(key, value, _U64_MAX, item)
            config, config1 = (number, config1) if key == "config" else (config, number)
        elif key in TERM_FIELDS:
            number = _number(key, value, SPECS[key].high, item) if equals else 1
            field = TERM_FIELDS[key]
            config1 = config1 & ~field.mask | field.put(number)
            if number == 0:
                notes.append(f"{key}=0 in an event means 'as the attribute says'; for a real 0 use --set {key}=0")
        else:
            raise _unknown_term(key, item)
    return config, config1, name, notes


def _number(key: str, value: str, high: int, item: str) -> int:
    if not _NUMBER.fullmatch(value):
        raise UsageError(
            f"{key} in {item!r} needs a number, not {value!r}",
            slug="term-range",
            remedy=f"{key} takes 0 to {high}, decimal or 0x… hexadecimal",
        )
    number = int(value, 16 if value[:2] in ("0x", "0X") else 10)
    if number > high:
        raise UsageError(
            f"{key}={value} in {item!r} is out of range", slug="term-range", remedy=f"it takes 0 to {high}"
        )
    return number


def _syntax(text: str, why: str) -> UsageError:
    return UsageError(
        f"cannot read the events {text!r}: {why}",
        slug="event-syntax",
        remedy=f"examples: {PMU_NAME}/rets/, {PMU_NAME}/rets,threshold=100,window_size=64/u, {{rets,call-ret}}",
    )


def _no_such_event(item: str) -> UsageError:
    return UsageError(
        f"no such event: {item}",
        slug="no-such-event",
        remedy=f"the events are {', '.join(f'{PMU_NAME}/{name}/' for name in EVENTS_BY_NAME)};"
        " for others beside them, run perf itself under: branchmon perf stat -e …",
    )


def _unknown_term(key: str, item: str) -> UsageError:
    if key in _SAMPLING_TERMS:
        return UsageError(
            f"{key} in {item!r} asks for sampling, and the unit counts trips, it does not sample",
            slug="sampling",
            remedy="use `branchmon watch` to look at every trip",
        )
    known = ", ".join((*TERM_FIELDS, *ALIASES, "event", "config", "config1", "name"))
    return UsageError(
        f"unknown term {key!r} in {item!r}",
        slug="unknown-term",
        remedy=f"an event's name ({', '.join(EVENTS_BY_NAME)}) or a term: {known}",
    )
