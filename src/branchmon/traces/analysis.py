"""Everything that a report shows, computed from a trace; how it looks is decided elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from branchmon.driver.config import EventConfig, event_config
from branchmon.driver.pmu import Pmu
from branchmon.driver.refusals import store_attributes
from branchmon.driver.syntax import EventRequest
from branchmon.events import BmEvent, BranchKind
from branchmon.session import SessionOptions
from branchmon.traces.contents import Contents, read_contents
from branchmon.traces.reader import Trace
from branchmon.traces.sites import Site, Sites, read_sites
from branchmon.traces.streams import Streams, ThreadStream, read_streams, window_counts
from branchmon.traces.trips import Replayed, TripPlace, replay

POINTS = 1200
"""Points of a curve, at most: each is the highest of the windows that it stands for."""
CURVE_THREADS = 6
HOTTEST = 30
HEAT_ROWS = 3_000_000
"""Rows that the heat maps look at, at most."""
HEAT_SEGMENTS = 4000
WINDOWS = (16, 32, 64, 128, 256, 512, 1023)
THRESHOLDS = (2, 3, 4, 6, 8, 12, 16, 32, 64, 127)


@dataclass
class Curve:
    """The highest count per window of one event along one thread.

    :ivar at: instructions of the thread, at the first event of the window.
    """

    event: BmEvent
    at: list[int]
    counts: list[int]


@dataclass
class TripMark:
    """A trip on a curve."""

    at: int
    count: int
    event: str
    place: str
    number: int


@dataclass
class ThreadCurves:
    """One thread's curves, those of events that never happened left out."""

    tid: int
    comm: str
    instructions: int
    curves: list[Curve] = field(default_factory=list)
    marks: list[TripMark] = field(default_factory=list)


@dataclass
class HeatMap:
    """Trips of one event: ``trips[i][j]`` with threshold ``THRESHOLDS[i]`` and window ``WINDOWS[j]``."""

    event: BmEvent
    trips: list[list[int]]


@dataclass
class Analysis:
    """The whole.

    :ivar settings: what was counted: a name and the settings of each event.
    :ivar highest: the highest count in a window of the first setting's size, by thread and event.
    :ivar partial: sentences: what was computed from a part of the trace only.
    """

    contents: Contents
    sites: Sites
    settings: list[tuple[str, EventConfig]]
    replayed: Replayed
    highest: dict[int, dict[BmEvent, int]] = field(default_factory=dict)
    curves: list[ThreadCurves] = field(default_factory=list)
    heat: list[HeatMap] = field(default_factory=list)
    returns: list[Site] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)


def analyse(
    trace: Trace, requests: Sequence[EventRequest], attributes: Mapping[str, str], *, heat: bool = True
) -> Analysis:  # fmt: skip
    """Read a trace several times and compute everything.

    :param heat: the heat maps, too: they take longest.
    :raises BranchmonError: settings that the driver refuses.
    """
    options = SessionOptions(attributes=attributes, totals=True, evidence=True)
    replayed = replay(trace, requests, options, places=True, names=True)
    sites = read_sites(trace)
    found = Analysis(read_contents(trace), sites, _settings(requests, attributes), replayed)
    found.returns = sites.hottest(BranchKind.RETURN, HOTTEST)
    streams = read_streams(trace)
    window = found.settings[0][1]
    base = EventConfig(BmEvent.RETS, window_size=window.window_size or 1, window_cnt_sel=window.window_cnt_sel)
    _curves(found, streams, base)
    if streams.limited:
        found.partial.append(f"curves and heat maps show the first {streams.rows:,} branches")
    if heat:
        _heat(found, streams)
    return found


def _settings(requests: Sequence[EventRequest], attributes: Mapping[str, str]) -> list[tuple[str, EventConfig]]:
    pmu = Pmu()
    store_attributes(pmu.attributes, attributes)
    return [(request.name, event_config(request.config, request.config1, pmu.attributes)) for request in requests]


def _curves(found: Analysis, streams: Streams, base: EventConfig) -> None:
    trips: dict[int, list[tuple[int, TripPlace]]] = {}
    for number, trip in enumerate(found.replayed.trips, 1):
        trips.setdefault(trip.thread, []).append((number, trip))
    for thread in streams.threads:
        curves = [curve for event in BmEvent if (curve := _curve(thread, replace(base, event=event))) is not None]
        found.highest[thread.tid] = {curve.event: max(curve.counts) for curve in curves}
        if len(found.curves) < CURVE_THREADS:
            shown = ThreadCurves(thread.tid, thread.comm, thread.instructions, [_thin(curve) for curve in curves])
            shown.marks = _marks(thread, trips.get(thread.tid, []))
            found.curves.append(shown)
    hidden = len(streams.threads) - len(found.curves)
    if hidden > 0:
        found.partial.append(f"curves of the {CURVE_THREADS} busiest threads are shown; {hidden} others are not")


def _curve(thread: ThreadStream, config: EventConfig) -> Curve | None:
    at, counts, before = [], [], 0
    for segment in thread.segments:
        where, count = window_counts(segment, config)
        at.append(where + before)
        counts.append(count)
        before += int(segment.gaps.sum(dtype=np.int64)) + len(segment.codes)
    joined = np.concatenate(counts)
    if not joined.any():
        return None
    return Curve(config.event, np.concatenate(at).tolist(), joined.tolist())


def _thin(curve: Curve) -> Curve:
    """At most :data:`POINTS` points: of several windows the highest, where it was."""
    if len(curve.at) <= POINTS:
        return curve
    at, counts = np.array(curve.at), np.array(curve.counts)
    edges = np.linspace(0, len(at), POINTS + 1).astype(int)
    chosen = [start + int(counts[start:end].argmax()) for start, end in pairwise(edges.tolist())]
    return Curve(curve.event, at[chosen].tolist(), counts[chosen].tolist())


def _marks(thread: ThreadStream, trips: list[tuple[int, TripPlace]]) -> list[TripMark]:
    if not trips:
        return []
    gaps = np.concatenate([segment.gaps for segment in thread.segments])
    codes = np.concatenate([segment.codes for segment in thread.segments])
    at = np.cumsum(gaps.astype(np.int64) + 1)[codes > 0]
    marks = []
    for number, trip in trips:
        if trip.branch < len(at):
            place = trip.where.name if trip.where is not None else f"{trip.ip:#x}"
            marks.append(TripMark(int(at[trip.branch]), max(trip.counts), ", ".join(trip.events), place, number))
    return marks


def _heat(found: Analysis, streams: Streams) -> None:
    part = streams.head(HEAT_ROWS)
    segments = sum(len(thread.segments) for thread in part.threads)
    if part is not streams:
        found.partial.append(
            f"heat maps look at {part.rows:,} of {streams.rows:,} branches, from each thread's beginning"
        )
    if segments > HEAT_SEGMENTS:
        found.partial.append(f"heat maps look at {HEAT_SEGMENTS:,} of {segments:,} pieces between gaps")
    for event in BmEvent:
        trips = [[0] * len(WINDOWS) for _ in THRESHOLDS]
        for j, window in enumerate(WINDOWS):
            config = EventConfig(event, window_size=window)
            highest = part.highest(config)
            for i, threshold in enumerate(THRESHOLDS):
                if threshold <= highest:  # else no window ever reaches it
                    trips[i][j] = part.trips(replace(config, threshold=threshold), segments=HEAT_SEGMENTS)
        found.heat.append(HeatMap(event, trips))
