"""``branchmon stat`` on a terminal: ^C and ^Z reach the program, as without us."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


class Terminal:
    """A job on a terminal of its own, under the job control of tests/programs/job.py."""

    def __init__(self, *command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, str(PROGRAMS / "job.py"), *map(str, command)])
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)  # hangs up the terminal: SIGHUP to whoever is left
        deadline = time.monotonic() + 30
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            assert time.monotonic() < deadline, "still there after the terminal hung up"
            time.sleep(0.01)

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, pattern, seconds=60):
        """Read until the output has `pattern`; what matched, taken off the output."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode()
            except OSError:
                raise AssertionError(f"no {pattern!r} at the end of {self.seen!r}") from None
        self.seen = self.seen[found.end() :]
        return found


@pytest.fixture(scope="module")
def lifecycle(tmp_path_factory):
    target = tmp_path_factory.mktemp("program") / "lifecycle"
    subprocess.run(["gcc", "-O1", "-static", "-o", target, PROGRAMS / "lifecycle.c"], check=True, timeout=60)
    return target


def stat(program):
    return Terminal(sys.executable, "-m", "branchmon", "stat", "--source", "step", "--", program)


def test_an_interrupt_ends_the_program_and_the_table_is_printed(lifecycle):
    with stat(lifecycle) as terminal:
        terminal.type("r 1\n")
        terminal.wait_for("done r 1")
        terminal.type("\x03")
        terminal.wait_for("intel_bm/rets/")
        assert terminal.wait_for(r"code (-?\d+)")[1] == "130"


def test_a_program_that_handles_the_interrupt_decides(lifecycle):
    with stat(lifecycle) as terminal:
        terminal.type("i\n")
        terminal.wait_for("done i")
        terminal.type("\x03")
        terminal.wait_for("intel_bm/rets/")
        assert terminal.wait_for(r"code (-?\d+)")[1] == "42"


def test_a_stopped_job_continues_with_the_same_outcome(lifecycle):
    with stat(lifecycle) as terminal:
        for _ in range(2):
            terminal.type("r 1\n")
            terminal.wait_for("done r 1")
            terminal.type("\x1a")
            terminal.wait_for("stopped")
            terminal.type("\n")
            terminal.wait_for("continued")
        terminal.type("r 2\n")
        terminal.wait_for("done r 2")
        terminal.type("e 9\n")
        terminal.wait_for("intel_bm/rets/")
        assert terminal.wait_for(r"code (-?\d+)")[1] == "9"
