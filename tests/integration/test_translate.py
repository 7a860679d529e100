"""Translated code against the single-stepper: every event and window class, both ways of counting."""

import pytest

from driving import fixed_addresses, watched

EVENTS = [
    [("rets", {"threshold": 5, "window_size": 100}), ("call-ret", {"threshold": 3})],
    [("ret-misp", {"threshold": 2}), ("far-branch", {"threshold": 1})],
    [("branch-misp", {"threshold": 5}), ("indirect-branch-misp", {"threshold": 2})],
]
ATTRIBUTES = [
    {},
    {"window_cnt_sel": 1, "window_size": 50},
    {"window_cnt_sel": 2, "window_size": 9},
    {"window_cnt_sel": 3, "window_size": 20},
    {"cnt_and_mode": 1, "window_size": 200},
    {"mispred_evt_cnt": 1},
    {"lbr_freeze": 1},
]
STEPPED = [(0, 0), (1, 0), (2, 0), (0, 4), (2, 5), (0, 2)]
"""Settings that the stepper runs too: it takes a few seconds."""


@pytest.mark.timeout(200)
@pytest.mark.parametrize("events", range(len(EVENTS)))
@pytest.mark.parametrize("attributes", range(len(ATTRIBUTES)))
def test_trips_and_totals_are_the_steppers(events, attributes):
    sources = ["translate", "translate-memory"] + ["step"] * ((events, attributes) in STEPPED)
    with fixed_addresses():
        outcomes = [watched(source, ["true"], EVENTS[events], attributes=ATTRIBUTES[attributes]) for source in sources]
    first = outcomes[0]
    assert first.totals[0] > 10_000
    for outcome in outcomes[1:]:
        assert outcome.trips == first.trips
        assert [*outcome.totals[:8], outcome.totals[9]] == [*first.totals[:8], first.totals[9]]
        assert outcome.status == first.status == 0


@pytest.mark.parametrize("listen", [False, True])
def test_a_listener_sees_each_trip_where_it_happens(listen):
    events = [("rets", {"threshold": 5, "window_size": 100})]
    with fixed_addresses():
        translated, memory, stepped = (
            watched(source, ["true"], events, listen=listen) for source in ("translate", "translate-memory", "step")
        )
    assert translated.trips == memory.trips == stepped.trips and stepped.trips[0] > 0
    places = [[(trip.ip, trip.status) for trip in each.records] for each in (translated, memory, stepped)]
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == (stepped.trips[0] if listen else 0)
