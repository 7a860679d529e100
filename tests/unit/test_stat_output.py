"""The tables of ``branchmon stat``: numbers worked out by hand, in the layout of the real perf where there is one."""

import csv
import json
import os
import re
import shutil
import subprocess

import pytest

from branchmon.commands import main
from branchmon.events import BranchKind
from branchmon.reports.rows import deviation, relative_deviation
from scripted import FIRST_PID, branches, returns, signals_us, use_script

EVENTS = ["-e", "intel_bm/rets,threshold=50/,far-branch"]
SCRIPT = [returns(300, gap=3), returns(5)]  # 305 returns: 6 trips of 50, 5 left; 1205 instructions


def stat(capsys, *argv, program=("ls", "-l")):
    """Exit code and lines of stderr."""
    code = main(["stat", *EVENTS, *argv, *(["--", *program] if program else [])])
    out, err = capsys.readouterr()
    assert out == "", "stdout is the program's"
    return code, err.splitlines()


def perf(*argv):
    """What the real perf prints for software events of a short sleep."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    command = ["perf", "stat", "-e", "page-faults,context-switches", *argv, "sleep", "0.15"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, timeout=60)
    if done.returncode or "not supported" in done.stderr:
        pytest.skip(f"perf cannot count software events here: {done.stderr.strip()}")
    return done.stderr.splitlines()


def shape(line):
    """A line with its numbers and names blotted out: what stands where stays."""
    line = re.sub(
        r"(\s+)(<not counted>|[\d,]+)( {6})\S.*", lambda m: f"count ends at {m.end(2)}, name at {m.end(3)}", line
    )
    return re.sub(r"\d+", "0", line).replace("'sleep 0.0'", "PROGRAM").replace("'ls -l'", "PROGRAM").rstrip()


def test_text_has_perfs_layout(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    code, lines = stat(capsys)
    assert code == 0
    assert [line.split() for line in lines if "/" in line or "far" in line] == [
        ["6", "intel_bm/rets,threshold=50/"],
        ["0", "far-branch"],
    ]
    assert list(map(shape, lines)) == list(map(shape, perf()))


def test_intervals_have_perfs_layout(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    _, lines = stat(capsys, "-I", "100")
    assert {shape(line) for line in lines} == {shape(line) for line in perf("-I", "100") if "<not" not in line}


def test_runs_have_perfs_layout(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    _, lines = stat(capsys, "-r", "3")
    theirs = perf("-r", "3")
    time = re.compile(r" +\d+\.\d+ \+- \d+\.\d+ seconds time elapsed  \( \+- +\d+\.\d\d% \)")
    blotted = [
        [time.sub("TIME", re.sub(r"sys|(?<!elapsed)  \( \+-.*", "", line)) for line in part] for part in (lines, theirs)
    ]
    assert "TIME" in blotted[0]
    assert list(map(shape, blotted[0])) == list(map(shape, blotted[1]))
    assert " (3 runs):" in lines[1]


def test_csv_has_perfs_fields(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    _, lines = stat(capsys, "-x", ";")
    assert [line.split(";")[:3] for line in lines] == [
        ["6", "", "intel_bm/rets,threshold=50/"],
        ["0", "", "far-branch"],
    ]
    theirs = perf("-x", ";")
    kinds = [[_kind(field) for field in line.split(";")] for line in (lines[0], theirs[0])]
    assert kinds[0][3:] == kinds[1][3:]
    assert len(kinds[0]) == len(kinds[1])
    _, lines = stat(capsys, "-x", ";", "-r", "2")
    kinds = [[_kind(field) for field in line.split(";")] for line in (lines[0], perf("-x", ";", "-r", "2")[0])]
    assert kinds[0][3:] == kinds[1][3:]


def _kind(field):
    return re.sub(r"\d+", "0", field)


def test_an_event_with_the_separator_in_it_is_quoted(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    _, lines = stat(capsys, "-x", ",")
    rows = list(csv.reader(lines))
    assert [row[:3] for row in rows] == [["6", "", "intel_bm/rets,threshold=50/"], ["0", "", "far-branch"]]
    assert {len(row) for row in rows} == {7}


@pytest.mark.parametrize("options", [[], ["-r", "2"], ["-I", "100"]])
def test_json_has_perfs_keys(monkeypatch, capsys, options):
    use_script(monkeypatch, SCRIPT)
    _, lines = stat(capsys, "-j", *options)
    mine, theirs = json.loads(lines[0]), json.loads(perf("-j", *options)[0])
    assert mine["counter-value"] == "6.000000"
    known = [key for key in theirs if not key.startswith("metric")]
    assert [key for key in mine if not key.startswith("metric")] == known
    assert {key: type(mine[key]) for key in known} == {key: type(theirs[key]) for key in known}


def test_verbose_json_is_one_object_with_the_totals(monkeypatch, capsys):
    kinds = [(BranchKind.CALL, 7), (BranchKind.INDIRECT_CALL, 5), (BranchKind.INDIRECT_JUMP, 3), (BranchKind.FAR, 2)]
    use_script(monkeypatch, [*(branches(kind, number) for kind, number in kinds), returns(4, gap=10)])
    _, (line,) = stat(capsys, "-v", "-j")
    found = json.loads(line)
    assert found["totals"] == {
        "instructions": 7 + 5 + 3 + 2 + 4 * 11,
        "branches": 21,
        "near_returns": 4,
        "near_calls": 12,
        "indirect_branches": 8,
        "far_branches": 2,
        "mispredicted": found["totals"]["mispredicted"],
    }
    assert found["totals"]["mispredicted"] > 0, "cold indirect branches: the predictor ran"
    assert found["branches_by_kind"]["indirect_jump"] == 3
    assert [event["highest"] for event in found["events"]] == [4, 2]
    assert (found["version"], found["status"]) == (1, 0)


def test_verbose_text_shows_what_a_threshold_is_chosen_by(monkeypatch, capsys):
    # windows of 1023 instructions: 40 returns, then the window ends in the plain instructions
    use_script(monkeypatch, [returns(40), returns(1, gap=1000), returns(1, gap=5000)])
    _, lines = stat(capsys, "-v")
    text = "\n".join(lines)
    assert re.search(r" 0 +intel_bm/rets,threshold=50/ +# highest count in a window: 40$", text, re.MULTILINE)
    assert re.search(r"^ +6042      instructions$", text, re.MULTILINE)
    assert re.search(r"^ +42        near returns$", text, re.MULTILINE)
    assert re.search(r"^ +5      windows that ended without a trip$", text, re.MULTILINE)


def test_threads_are_named_as_perf_names_them(monkeypatch, capsys):
    use_script(monkeypatch, [returns(100), returns(50, tid=FIRST_PID + 1)])
    _, lines = stat(capsys, "--per-thread", "-x", ";", "-p", str(FIRST_PID), program=())
    assert [line.split(";")[:2] for line in lines if "rets" in line] == [
        [f"task0-{FIRST_PID}", "2"],
        [f"task1-{FIRST_PID + 1}", "1"],
    ]
    _, lines = stat(capsys, "--per-thread", "-p", str(FIRST_PID), program=())
    assert lines[1] == f" Performance counter stats for process id '{FIRST_PID}':"
    assert lines[3] == f"{'task0':>16}-{FIRST_PID:<8} {2:>18}      intel_bm/rets,threshold=50/"


def test_intervals_add_up(monkeypatch, capsys):
    use_script(monkeypatch, [returns(120), returns(120), returns(60)])
    times = iter(range(1000))  # each look at the clock is a second later, so that each step is an interval of its own
    monkeypatch.setattr("branchmon.commands.stat.time.monotonic", lambda: float(next(times)))
    _, lines = stat(capsys, "-I", "1000", "-x", ";")
    assert [line.split(";")[1] for line in lines if "rets" in line] == ["2", "2", "2"]


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (9, 137), (11 | 128, 139)])
def test_the_exit_code_is_the_programs(monkeypatch, capsys, status, code):
    use_script(monkeypatch, SCRIPT, status=status)
    assert stat(capsys)[0] == code


def test_a_signal_prints_what_was_counted_so_far(monkeypatch, capsys):
    made = use_script(monkeypatch, [returns(100), signals_us(15), returns(100)])
    code, lines = stat(capsys)
    assert code == 128 + 15
    assert any(line.split() == ["2", "intel_bm/rets,threshold=50/"] for line in lines)
    assert made[0].calls[-1] == "close"


def test_warnings_of_the_source_follow_the_table(monkeypatch, capsys, tmp_path):
    use_script(monkeypatch, SCRIPT, warnings=["3 instructions could not be decoded"])
    for argv in ([], ["-j"], ["-x,"], ["-o", str(tmp_path / "out")]):
        _, lines = stat(capsys, *argv)
        assert "3 instructions could not be decoded" in lines[-1]
    assert "3 instructions could not be decoded" in (tmp_path / "out").read_text()


def test_output_goes_to_a_file_and_is_appended(monkeypatch, capsys, tmp_path):
    use_script(monkeypatch, SCRIPT)
    file = tmp_path / "out"
    for argv in ([], ["--append"]):
        code, lines = stat(capsys, "-j", "-o", str(file), *argv)
        assert (code, lines) == (0, [])
    text = file.read_text().splitlines()
    assert [line[:12] for line in text if line.startswith("#")] == ["# started on", "# started on"]
    assert len([line for line in text if line.startswith("{")]) == 4
    stat(capsys, "-j", "-o", str(file))
    assert len(file.read_text().splitlines()) == 4


def test_a_full_disk_is_told_and_the_result_is_not_lost(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    code, lines = stat(capsys, "-o", "/dev/full")
    assert code == 4
    assert any(line.split() == ["6", "intel_bm/rets,threshold=50/"] for line in lines)
    assert "/dev/full: No space left on device [output-failed]" in lines[-2]


def test_a_file_that_cannot_be_made_is_told_before_anything_runs(monkeypatch, capsys):
    made = use_script(monkeypatch, SCRIPT)
    code, lines = stat(capsys, "-o", "/nonexistent/dir/out")
    assert code == 4
    assert "/nonexistent/dir/out: No such file or directory [output-failed]" in lines[0]
    assert made == []


def test_a_repeated_program_runs_anew_each_time(monkeypatch, capsys):
    made = use_script(monkeypatch, SCRIPT)
    stat(capsys, "-r", "3")
    assert [source.calls for source in made] == [["launch ls -l", "close"]] * 3


def test_the_deviation_is_that_of_the_mean():
    # 2, 4, 6: variance 4, of the mean 4/3
    assert deviation([2, 4, 6]) == pytest.approx((4 / 3) ** 0.5)
    assert relative_deviation([2, 4, 6]) == pytest.approx(100 * (4 / 3) ** 0.5 / 4)
    assert (deviation([5]), relative_deviation([0, 0])) == (0, 0)


@pytest.mark.parametrize(
    ("argv", "code", "slug"),
    [
        (["-e", "nosuch", "--", "true"], 2, "no-such-event"),
        (["-e", "intel_bm/rets,foo=1/", "--", "true"], 2, "unknown-term"),
        (["-e", "intel_bm/rets,threshold=200/", "--", "true"], 2, "term-range"),
        (["--set", "threshold=200", "--", "true"], 2, "attribute-range"),
        (["--set", "nosuch=1", "--", "true"], 2, "no-such-attribute"),
        (["--set", "threshold", "--", "true"], 2, "set-syntax"),
        (["-e", "rets,call-ret,far-branch", "--", "true"], 3, "counters-taken"),
        (["-a"], 3, "no-task"),
        (["-C", "0", "--", "true"], 3, "no-task"),
        (["-c", "1000", "--", "true"], 3, "sampling"),
        (["-F", "99", "--", "true"], 3, "sampling"),
        (["-e", "intel_bm/rets,period=1000/", "--", "true"], 2, "sampling"),
        ([], 2, "no-target"),
        (["-p", "x"], 2, "bad-pid"),
        (["-p", "0"], 2, "bad-pid"),
        (["-p", "1", "--", "true"], 2, "program-and-pid"),
        (["-r", "2", "-p", "1"], 2, "usage"),
        (["-r", "0", "--", "true"], 2, "usage"),
        (["-I", "5", "--", "true"], 2, "usage"),
        (["-j", "-x", ",", "--", "true"], 2, "usage"),
        (["-i", "trace", "-p", "1"], 2, "usage"),
    ],
)
def test_mistakes_are_told_before_anything_runs(monkeypatch, capsys, argv, code, slug):
    made = use_script(monkeypatch, SCRIPT)
    assert main(["stat", *argv]) == code
    err = capsys.readouterr().err
    assert f"[{slug}]" in err
    assert len(err.splitlines()) >= 2, "and what to do about it"
    assert made == []


def test_a_zero_term_is_noted(monkeypatch, capsys):
    use_script(monkeypatch, SCRIPT)
    main(["stat", "-e", "intel_bm/rets,threshold=0/", "--", "true"])
    assert "use --set threshold=0" in capsys.readouterr().err
