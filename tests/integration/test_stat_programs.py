"""``branchmon stat`` on real programs, single-stepped: counts worked out by hand, exit codes, signals, attach."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"
BRANCHMON = [sys.executable, "-m", "branchmon"]
STAT = [*BRANCHMON, "stat", "--source", "step"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Compile a test program, once for the same options."""
    made = {}

    def compiled(source, *options):
        if (source, options) not in made:
            target = tmp_path_factory.mktemp("program") / Path(source).stem
            subprocess.run(["gcc", "-o", target, *options, PROGRAMS / source], check=True, timeout=60)
            made[source, options] = target
        return made[source, options]

    return compiled


@pytest.fixture
def returns(build):
    """The program of returns.S with so many plain instructions before so many calls."""
    return lambda pad, loops: build("returns.S", "-nostdlib", "-static", f"-DPAD={pad}", f"-DLOOPS={loops}")


@pytest.fixture
def lifecycle(build):
    return build("lifecycle.c", "-O1", "-static")


def stat(*argv, code=0, **settings):
    """Run stat to its end; its stderr."""
    done = subprocess.run([*STAT, *map(str, argv)], capture_output=True, text=True, timeout=120, **settings)
    assert done.returncode == code, done.stderr
    return done.stderr


def trips(*argv, **settings):
    """The trips of each event."""
    return [int(json.loads(line)["counter-value"].split(".")[0]) for line in stat("-j", *argv, **settings).splitlines()]


class Running:
    """A process driven by lines on its stdin, killed at the end if it still runs."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        self.process.wait(60)

    def do(self, line):
        """Send a command and wait until it is done."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"done {line}\n"

    def end(self):
        """Wait for the end: exit code and stderr."""
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


# ---- counts ---------------------------------------------------------------------------------------------------------


def test_the_golden_example(build):
    program = build("golden.c", "-O1", "-nostdlib", "-static", "-fcf-protection=none", "-fno-stack-protector")
    err = stat("-e", "intel_bm/rets/", "--set", "threshold=100", "--", program)
    assert re.search(r"^ +1      intel_bm/rets/$", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("pad", "loops", "event", "expected"),
    [
        # The whole loop lies in the first window (1 + 4 * 128 instructions of 1023).
        (0, 128, "threshold=100", 1),
        (0, 128, "threshold=64", 2),
        (0, 128, "threshold=65", 1),
        (0, 127, "threshold=127", 1),  # threshold = count
        (0, 126, "threshold=127", 0),  # count + 1
        (0, 128, "threshold=1", 128),
        # 766 nops, 1 mov and 64 loops are the first window exactly: 64 returns on either side of its edge.
        (766, 128, "threshold=64", 2),
        (766, 128, "threshold=65", 0),
        # One less: the 65th call is the window's last instruction, its return belongs to the next one.
        (765, 128, "threshold=65", 0),
        # Two less: the 65th return is the window's last instruction, and counts in it.
        (764, 128, "threshold=65", 1),
        (764, 128, "threshold=66", 0),
        # A window of N returns never holds N + 1; the trip comes before its end.
        (500, 128, "threshold=50,window_size=50,window_cnt_sel=2", 2),
        (500, 128, "threshold=51,window_size=50,window_cnt_sel=2", 0),
        # A window of branches: call, ret and jnz of each loop.
        (0, 100, "threshold=10,window_size=30,window_cnt_sel=1", 10),
        (0, 100, "threshold=11,window_size=30,window_cnt_sel=1", 0),
        # A window that is cleared after every fourth instruction holds one return.
        (3, 100, "threshold=1,window_size=4", 100),
        (3, 100, "threshold=2,window_size=4", 0),
    ],
)
def test_placed_windows(returns, pad, loops, event, expected):
    assert trips("-e", f"intel_bm/rets,{event}/", "--", returns(pad, loops)) == [expected]


def test_totals_of_a_program_whose_listing_is_known(returns):
    found = json.loads(stat("-v", "-j", "-e", "rets,call-ret", "--", returns(10, 50)))
    assert found["totals"] == {
        "instructions": 10 + 1 + 4 * 50 + 3,
        "branches": 3 * 50 + 1,
        "near_returns": 50,
        "near_calls": 50,
        "indirect_branches": 0,
        "far_branches": 1,
        "mispredicted": found["totals"]["mispredicted"],
    }
    assert found["branches_by_kind"]["conditional"] == 50
    assert found["not_taken"] == 1
    assert found["windows"] == 0
    # The bias never gets above 0: every return is after its call.
    assert [event["highest"] for event in found["events"]] == [50, 0]
    assert found["status"] == 0


