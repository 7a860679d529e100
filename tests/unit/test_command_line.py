"""What every command shares: which modules are imported, how errors, ^C and absent readers end it."""

import os
import subprocess
import sys
import types

import pytest

from branchmon import commands
from branchmon.commands import INTERNAL_ERROR, main
from branchmon.errors import PerfError, TargetError

HEAVY = ("numba", "numpy", "pyarrow", "bokeh", "rich", "dask", "distributed", "elftools")


def imported_by(*argv):
    """The modules that ``branchmon ARGV`` imports, in a process of its own."""
    code = (
        "import sys; from branchmon.commands import main; code = main(sys.argv[1:]);"
        " print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert int(code) == 0, done.stderr
    return {name.partition(".")[0] for name in modules}


def test_list_imports_nothing_heavy():
    assert imported_by("list", "--json") & {*HEAVY} == set()


def test_help_of_stat_imports_no_numba():
    assert imported_by("stat", "--help") & {"numba", "pyarrow", "bokeh", "numpy", "iced_x86"} == set()


@pytest.mark.parametrize("name", [name for name in commands.COMMANDS if commands.is_there(name)])
def test_every_command_has_examples_first_and_parses_help(name, capsys):
    module = commands.command_module(name)
    assert module.__doc__.lstrip().startswith("examples:")
    assert f"branchmon {name}" in module.__doc__
    assert main([name, "--help"]) == 0
    assert "examples:" in capsys.readouterr().out


def test_overview_lists_the_commands_that_are_there(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in commands.COMMANDS if commands.is_there(name))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("branchmon 0.")


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        (["stta"], "no-such-command"),
        (["--nosuch"], "no-such-command"),
        (["stat", "--nosuch"], "usage"),
        (["list", "extra"], "usage"),
        (["help", "nosuch"], "no-such-topic"),
    ],
)
def test_usage_errors(argv, slug, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("branchmon: ") and f"[{slug}]" in err
    assert len(err.splitlines()) == 2, "a message and what to do about it"


def test_a_wrong_command_suggests_the_right_one(capsys):
    main(["stta"])
    assert "did you mean `branchmon stat`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            TargetError("no program x", slug="not-found", remedy="look", exit_code=127),
            127,
            "no program x [not-found]\n  look",
        ),
        (PerfError(16, "both counters of task 1 are taken", slug="counters-taken"), 3, "(EBUSY) [counters-taken]"),
        (PerfError(22, "no such event: 9", slug="no-such-event"), 2, "(EINVAL)"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device"), 4, "[output-failed]"),
        (OSError(13, "Permission denied", "/x"), 1, "/x: Permission denied [system-error]"),
        (ZeroDivisionError("oops"), INTERNAL_ERROR, "a fault of branchmon itself: ZeroDivisionError: oops"),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(monkeypatch, capsys, error, code, said):
    def fail(arguments):
        raise error

    module = types.ModuleType("list", "examples:")
    module.add_arguments, module.run = lambda parser: None, fail
    monkeypatch.setattr(commands, "command_module", lambda name: module)
    monkeypatch.setattr(commands, "_forget_stdout", lambda: None)
    assert main(["list"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "branchmon", "list"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_told():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "branchmon", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 4
    assert "No space left on device [output-failed]" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
