"""Following programs that run already, letting them go, and what is left of them when branchmon is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Tasks
from branchmon.errors import TargetError
from branchmon.sources.base import LaunchOptions
from branchmon.sources.choose import choose
from branchmon.sources.maps import status_fields, threads, tracer_of
from driving import SOURCES, open_event

pytestmark = [pytest.mark.parametrize("source_name", SOURCES), pytest.mark.timeout(60)]


@contextmanager
def running(path: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """worker.c, all its threads at work."""
    with subprocess.Popen([path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[bytes]) -> None:
    """The program goes on as if nothing had happened: its threads count right, it ends as it should."""
    out, _ = process.communicate(b"\n", timeout=20)
    assert out == b"done\n"
    assert process.returncode == 4


@pytest.fixture
def made(source_name):
    tasks = Tasks(Pmu())
    source = choose(source_name)(tasks)
    yield source
    source.close()


def test_all_threads_are_followed_and_let_go(made, program):
    with running(program("worker.c"), "3") as process:
        pid = process.pid
        tasks = made.attach(pid)
        assert sorted(task.tid for task in tasks) == threads(pid)
        assert len(tasks) == 4
        events = [open_event(made.tasks.pmu, task, "rets", {"threshold": 10}) for task in tasks]
        assert made.run(timeout=1.0) is False
        made.sync()
        assert made.tasks.instructions() > 1000
        assert sum(event.read().value > 0 for event in events) == 3, "the three that count"
        made.release(pid)
        assert made.run() is True
        assert tracer_of(pid) == 0
        finish(process)


def test_one_thread_is_followed(made, program):
    with running(program("worker.c"), "2") as process:
        tid = threads(process.pid)[1]
        task = made.attach_task(tid)
        assert task.tid == tid
        if made.capabilities().name == "step":
            assert [int(status_fields(process.pid, other)["TracerPid"]) for other in threads(process.pid)].count(0) == 2
        event = open_event(made.tasks.pmu, task, "rets", {"threshold": 10})
        made.run(timeout=0.5)
        assert event.read().value > 0
        made.close()
        finish(process)


def test_events_switch_stepping_on_and_off(made, program):
    with running(program("worker.c"), "1") as process:
        tasks = made.attach(process.pid)
        made.run(timeout=0.2)
        assert made.tasks.instructions() == 0
        results = []

        def other_thread():
            events = made.call(lambda: [open_event(made.tasks.pmu, t, "rets", {"threshold": 5}) for t in tasks])
            while made.call(lambda: sum(event.read().value for event in events)) < 10:
                pass
            made.call(lambda: [event.disable() for event in events])
            results.append(made.call(made.tasks.instructions))
            time.sleep(0.1)
            results.append(made.call(made.tasks.instructions))
            made.interrupt()

        thread = threading.Thread(target=other_thread)
        thread.start()
        assert made.run() is False
        thread.join()
        assert results[0] > 0
        assert results[0] == results[1], "nothing is counted while the events are off"
        made.release(process.pid)
        finish(process)


def test_release_from_a_listener_may_leave_it_stopped(made, program):
    with running(program("worker.c"), "2") as process:
        pid = process.pid
        tasks = made.attach(pid)
        for task in tasks:
            open_event(made.tasks.pmu, task, "rets", {"threshold": 20})
        seen = []

        def look(trip):
            if not seen:
                seen.append((trip.task.context.registers().rip, len(trip.task.context.siblings())))
                made.release(pid, stop=True)

        made.tasks.pmu.listeners.append(look)
        assert made.run() is True
        assert seen[0][1] == 2
        assert tracer_of(pid) == 0
        deadline = time.monotonic() + 10
        while not status_fields(pid)["State"].startswith("T (stopped)"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)
        finish(process)


def test_a_stopped_program_stays_stopped(made, program):
    with running(program("worker.c"), "1") as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        for task in made.attach(process.pid):
            open_event(made.tasks.pmu, task)
        assert made.run(timeout=0.3) is False
        made.sync()
        assert made.tasks.instructions() == 0
        os.kill(process.pid, signal.SIGCONT)
        made.run(timeout=0.3)
        made.sync()
        assert made.tasks.instructions() > 0
        made.close()
        finish(process)


TRACER = """
import sys
sys.path[:0] = {path!r}
from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Tasks
from branchmon.sources.choose import choose
from branchmon.sources.base import LaunchOptions
from driving import open_event
source = choose({source!r})(Tasks(Pmu()))
{start}
for task in tasks:
    open_event(source.tasks.pmu, task)
