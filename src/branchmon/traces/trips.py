"""Where a trace trips, under settings of one's choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from branchmon.counts import CountResult
from branchmon.device.registers import CounterConfig, Status
from branchmon.driver.pmu import Trip
from branchmon.driver.syntax import EventRequest
from branchmon.events import BmEvent
from branchmon.session import Session, SessionOptions
from branchmon.sources.trace import TraceSource
from branchmon.symbols import Place
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Event
from branchmon.traces.symbols import TraceSymbols

MAX_TRIPS = 10_000
"""Trips that are kept with their place; more are only counted."""


class NamedBranch(NamedTuple):
    """A last branch of a trip, described."""

    source: int
    target: int
    kind: int
    mispredicted: bool
    source_name: str
    target_name: str


class TripPlace(NamedTuple):
    """One trip.

    :ivar thread: in which thread.
    :ivar branch: which of the thread's branches tripped, 0 and up.
    :ivar time: nanoseconds since the recording began.
    :ivar ip: address of the branch.
    :ivar events: names of the events that hit, as asked for.
    :ivar window: CountWindow at the trip.
    :ivar counts: of both counters, signed for a bias; 0 for one that is not used.
    :ivar lbr: last branches, oldest first, if the session asks for evidence.
    :ivar where: what stands at `ip`, if asked for.
    """

    thread: int
    branch: int
    time: int
    ip: int
    events: tuple[str, ...]
    window: int
    counts: tuple[int, int]
    lbr: tuple[NamedBranch, ...] = ()
    where: Place | None = None


@dataclass
class Replayed:
    """What a replay found.

    :ivar trips: with their place, the first :data:`MAX_TRIPS` of them.
    :ivar all_trips: how many there were.
    """

    result: CountResult
    trips: list[TripPlace] = field(default_factory=list)
    all_trips: int = 0


def open_replay(trace: Trace, requests: Sequence[EventRequest], options: SessionOptions | None = None) -> Session:
    """A session over `trace` with the events opened, not yet run.

    Its first thread (all that live at its beginning, if the recording attached) gets the events, all others inherit.
    """
    session = Session(requests, options, make_source=lambda tasks, _: TraceSource(tasks, trace))
    session.replay()
    return session


def replay(
    trace: Trace,
    requests: Sequence[EventRequest],
    options: SessionOptions | None = None,
    *,
    places: bool = False,
    names: bool = False,
) -> Replayed:
    """Replay a whole trace.

    :param places: note where each trip is.
    :param names: describe those places and last branches by symbols, too.
    """
    with open_replay(trace, requests, options) as session:
        found: list[TripPlace] = []
        if places:
            _listen(session, found, TraceSymbols() if names else None)
        session.run()
        assert isinstance(session.source, TraceSource)
        result = session.result()
        result.elapsed = session.source.time / 1e9
        return Replayed(result, found, session.pmu.trips)


def _listen(session: Session, found: list[TripPlace], symbols: TraceSymbols | None) -> None:
    names = {event.id: request.name for request, events in zip(session.requests, session.events, strict=True)
             for event in events}  # fmt: skip
    source = session.source
    assert isinstance(source, TraceSource)
    if symbols is not None:
        for kind, tid, told in source.state.events():
            symbols.apply(Event(0, kind, tid, 0, told))
        source.on_event.append(symbols.apply)

    def note(trip: Trip) -> None:
        found.append(
            TripPlace(
                trip.task.tid,
                source.branch_number(trip.task.tid),
                source.time,
                trip.ip,
                tuple(dict.fromkeys(names.get(event.id, event.config.event.perf_name) for event in trip.events)),
                trip.window,
                counts(trip.status, trip.configs),
                _named(trip, symbols),
                symbols.describe(trip.task.tid, trip.ip, lines=True) if symbols is not None else None,
            )
        )
        if len(found) >= MAX_TRIPS:
            session.pmu.listeners.remove(note)

    session.pmu.listeners.append(note)


def _named(trip: Trip, symbols: TraceSymbols | None) -> tuple[NamedBranch, ...]:
    tid = trip.task.tid

    def name(address: int) -> str:
        return symbols.describe(tid, address).name if symbols is not None else ""

    return tuple(
        NamedBranch(b.source, b.target, b.kind, bool(b.mispredicted), name(b.source), name(b.target)) for b in trip.lbr
    )


def counts(status: int, configs: tuple[int, int]) -> tuple[int, int]:
    """Both counts of a STATUS register, signed where the counter's event is the bias."""
    values = []
    for field_, config in zip(Status.COUNT, configs, strict=True):
        raw = field_.get(status)
        signed = CounterConfig.SELECT.get(config) == BmEvent.CALL_RET and raw > 127
        values.append(raw - 256 if signed else raw)
    return values[0], values[1]


def recorded_settings(trace: Trace) -> tuple[list[str], Mapping[str, str]]:
    """Events and attributes that were live while the trace was recorded; empty if there were none."""
    events = trace.metadata.settings.get("events")
    attributes = trace.metadata.settings.get("attributes")
    return (
        [str(event) for event in events] if isinstance(events, list) else [],
        {str(k): str(v) for k, v in attributes.items()} if isinstance(attributes, dict) else {},
    )
