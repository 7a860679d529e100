"""Unmodified perf, every way of it, against `branchmon stat` on the same program."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shells import inside, need_shell, returns128

EVENT = "intel_bm/rets,threshold=10/"


@pytest.fixture(scope="module", autouse=True)
def _perf() -> None:
    need_shell("perf", "gcc")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return returns128(tmp_path_factory.mktemp("perf"))


@pytest.fixture(scope="module")
def expected(program: Path) -> str:
    """The number of trips that `branchmon stat` counts; by hand: 128 returns, a trip at every tenth."""
    command = [sys.executable, "-m", "branchmon", "stat", "--source", "step", "-x;", "-e", EVENT, "--", str(program)]
    counted = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr.split(";")[0]
    assert counted == "12"
    return counted


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-i",),
        ("-D", "50"),
        ("-I", "100"),
        ("--timeout", "60000"),
        ("-e", "cpu-clock,page-faults"),
    ],
)
def test_counts_are_those_of_stat(program: Path, expected: str, options: tuple[str, ...]) -> None:
    result = inside("perf", "stat", "-x;", *options, "-e", EVENT, program)
    counts = [line.split(";") for line in result.stderr.splitlines() if "intel_bm" in line]
    total = sum(int(field) for line in counts for field in line if field == line["-I" in options] and field.isdecimal())
    # With a delay, the program is over before counting starts.
    assert counts and (total in (0, int(expected)) if "-D" in options else total == int(expected)), result.stderr


def test_golden_example(program: Path) -> None:
    script = f"echo 100 > /sys/devices/intel_bm/threshold; perf stat -e intel_bm/rets/ {program}"
    assert re.search(r"^ +1 +intel_bm/rets/", inside("sh", "-c", script).stderr, re.MULTILINE)


def test_json(program: Path, expected: str) -> None:
    rows = inside("perf", "stat", "-j", "-e", EVENT, program).stderr.splitlines()
    assert [float(json.loads(row)["counter-value"]) for row in rows if row.startswith("{")] == [float(expected)]


def test_repeated(program: Path, expected: str) -> None:
    result = inside("perf", "stat", "-r", "3", "-e", EVENT, program)
    # perf prints no deviation where all runs agree.
    assert re.search(rf"^ +{expected} +intel_bm/rets,threshold=10/ *$", result.stderr, re.MULTILINE), result.stderr
    assert "(3 runs)" in result.stderr


@pytest.mark.parametrize(
    "events", [f"{EVENT},intel_bm/far-branch,threshold=1/", f"{{{EVENT},intel_bm/far-branch,threshold=1/}}"]
)
def test_two_events_and_groups(program: Path, expected: str, events: str) -> None:
    rows = [line.split(";")[0] for line in inside("perf", "stat", "-x;", "-e", events, program).stderr.splitlines()]
    assert rows == [expected, "1"]


def test_per_thread_and_running_processes(program: Path) -> None:
    script = (
        "sleep 60 & pid=$!; "
        f"perf stat -x';' --timeout 100 -e {EVENT} -p $pid; perf stat -x';' --timeout 100 -e {EVENT} -t $pid; "
        f"perf stat -x';' --per-thread --timeout 100 -e {EVENT} -p $pid; kill $pid"
    )
    rows = [row for row in inside("sh", "-c", script).stderr.splitlines() if "intel_bm" in row]
    counts = [re.search(r"(?:^|;)(\d+);;intel_bm", row) for row in rows]
    assert [found.group(1) if found else None for found in counts] == ["0"] * 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stat", "-e", "intel_bm/rets/,intel_bm/rets/,intel_bm/rets/"), "Device or resource busy"),
        (("stat", "-a", "-e", "intel_bm/rets/"), "not supported"),
        (("stat", "-C", "0", "-e", "intel_bm/rets/"), "not supported"),
        (("record", "-o", "/dev/null", "-e", "intel_bm/rets/"), "doesn't support sampling"),
    ],
)
def test_refusals_are_perfs_own(program: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in inside("perf", *arguments, program).stderr


def test_foreign_events_go_to_the_kernel(program: Path) -> None:
    result = inside("perf", "stat", "-x;", "-e", "page-faults", program)
    assert int(result.stderr.split(";")[0]) > 0


def test_list_and_stat_record(program: Path, expected: str, tmp_path: Path) -> None:
    listed = inside("perf", "list", "--raw-dump").stdout
    assert {"intel_bm/rets/", "intel_bm/call-ret/", "intel_bm/far-branch/"} <= set(listed.split())
    data = tmp_path / "perf.data"
    script = f"perf stat record -o {data} -e {EVENT} {program} 2>/dev/null; perf stat report -i {data}"
    result = inside("sh", "-c", script)
    assert re.search(rf"^ +{expected} +intel_bm", result.stdout + result.stderr, re.MULTILINE)