print(tasks[0].pid, flush=True)
source.run(timeout=0.5)
print("stepping", flush=True)
source.run()
"""


def start_tracer(source_name: str, start: str) -> subprocess.Popen[bytes]:
    code = TRACER.format(path=[os.path.dirname(__file__) + "/.."], source=source_name, start=start)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def switches(pid: int) -> int:
    """How often the process's threads were taken off a processor: every step does that."""
    fields = [status_fields(pid, tid) for tid in threads(pid)]
    return sum(int(field.get("voluntary_ctxt_switches", 0)) for field in fields)


@pytest.mark.parametrize("round", range(3))
def test_the_program_survives_a_killed_branchmon_or_goes_along(source_name, round, program):
    """A translated program cannot run on alone: where it leaves its code cache, nobody would take it further."""
    with running(program("worker.c"), "2") as process:
        before = switches(process.pid)
        command = [sys.executable, "-m", "branchmon", "stat", "--source", source_name, "-e", "rets"]
        with subprocess.Popen([*command, "-p", str(process.pid)], stderr=subprocess.DEVNULL) as monitor:
            deadline = time.monotonic() + 20
            while tracer_of(process.pid) == 0 or (source_name == "step" and switches(process.pid) < before + 1000):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            monitor.kill()
        if not choose(source_name).source.capabilities().survives:
            assert process.wait(20) == -signal.SIGKILL
            return
        while tracer_of(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        finish(process)


def test_kill_on_exit_takes_the_program_along(source_name, program):
    start = f"tasks = [source.launch(LaunchOptions([{program('worker.c')!r}], kill_on_exit=True))]"
    with start_tracer(source_name, start) as tracer:
        pid = int(tracer.stdout.readline())
        while tracer.stdout.readline() != b"stepping\n":  # the program's own lines come between
            pass
        fd = os.pidfd_open(pid)
        tracer.kill()
        tracer.wait()
        import select

        assert select.select([fd], [], [], 20)[0], "the program has ended"
        os.close(fd)


def test_refusals(made, program):
    with pytest.raises(TargetError) as caught:
        made.attach(2**22 - 7)
    assert caught.value.slug == "no-such-process"
    with pytest.raises(TargetError) as caught:
        made.attach(os.getpid())
    assert caught.value.slug == "itself"
    with running(program("worker.c"), "1") as process:
        with pytest.raises(TargetError) as caught:
            made.attach(threads(process.pid)[1])
        assert caught.value.slug == "not-a-process"
        with start_tracer(made.capabilities().name, f"tasks = source.attach({process.pid})") as tracer:
            tracer.stdout.readline()
            with pytest.raises(TargetError) as caught:
                made.attach(process.pid)
            assert caught.value.slug == "already-traced"
            assert str(tracer.pid) in str(caught.value)
            tracer.kill()
            tracer.wait()


def test_programs_that_cannot_be_started(made, tmp_path):
    def refusal(*argv: str) -> tuple[str, int]:
        with pytest.raises(TargetError) as caught:
            made.launch(LaunchOptions(argv))
        return caught.value.slug, caught.value.exit_code

    def file(name: str, content: bytes, mode: int = 0o755) -> str:
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
        return str(tmp_path / name)

    assert refusal("no-such-program-anywhere") == ("not-found", 127)
    assert refusal(str(tmp_path / "missing")) == ("not-found", 127)
    assert refusal(str(tmp_path)) == ("not-executable", 126)
    assert refusal(file("data", b"x", 0o644)) == ("not-executable", 126)
    assert refusal(file("bare", b"echo hello\n")) == ("no-interpreter", 126)
    assert refusal(file("lost", b"#!/no/such/interpreter\n")) == ("no-interpreter", 126)
    assert refusal(file("old", b"\x7fELF\x01\x01\x01" + bytes(60))) == ("32-bit", 126)
    assert refusal(file("junk", bytes(100))) == ("not-a-program", 126)
    assert len(made.tasks) == 0
