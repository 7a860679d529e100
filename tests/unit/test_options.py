"""Where the options of branchmon end and the program's begin; numbers of processes."""

import pytest

from branchmon.commands import command_module, make_parser, options
from branchmon.errors import UsageError


def parse(*argv):
    return make_parser("stat", command_module("stat")).parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["--", "ls", "-l"], ("ls", "-l")),
        (["ls", "-l"], ("ls", "-l")),
        (["-e", "rets", "ls", "-e", "x"], ("ls", "-e", "x")),
        (["-v", "--", "git", "log", "--", "file"], ("git", "log", "--", "file")),
        (["-v", "git", "log", "--", "file"], ("git", "log", "--", "file")),
        (["--", "--", "x"], ("--", "x")),
        (["--no-inherit", "ls", "--help"], ("ls", "--help")),
        (["-r", "3", "--", "-odd-name"], ("-odd-name",)),
        (["ls", "-p", "3"], ("ls", "-p", "3")),
    ],
)
def test_the_programs_arguments_are_its_own(argv, program):
    assert options.targets(parse(*argv)).program == program


def test_options_before_the_program_are_ours():
    arguments = parse("-e", "rets", "-v", "-r", "3", "--set", "threshold=3", "--", "ls", "-v")
    assert (arguments.events, arguments.verbose, arguments.repeat, arguments.settings) == (
        ["rets"], True, 3, ["threshold=3"],
    )  # fmt: skip


def test_processes_and_threads():
    found = options.targets(parse("-p", "12,13", "-t", "14", "-p", "15"))
    assert (found.pids, found.tids, found.program) == ((12, 13, 15), (14,), ())
    assert str(found) == "process id '12,13,15' and thread id '14'"


def test_several_settings_and_the_later_one_wins():
    found = options.settings(parse("--set", "threshold=1,window_size=0x10", "--set", "threshold=2", "ls"))
    assert found == {"threshold": "2", "window_size": "0x10"}


def test_options_are_not_abbreviated():
    with pytest.raises(UsageError):
        parse("--verb", "--", "ls")
