"""The command line: ``branchmon COMMAND …``.

A command is a module of this package, named as in :data:`COMMANDS` (with ``_`` after it where Python needs the word),
with a docstring that is its help (examples first) and two functions::

    def add_arguments(parser: argparse.ArgumentParser) -> None: ...
    def run(arguments: argparse.Namespace) -> int: ...   # the exit code

Only the module of the command at hand is imported. Errors of the user are :class:`~branchmon.errors.BranchmonError`;
they, ^C and a reader that went away (EPIPE) are handled here, for all commands.

In this file the builtins ``list`` and ``help`` mean modules once those commands were imported: do not call them.
"""

import argparse
import contextlib
import difflib
import errno
import importlib
import importlib.util
import keyword
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from branchmon.errors import BranchmonError, OutputError, PerfError, UsageError

COMMANDS: dict[str, str] = {
    "list": "events, attributes, sources, and what this machine really has",
    "stat": "count trips of a program or of running processes, as perf stat does",
    "watch": "look at every trip: evidence, and stop, kill, dump core, or run a command",
    "shell": "a shell in which the PMU exists: /sys, perf_event_open and unmodified perf",
    "perf": "unmodified perf, in such a shell",
    "record": "record every retired branch into a trace",
    "info": "what a trace holds",
    "script": "a trace as text, one record a line",
    "report": "a trace's summary, and a page for the browser",
    "import": "make a trace of what perf script prints of Intel PT or LBR",
    "export": "a trace for Perfetto, speedscope, CSV or Parquet",
    "help": "explain a message by the word in its brackets",
}
"""Names and one-line summaries, in the order of the help."""

INTERNAL_ERROR = 70
"""Exit code when branchmon itself is at fault (EX_SOFTWARE of sysexits.h)."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(message, slug="usage", remedy=f"see: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``branchmon`` with these arguments (default: the process's own) and return its exit code."""
    if argv is None:
        from branchmon.sources import guard

        guard.allowed = True
    try:
        try:
            code = dispatch(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
        except SystemExit as end:  # argparse, after --help
            sys.stdout.flush()
            code = end.code if isinstance(end.code, int) else 0
    except BranchmonError as error:
        code = _show(error)
    except PerfError as error:
        from branchmon.driver.refusals import refusal

        code = _show(refusal(error, "the driver"))
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _forget_stdout()
        code = 141
    except OSError as error:
        _forget_stdout()
        code = _show(_system_error(error))
    except Exception as error:
        code = _show_fault(error)
    return code


def dispatch(argv: Sequence[str]) -> int:
    """Find the command, parse its arguments, run it."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version"):
        from branchmon import __version__

        print(f"branchmon {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS or not is_there(name):
        raise _no_such_command(name)
    module = command_module(name)
    parser = make_parser(name, module)
    return int(module.run(parser.parse_args(argv[1:])))


def make_parser(name: str, module: ModuleType) -> Parser:
    """The parser of one command."""
    from rich_argparse import RawDescriptionRichHelpFormatter

    class Formatter(RawDescriptionRichHelpFormatter):
        text_markup = help_markup = False

    text = (module.__doc__ or "").strip("\n")
    parser = Parser(prog=f"branchmon {name}", description=text, formatter_class=Formatter, allow_abbrev=False)
    module.add_arguments(parser)
    return parser


def command_module(name: str) -> ModuleType:
    """Import a command's module."""
    return importlib.import_module(_module_name(name))


def is_there(name: str) -> bool:
    """The command's module is part of this installation."""
    return importlib.util.find_spec(_module_name(name)) is not None


def _module_name(name: str) -> str:
    return f"{__name__}.{name}_" if keyword.iskeyword(name) else f"{__name__}.{name}"


def _overview() -> str:
    rows = [f"  {name:8} {summary}" for name, summary in COMMANDS.items() if is_there(name)]
    return "\n".join(
        (
            "usage: branchmon COMMAND …",
            "",
            "Intel's branch monitoring unit and its intel_bm perf driver, without the silicon.",
            "",
            "examples:",
            "  branchmon list",
            "  branchmon stat -e intel_bm/rets,threshold=100/ -- ls -l",
            "",
            "commands:",
            *rows,
            "",
            "`branchmon COMMAND --help` explains one.",
        )
    )


def _no_such_command(name: str) -> UsageError:
    close = difflib.get_close_matches(name, [known for known in COMMANDS if is_there(known)], n=1)
    hint = f"did you mean `branchmon {close[0]}`? " if close else ""
    what = f"no such option before a command: {name}" if name.startswith("-") else f"no such command: {name}"
    return UsageError(what, slug="no-such-command", remedy=f"{hint}`branchmon --help` lists the commands")


def _show(error: BranchmonError) -> int:
    lines = [f"branchmon: {error.message} [{error.slug}]"]
    if error.remedy:
        lines.append(f"  {error.remedy}")
    with contextlib.suppress(OSError):
        print("\n".join(lines), file=sys.stderr, flush=True)
    return error.exit_code


def _system_error(error: OSError) -> BranchmonError:
    subject = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            f"{subject}{error.strerror}", slug="output-failed", remedy="make room, or write somewhere else"
        )
    return BranchmonError(f"{subject}{error.strerror or error}", slug="system-error")


def _show_fault(error: Exception) -> int:
    if os.environ.get("BRANCHMON_DEBUG"):
        import traceback

        traceback.print_exc()
    return _show(
        BranchmonError(
            f"a fault of branchmon itself: {type(error).__name__}: {error}",
            slug="internal-error",
            remedy="set BRANCHMON_DEBUG=1 to see where, and please report it",
            exit_code=INTERNAL_ERROR,
        )
    )


def _forget_stdout() -> None:
    """Nobody reads stdout any more: keep the interpreter from complaining when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
