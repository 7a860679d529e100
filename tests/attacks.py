"""Runs the toy server under the detector, with and without an attack: did it trip, and before the attack had effect?"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import rop
from branchmon.driver.pmu import Trip
from branchmon.driver.syntax import parse_events
from branchmon.session import Session, SessionOptions
from driving import redirected

Listener = Callable[[Session, Trip, bool], None]


@dataclass
class Seen:
    """What one run showed.

    :ivar before: trips before the attack's file was there.
    :ivar after: trips from then on.
    :ivar highest: the highest count in any window.
    """

    before: int
    after: int
    highest: int
    effect: bool
    stdout: bytes
    status: int | None


def run_server(
    target: rop.Target,
    event: str,
    requests: Sequence[bytes],
    *,
    listener: Listener | None = None,
    evidence: bool = False,
) -> Seen:
    """Serve `requests` under one event, in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / rop.FILE_NAME.decode()
        counts = [0, 0]

        def tripped(trip: Trip) -> None:
            there = file.exists()
            counts[there] += 1
            if listener is not None:
                listener(session, trip, there)

        with redirected(rop.serve(*requests)) as (restore, read):
            with Session(parse_events([event]), SessionOptions(evidence=evidence)) as session:
                session.pmu.listeners.append(tripped)
                session.launch([str(target.path)], cwd=directory, env={})
                restore()
                session.run()
                result = session.result()
            stdout, _ = read()
        seen = Seen(*counts, result.events[0].highest, file.exists(), stdout, result.status)
        with suppress(FileNotFoundError):
            os.unlink(file)
        return seen


def alignments(count: int) -> list[tuple[bytes, ...]]:
    """Harmless requests (the same in every run) before an attack, so that it meets the window at many places."""
    choice = random.Random(5)
    return [tuple(b"w" * choice.randint(1, 32) for _ in range(3)) for _ in range(count)]
