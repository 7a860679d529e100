"""The trip listener of ``watch``: decides by the policy, collects the evidence, reports, acts."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from branchmon.actions.choose import URGENT, Action
from branchmon.actions.command import CommandRunner
from branchmon.actions.core import DEFAULT_NAME, core_path, write_core
from branchmon.actions.outlets import Metrics, Syslog, Writer
from branchmon.actions.policy import Policy
from branchmon.driver.pmu import Trip
from branchmon.errors import BranchmonError
from branchmon.evidence.collect import Collector, TripView
from branchmon.evidence.model import SCHEMA, Dropped, Ended, Evidence, Record, encode
from branchmon.evidence.text import PLAIN_WIDTH, render, summary


@dataclass
class Outcomes:
    """What became of the trips."""

    trips: int = 0
    reported: int = 0
    suppressed: int = 0
    limited: int = 0
    unmet: int = 0


@dataclass
class Outlets:
    """Where to tell; None: not there.

    :ivar json: records instead of text go to the writer.
    """

    writer: Writer
    json: bool = False
    syslog: Syslog | None = None
    metrics: Metrics | None = None
    width: int = PLAIN_WIDTH

    def report(self, evidence: Evidence) -> None:
        """Tell of one trip everywhere."""
        if self.json:
            self.writer.write(encode(evidence))
        else:
            self.writer.write(render(evidence, terminal=self.writer.is_terminal, width=self.width).encode())
        if self.syslog is not None:
            self.syslog.send(summary(evidence), syslog_fields(evidence))

    def record(self, record: Record) -> None:
        """Write a record, if records are asked for."""
        if self.json:
            self.writer.write(encode(record))

    def tell(self, message: str) -> None:
        """A line to stderr, in order with the reports there."""
        line = f"branchmon: {message}\n"
        if self.writer.path is None and not self.json:
            self.writer.write(line.encode())
        else:
            sys.stderr.write(line)
            sys.stderr.flush()

    def close(self) -> None:
        """Finish what is waiting."""
        self.writer.close()
        if self.syslog is not None:
            self.syslog.close()


@dataclass
class Watcher:
    """What happens at each trip; put :meth:`tripped` among the driver's listeners.

    :ivar release: lets go of a process, stopped: the ``gdb`` action.
    :ivar enough: called once when `max_trips` trips were acted upon.
    """

    policy: Policy
    actions: Sequence[Action]
    outlets: Outlets
    release: Callable[[int], None]
    enough: Callable[[], None]
    max_trips: int | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    collector: Collector = field(default_factory=Collector)
    commands: CommandRunner | None = None
    _told: set[str] = field(default_factory=set)
    _ending: set[int] = field(default_factory=set)

    def tripped(self, trip: Trip) -> None:
        """One trip. Never raises: the watched program must not suffer from a full disk."""
        if trip.task.pid in self._ending or self.finished:
            return
        self.outcomes.trips += 1
        self._count("trips_total", event=",".join(e.config.event.perf_name for e in trip.events), comm=trip.task.comm)
        try:
            self._decide(trip)
        except ProcessLookupError:
            self._tell_once(f"process {trip.task.pid} was killed while its trip was looked at")
        except Exception as error:  # whatever the program did to its memory or files, it does not end the watch
            self._tell_once(f"no evidence of a trip: {error or type(error).__name__}")
            self._act_blindly(trip)

    def ended(self, status: int | None) -> Ended:
        """The last record."""
        o, lost = self.outcomes, self.outlets.writer.lost
        return Ended(SCHEMA, o.trips, o.reported, o.suppressed, o.limited, o.unmet, lost, status)

    # ---- inside ----------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """As many trips as were asked for have been acted upon."""
        return self.max_trips is not None and self.outcomes.reported >= self.max_trips

    def _decide(self, trip: Trip) -> None:
        policy = self.policy
        limited = policy.rate is not None and policy.rate.exhausted()
        actions = [action for action in self.actions if not limited or action.name in URGENT]
        if not actions and not policy.suppressed and not policy.conditions:
            self._outcome("limited")
            return
        view = self.collector.view(trip)
        if policy.suppressed and view.fingerprint() in policy.suppressed:
            self._outcome("suppressed")
            return
        facts = view.facts()
        if not policy.met(facts):
            self._outcome("unmet")
            return
        if not actions:
            self._outcome("limited")
            return
        if policy.rate is not None and not limited:
            policy.rate.use()
        self._outcome("reported")
        names = tuple(action.name for action in actions if action.name != "report")
        evidence = view.evidence(facts, names)
        for action in actions:
            self._act(action, view, evidence)
        if self.finished:
            self.enough()

    def _act(self, action: Action, view: TripView, evidence: Evidence) -> None:
        task = view.trip.task
        self._count("actions_total", action=action.name)
        if action.name == "report":
            self.outlets.report(evidence)
        elif action.name == "run":
            if self.commands is None:
                self.commands = CommandRunner()
            self.commands.run(action.value, encode(evidence))
        elif action.name == "core":
            path = os.path.abspath(core_path(action.value or DEFAULT_NAME, task.pid, view.trip.number))
            try:
                write_core(path, task)
                self.outlets.tell(f"core of process {task.pid} at trip {view.trip.number}: {path}")
            except BranchmonError as error:
                self._tell_once(str(error))  # a kill that follows is still done
        elif action.name == "stop":
            os.kill(task.pid, signal.SIGSTOP)
            self.outlets.tell(f"process {task.pid} stopped; go on by: kill -CONT {task.pid}")
        elif action.name == "gdb":
            self._ending.add(task.pid)
            self.release(task.pid)
            self.outlets.tell(f"process {task.pid} is stopped and let go of; debug it by: gdb -p {task.pid}")
        elif action.name == "kill":
            self._ending.add(task.pid)
            os.kill(task.pid, signal.SIGKILL)

    def _act_blindly(self, trip: Trip) -> None:
        """Stop or kill without evidence, unless that was to be the judge: a program must not escape by confusing it."""
        if self.policy.conditions or trip.task.pid in self._ending:
            return
        for action, number in (("stop", signal.SIGSTOP), ("kill", signal.SIGKILL)):
            if any(wanted.name == action for wanted in self.actions):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(trip.task.pid, number)

    def _outcome(self, name: str) -> None:
        setattr(self.outcomes, name, getattr(self.outcomes, name) + 1)
        self._count("outcomes_total", outcome=name)

    def _count(self, name: str, **labels: str) -> None:
        if self.outlets.metrics is not None:
            self.outlets.metrics.add(name, **labels)

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.outlets.tell(message)


def syslog_fields(evidence: Evidence) -> dict[str, str]:
    """What the journal can be searched for."""
    return {
        "pid": str(evidence.pid),
        "events": ",".join(evidence.events),
        "fingerprint": evidence.fingerprint,
        "module": evidence.instruction.module,
        "evidence": encode(evidence).decode().rstrip(),
    }


def dropped_line(*, json: bool) -> Callable[[int], bytes]:
    """How to tell that reports were dropped."""
    if json:
        return lambda records: encode(Dropped(SCHEMA, records))
    return lambda records: f"({records} reports dropped: the reader was too slow)\n\n".encode()
