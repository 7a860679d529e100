"""``--on-trip``: names to actions."""

from collections.abc import Sequence
from dataclasses import dataclass

from branchmon.errors import UsageError

ACTION_NAMES: dict[str, str] = {
    "report": "tell about it (always done unless other actions are named without it)",
    "stop": "SIGSTOP; goes on at SIGCONT",
    "kill": "SIGKILL, before the next instruction",
    "core": "write a core file that gdb opens at the tripping instruction (core=FILE; %p pid, %n trip); goes on",
    "gdb": "let go of the process, stopped, for a debugger; prints the command",
    "run": "run=COMMAND: a shell command that gets the evidence as JSON on stdin",
}
"""Names and what they do."""

ORDER = ("report", "run", "core", "stop", "gdb", "kill")
"""In which order the actions of one trip are done: what looks comes before what ends."""

URGENT = ("stop", "gdb", "kill")
"""What no rate limit leaves out."""


@dataclass(frozen=True)
class Action:
    """One action; `value` is what stands after ``=``."""

    name: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.value}" if self.value else self.name


def parse_actions(texts: Sequence[str]) -> list[Action]:
    """Read ``report,kill``, ``core=/tmp/core.%p``, ``run=CMD`` (the rest of its text, commas too, is the command).

    :raises UsageError: no such action, a value that it does not take or lacks.
    """
    actions: dict[str, Action] = {}
    for text in texts:
        rest = text
        while rest:
            if rest.startswith("run="):
                part, rest = rest, ""
            else:
                part, _, rest = rest.partition(",")
            action = _parse(part.strip(), text)
            actions[str(action) if action.name == "run" else action.name] = action
        if not text:
            raise _no_such(text)
    return sorted(actions.values(), key=lambda action: ORDER.index(action.name))


def _parse(part: str, whole: str) -> Action:
    name, equals, value = part.partition("=")
    if name not in ACTION_NAMES:
        raise _no_such(part or whole)
    if equals and name not in ("run", "core"):
        raise UsageError(f"{name} takes no value: {part!r}", slug="no-such-action", remedy=f"write it as {name}")
    if name == "run" and not value:
        raise UsageError("run: no command", slug="no-such-action", remedy="write run=COMMAND")
    return Action(name, value)


def _no_such(part: str) -> UsageError:
    return UsageError(
        f"no such action: {part!r}",
        slug="no-such-action",
        remedy=f"the actions are {', '.join(ACTION_NAMES)}; run=COMMAND and core=FILE take a value",
    )
