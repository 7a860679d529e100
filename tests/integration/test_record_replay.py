"""Record and replay equals live: every event, random settings, on programs with threads, forks, execs and signals."""

import random
import subprocess
from pathlib import Path

import pytest

from branchmon.counts import CountResult
from branchmon.driver.config import EventConfig, packed_config
from branchmon.driver.syntax import EventRequest
from branchmon.events import BmEvent
from branchmon.session import Session, SessionOptions
from branchmon.sources.choose import capabilities
from branchmon.traces.reader import Trace
from branchmon.traces.recorder import Recorder, new_metadata
from branchmon.traces.ring import FileStore
from branchmon.traces.trips import replay
from branchmon.traces.writer import TraceWriter

PROGRAMS = Path(__file__).parent.parent / "programs"
NAMES = ["straight.s", "mix.c", "kinds.s", "threads.s", "takeover.c", "rep.s"]
STEP = next((c for c in capabilities() if c.name == "step"), None)
pytestmark = pytest.mark.skipif(
    STEP is None or not STEP.available, reason=f"no single-stepping here: {STEP.why if STEP else 'no such source'}"
)


@pytest.fixture(scope="module", params=NAMES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    path = tmp_path_factory.mktemp("program") / name.partition(".")[0]
    flags = ["-nostdlib", "-static", "-fno-stack-protector", "-fcf-protection=none", "-O1"]
    subprocess.run(["gcc", *flags, "-o", str(path), str(PROGRAMS / name)], check=True, capture_output=True)
    return path


def random_config(rng: random.Random, event: BmEvent) -> EventConfig:
    return EventConfig(
        event,
        window_size=rng.choice([rng.randrange(1, 40), rng.randrange(1, 1024), 1023]),
        threshold=rng.choice([1, 2, rng.randrange(1, 12), rng.randrange(128)]),
        window_cnt_sel=rng.choice([0, 0, 1, 2, 3]),
        cnt_and_mode=rng.choice([0, 0, 1]),
        mispred_evt_cnt=rng.choice([0, 0, 1]),
        lbr_freeze=rng.choice([0, 1]),
    )


def record_live(path: str, argv: list[str], requests: list[EventRequest]) -> tuple[CountResult, int]:
    """Run a program with events and a recorder at the same time."""
    recorder = Recorder(TraceWriter(FileStore(path), new_metadata(program=argv, source="step")))
    options = SessionOptions(source="step", sink=recorder, totals=True)
    with Session(requests, options) as session:
        session.launch(argv)
        assert session.run(timeout=120)
        result = session.result()
    recorder.close()
    assert recorder.error is None
    return result, session.pmu.trips


def check(tmp_path: Path, argv: list[str], pairs: int, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(pairs):
        events = [BmEvent(number % 6), rng.choice(list(BmEvent))]
        requests = [
            EventRequest(str(i), packed_config(random_config(rng, event)) | 1 << 32) for i, event in enumerate(events)
        ]
        path = str(tmp_path / "t")
        live, trips = record_live(path, argv, requests)
        found = replay(Trace(path), requests, SessionOptions(totals=True))
        assert found.result.warnings == []
        assert [(e.trips, e.highest) for e in found.result.events] == [(e.trips, e.highest) for e in live.events]
        assert found.result.totals == live.totals
        assert found.all_trips == trips


def test_record_and_replay_equals_live(program: Path, tmp_path: Path) -> None:
    check(tmp_path, [str(program)], 6, seed=len(program.name))


@pytest.mark.soak
def test_record_and_replay_equals_live_for_long(program: Path, tmp_path: Path) -> None:
    check(tmp_path, [str(program)], 50, seed=1)


@pytest.mark.soak
def test_record_and_replay_of_a_dynamic_program(tmp_path: Path) -> None:
    check(tmp_path, ["/bin/true"], 3, seed=2)