def test_two_runs_give_the_same_counts(returns):
    err = stat("-j", "-r", "2", "-e", "intel_bm/rets,threshold=7/", "--", returns(0, 70))
    found = json.loads(err)
    assert (found["counter-value"], found["variance"]) == ("10.000000", 0)


def test_two_events_share_one_window_but_count_apart(returns):
    found = trips("-e", "intel_bm/rets,threshold=10/,intel_bm/far-branch,threshold=1/", "--", returns(0, 25))
    # Trips at returns 10 and 20 clear both counters; the system call at the end trips the other.
    assert found == [2, 1]


def test_stat_imports_no_numba(returns):
    code = "import sys; from branchmon.commands import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, *STAT[3:], "--", str(returns(0, 1))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "branchmon" in imported
    assert imported & {"numba", "pyarrow", "bokeh"} == set()


# ---- the program is not disturbed -----------------------------------------------------------------------------------


def test_stdout_and_exit_status_are_the_programs(lifecycle):
    done = subprocess.run([*STAT, "--", lifecycle], input="r 1\ne 7\n", capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (7, "done r 1\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_kills_the_program_gives_128_and_its_number(lifecycle, number):
    with Running(*STAT, "--", lifecycle) as running:
        running.process.stdin.write(f"k {int(number)}\n")
        code, err = running.end()
    assert code == 128 + number
    assert "intel_bm/rets/" in err


def test_stat_ends_with_the_program_and_leaves_its_child_running(lifecycle):
    with Running(*STAT, "--", lifecycle) as running:
        running.process.stdin.write("b\n")
        running.process.stdin.flush()
        running.process.wait(60)  # stdin is still open, so the child still waits
        assert running.process.returncode == 0
        running.process.stdin.close()
        assert running.process.stdout.read() == ""


# ---- attach, stop ---------------------------------------------------------------------------------------------------


def attached(running):
    """Wait until a process is traced."""
    for line in _status_lines(running.process.pid, "TracerPid"):
        if line.split()[1] != "0":
            return
    raise AssertionError("not attached")


def _status_lines(pid, key, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/status") as file:
            yield next(line for line in file if line.startswith(key))
        time.sleep(0.01)


def test_attach_counts_until_a_signal_and_the_program_goes_on(lifecycle):
    with Running(lifecycle) as target:
        target.do("r 1")
        event = "intel_bm/rets,threshold=100,window_size=100,window_cnt_sel=2/"
        with Running(*STAT, "-v", "-j", "-e", event, "-p", target.process.pid) as monitor:
            attached(target)
            target.do("r 1000")
            monitor.process.send_signal(signal.SIGINT)
            code, err = monitor.end()
        assert code == 130
        found = json.loads(err)
        assert found["totals"]["near_returns"] >= 1000
        assert found["events"][0]["trips"] == found["totals"]["near_returns"] // 100
        assert (found["status"], found["user"]) == (None, None)
        assert target.process.poll() is None
        target.do("r 2")
        target.process.stdin.write("e 5\n")
        assert target.end()[0] == 5


def test_attach_ends_with_the_timeout(lifecycle):
    with Running(lifecycle) as target:
        target.do("r 1")
        err = stat("-p", target.process.pid, "--timeout", "300")
        assert f"Performance counter stats for process id '{target.process.pid}'" in err
        assert "user" not in err
        target.do("r 1")


def test_attach_ends_with_the_target(lifecycle):
    with Running(lifecycle) as target:
        target.do("r 1")
        with Running(*STAT, "-t", target.process.pid) as monitor:
            attached(target)
            target.process.stdin.write("e 3\n")
            target.process.stdin.flush()
            code, err = monitor.end()
        assert code == 0
        assert f"thread id '{target.process.pid}'" in err
        assert target.end()[0] == 3


def test_a_timeout_terminates_a_launched_program(lifecycle):
    with Running(*STAT, "--timeout", "500", "--", lifecycle) as running:
        running.process.wait(60)
        assert running.process.returncode == 128 + signal.SIGTERM
        assert "intel_bm/rets/" in running.process.stderr.read()


def test_sigterm_prints_what_was_counted_and_the_program_goes_on(lifecycle):
    with Running(*STAT, "-e", "intel_bm/rets,threshold=1/", "--", lifecycle) as running:
        running.do("r 10")
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)
        assert running.process.returncode == 128 + signal.SIGTERM
        running.do("r 10")  # the pipes are the program's
        running.process.stdin.write("e 0\n")
        running.process.stdin.flush()
        assert re.search(r"^ +[1-9]\d*      intel_bm/rets,threshold=1/$", running.process.stderr.read(), re.MULTILINE)


def test_kill_on_exit_takes_the_program_along(lifecycle):
    with Running(*STAT, "--kill-on-exit", "--", lifecycle) as running:
        running.do("r 1")
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)
        assert running.process.stdout.read() == "", "its end of the pipe is closed"


# ---- what cannot be -------------------------------------------------------------------------------------------------


def no_such_pid():
    with open("/proc/sys/kernel/pid_max") as file:
        return int(file.read()) - 1


def _script(path, first_line, mode=0o755):
    path.write_text(f"{first_line}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("what", "code", "slug"),
    [
        ("a program that is not there", 127, "not-found"),
        ("a path that is not there", 127, "not-found"),
        ("a file without execute permission", 126, "not-executable"),
        ("a directory", 126, "not-executable"),
        ("a script whose interpreter is not there", 126, "no-interpreter"),
        ("a process that is not there", 1, "no-such-process"),
    ],
)
def test_targets_that_cannot_be(tmp_path, what, code, slug):
    argv = {
        "a program that is not there": ["--", "no-such-program-here"],
        "a path that is not there": ["--", "/nonexistent/program"],
        "a file without execute permission": ["--", _script(tmp_path / "plain", "#!/bin/sh", 0o644)],
        "a directory": ["--", "/etc"],
        "a script whose interpreter is not there": ["--", _script(tmp_path / "script", "#!/nonexistent/interpreter")],
        "a process that is not there": ["-p", no_such_pid()],
    }[what]
    err = stat(*argv, code=code)
    assert f"[{slug}]" in err
    assert len(err.splitlines()) >= 2, "and what to do about it"
    assert "Traceback" not in err


def test_a_32_bit_program_is_refused(build, tmp_path):
    target = tmp_path / "program32"
    source = tmp_path / "program32.s"
    source.write_text(".globl _start\n_start: mov $1, %eax\nxor %ebx, %ebx\nint $0x80\n")
    made = subprocess.run(
        ["gcc", "-m32", "-nostdlib", "-static", "-o", target, source], capture_output=True, timeout=60
    )
    if made.returncode:
        pytest.skip("gcc cannot make 32-bit programs here")
    assert "[32-bit]" in stat("--", target, code=126)


def test_somebody_elses_process_is_refused():
    if os.getuid() != 0:
        pytest.skip("needs root, to become nobody")
    # Everything is imported before: nobody may not be able to read this Python.
    code = (
        "import os, sys, branchmon.commands.stat, branchmon.reports.perf_text, branchmon.driver.refusals;"
        "import branchmon.sources.step.source, branchmon.sources.choose, rich_argparse;"
        "from branchmon.commands import main, make_parser, command_module;"
        "make_parser('stat', command_module('stat')).format_usage();"
        "import codecs; codecs.lookup('ascii'); os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "sys.exit(main(['stat', '--source', 'step', '-p', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "[no-permission]" in done.stderr and "Traceback" not in done.stderr


def test_a_traced_process_is_refused(lifecycle):
    with Running(lifecycle) as target:
        target.do("r 1")
        with Running(*STAT, "-p", target.process.pid) as first:
            attached(target)
            assert "[already-traced]" in stat("-p", target.process.pid, code=1)
            first.process.send_signal(signal.SIGTERM)
            assert first.end()[0] == 128 + signal.SIGTERM
        target.do("r 1")


def test_a_full_disk_loses_nothing(returns):
    err = stat("-e", "intel_bm/rets,threshold=10/", "-o", "/dev/full", "--", returns(0, 25), code=4)
    assert re.search(r"^ +2      intel_bm/rets,threshold=10/$", err, re.MULTILINE)
    assert "[output-failed]" in err
