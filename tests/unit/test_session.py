"""A session: which events stand on which tasks, what is summed, and when it stops."""

import signal
import threading

import pytest

from branchmon.driver.syntax import parse_events
from branchmon.errors import UnsupportedError, UsageError
from branchmon.session import Session, SessionOptions
from scripted import FIRST_PID, ScriptedSource, returns, signals_us


def session(script, events=("intel_bm/rets,threshold=2/",), **options):
    return Session(
        parse_events(events),
        SessionOptions(**options),
        make_source=lambda tasks, sink: ScriptedSource(tasks, script),
    )


def trips(monitoring):
    return [count.trips for count in monitoring.counts()]


def fork(source):
    parent = source.tasks.get(FIRST_PID)
    source.start(FIRST_PID + 1, FIRST_PID + 1, parent)


def test_a_launched_program_counts_from_its_exec_on():
    monitoring = session([returns(10)])
    task = monitoring.launch(["prog"])
    task.unit.retire(0, 4, 1, 0, 1, 0)  # before the exec
    assert monitoring.run()
    assert trips(monitoring) == [5]
    assert monitoring.totals().instructions == 10


def test_children_count_for_their_parents_event_unless_not_inherited():
    script = [returns(4), fork, returns(6, tid=FIRST_PID + 1)]
    assert _launched(session(script)) == [2 + 3]
    assert _launched(session(script, inherit=False)) == [2]


def _launched(monitoring):
    monitoring.launch(["prog"])
    assert monitoring.run()
    return trips(monitoring)


def test_every_thread_of_an_attached_process_has_events_of_its_own():
    monitoring = session([returns(4, tid=FIRST_PID), returns(8, tid=FIRST_PID + 1)], per_task=True)
    monitoring.attach(pids=[FIRST_PID, FIRST_PID])
    assert monitoring.source.calls == [f"attach {FIRST_PID}"]
    assert monitoring.run()
    assert trips(monitoring) == [6]
    assert [(task.tid, task.events[0].trips) for task in monitoring.task_counts()] == [
        (FIRST_PID, 2),
        (FIRST_PID + 1, 4),
    ]


def test_counts_of_living_and_ended_tasks_are_apart_and_add_up():
    script = [returns(4), fork, returns(6, tid=FIRST_PID + 1), returns(3)]
    monitoring = session(script, per_task=True)
    monitoring.launch(["prog"])
    monitoring.run(timeout=1)
    monitoring.run(timeout=1)
    monitoring.run(timeout=1)
    living = monitoring.task_counts()
    monitoring.run()
    ended = monitoring.task_counts()
    assert [task.events[0].trips for task in living] == [2, 3]
    assert [task.events[0].trips for task in ended] == [3, 3]
    assert trips(monitoring) == [6]


def test_a_group_starts_with_its_leader():
    monitoring = session([returns(5)], ["{intel_bm/rets,threshold=1/,far-branch}"])
    monitoring.launch(["prog"])
    leader, sibling = (events[0] for events in monitoring.events)
    assert sibling.leader is leader
    assert not leader.enabled and not sibling.enabled
    monitoring.run()
    assert trips(monitoring) == [5, 0]
    assert all(count.enabled_ns > 0 for count in monitoring.counts())


def test_attributes_hold_for_events_that_do_not_say_otherwise():
    monitoring = session([returns(12)], ["rets", "intel_bm/rets,threshold=6/"], attributes={"threshold": "0x3"})
    monitoring.launch(["prog"])
    monitoring.run()
    # Both counters start afresh at each trip, so the event with the higher threshold never gets there.
    assert trips(monitoring) == [4, 0]


def test_what_the_driver_refuses_is_refused_before_anything_starts():
    made = []
    with pytest.raises(UnsupportedError) as caught:
        Session(parse_events(["rets,call-ret,far-branch"]), make_source=lambda tasks, sink: made.append(tasks))
    assert caught.value.slug == "counters-taken"
    assert "EBUSY" in caught.value.message and "far-branch" in caught.value.message
    assert caught.value.exit_code == 3
    assert made == []


@pytest.mark.parametrize(
    ("attributes", "slug", "errno_name"),
    [
        ({"nosuch": "1"}, "no-such-attribute", ""),
        ({"threshold": "128"}, "attribute-range", "EINVAL"),
        ({"threshold": "4294967296"}, "attribute-range", "ERANGE"),
        ({"threshold": " 5"}, "attribute-malformed", "EINVAL"),
        ({"window_size": ""}, "attribute-malformed", "EINVAL"),
    ],
)
def test_attributes_are_refused_as_sysfs_does(attributes, slug, errno_name):
    with pytest.raises(UsageError) as caught:
        session([], attributes=attributes)
    assert caught.value.slug == slug
    assert errno_name in caught.value.message


def test_strict_refuses_a_low_threshold():
    with pytest.raises(UsageError) as caught:
        session([], ["intel_bm/rets,threshold=1/"], strict=True)
    assert caught.value.slug in ("strict-threshold", "paranoid")


def test_a_signal_stops_the_run_and_what_was_counted_stays():
    monitoring = session([returns(4), signals_us(signal.SIGTERM), returns(4)])
    monitoring.launch(["prog"])
    before = signal.getsignal(signal.SIGTERM)
    with monitoring.stopped_by_signals():
        assert not monitoring.run()
        assert not monitoring.run()
    assert monitoring.stop_signal == signal.SIGTERM
    assert trips(monitoring) == [2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored():
    monitoring = session([signals_us(signal.SIGINT), returns(2)])
    monitoring.launch(["prog"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with monitoring.stopped_by_signals():
            assert monitoring.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert trips(monitoring) == [1]


@pytest.mark.parametrize("keyboard", [True, False])
def test_a_keyboards_interrupt_is_the_launched_programs_first(monkeypatch, keyboard):
    monkeypatch.setattr("branchmon.session._from_keyboard", lambda: keyboard)
    monitoring = session([returns(2), signals_us(signal.SIGINT), returns(2), signals_us(signal.SIGINT), returns(2)])
    monitoring.launch(["prog"])
    with monitoring.stopped_by_signals():
        assert not monitoring.run()
    assert trips(monitoring) == [2 if keyboard else 1]


def test_an_attach_that_takes_long_is_told(monkeypatch):
    monkeypatch.setattr("branchmon.session.SLOW_ATTACH_SECONDS", 0.0)
    told, heard = [], threading.Event()

    class Slow(ScriptedSource):
        def attach(self, pid):
            assert heard.wait(30), "the user was told while the attach was going on"
            return super().attach(pid)

    def progress(message):
        told.append(message)
        heard.set()

    monitoring = Session(
        parse_events(["rets"]), SessionOptions(progress=progress), make_source=lambda tasks, sink: Slow(tasks, [])
    )
    monitoring.attach(pids=[FIRST_PID])
    assert told == [f"attaching to process {FIRST_PID} takes a while …"]


def test_it_ends_with_the_program_if_asked_to_and_leaves_children_running():
    def program_ends(source):
        source.tasks.exited(source.tasks.get(FIRST_PID))

    script = [returns(2), fork, program_ends, returns(2, tid=FIRST_PID + 1)]
    monitoring = session(script, until_program_ends=True)
    monitoring.launch(["prog"])
    assert monitoring.run()
    assert trips(monitoring) == [1]
    monitoring = session(script)
    monitoring.launch(["prog"])
    assert monitoring.run()
    assert trips(monitoring) == [2]
