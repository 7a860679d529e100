"""examples:
  branchmon help                  the commands
  branchmon help stat             one command
  branchmon help counters-taken   a message, by the word in its brackets

Explain a command or a message.
"""

import argparse
import re
from importlib import resources
from pathlib import Path

from branchmon.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("topic", nargs="?", help="a command, or the word in a message's brackets")


def run(arguments: argparse.Namespace) -> int:
    """Print the help asked for."""
    from branchmon import commands

    topic = arguments.topic
    if topic is None:
        return commands.dispatch([])
    if topic in commands.COMMANDS and commands.is_there(topic):
        return commands.dispatch([topic, "--help"])
    text = explanation(topic.strip("[]"))
    if text is None:
        raise UsageError(
            f"no command and no message is called {topic}",
            slug="no-such-topic",
            remedy="`branchmon help` lists the commands; messages end with their word in brackets",
        )
    print(text)
    return 0


def explanation(slug: str) -> str | None:
    """The section of ``docs/messages.md`` with this heading; None if there is none."""
    sections = re.split(r"^## ", messages(), flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, body = section.partition("\n")
        if title.strip() == slug:
            return f"{slug}\n\n{body.strip()}"
    return None


def messages() -> str:
    """The text of ``docs/messages.md``: of the installed package, or of the source tree it runs from."""
    installed = resources.files("branchmon") / "messages.md"
    if installed.is_file():
        return installed.read_text(encoding="utf-8")
    here = Path(__file__).resolve().parents[3] / "docs" / "messages.md"
    return here.read_text(encoding="utf-8") if here.is_file() else ""
