"""Which trips are acted upon: rate limit, suppression list, conditions."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from branchmon.errors import UsageError
from branchmon.evidence.facts import Condition, Facts

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def parse_rate(text: str) -> tuple[int, float]:
    """``20``, ``20/s``, ``5/m``, ``1/h``: how many in how many seconds.

    :raises UsageError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+)\s*(?:/\s*([smh]))?\s*", text)
    if match is None or int(match[1]) < 1:
        raise UsageError(
            f"not a rate: {text!r}", slug="bad-rate", remedy="write a number from 1 with /s, /m or /h, such as 20/s"
        )
    return int(match[1]), _UNITS[match[2] or "s"]


def read_suppressions(path: str) -> frozenset[str]:
    """The fingerprints that a file lists, one at the start of a line; ``#`` begins a comment.

    :raises UsageError: the file cannot be read, or a line is no fingerprint.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {why}", slug="bad-suppressions", remedy="name a file of fingerprints") from error
    found = []
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        if not _FINGERPRINT.fullmatch(word):
            raise UsageError(
                f"{path}, line {number}: not a fingerprint: {word!r}",
                slug="bad-suppressions",
                remedy="a fingerprint is 16 hexadecimal digits, as a report's `fingerprint` line has it; # comments",
            )
        found.append(word)
    return frozenset(found)


@dataclass
class RateLimit:
    """At most `count` in every `seconds`, counted from the first of them."""

    count: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _since: float = field(default=float("-inf"), repr=False)
    _used: int = field(default=0, repr=False)

    def exhausted(self) -> bool:
        """No more for now."""
        if self.clock() - self._since >= self.seconds:
            return False
        return self._used >= self.count

    def use(self) -> None:
        """Count one."""
        now = self.clock()
        if now - self._since >= self.seconds:
            self._since, self._used = now, 0
        self._used += 1


@dataclass
class Policy:
    """All of it.

    :ivar conditions: must all hold.
    """

    suppressed: frozenset[str] = frozenset()
    conditions: Sequence[Condition] = ()
    rate: RateLimit | None = None

    def met(self, facts: Facts) -> bool:
        """Every condition holds."""
        return all(condition.holds(facts) for condition in self.conditions)
