"""The line that tells how a recording goes."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from branchmon.traces.recorder import Recorder


class LiveLine:
    """Branches, branches a second and the file's size, on stderr while it is a terminal.

    :param enabled: False: never.
    """

    def __init__(self, recorder: "Recorder", *, enabled: bool = True) -> None:
        self._recorder = recorder
        self._enabled = enabled and sys.stderr.isatty()
        self._status: Any = None
        self._last = (time.monotonic(), 0)

    def __enter__(self) -> Self:
        if self._enabled:
            from rich.console import Console

            self._status = Console(stderr=True).status("recording …")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self) -> None:
        """Show the present numbers."""
        if self._status is not None:
            self._status.update(self.text())

    def text(self) -> str:
        """``12.3 M branches · 1.2 M/s · 9.8 MB``."""
        now, branches = time.monotonic(), self._recorder.writer.branches
        since, before = self._last
        self._last = (now, branches)
        rate = (branches - before) / max(now - since, 1e-9)
        size = _short(self._recorder.writer.size)
        return f"{_short(branches)} branches · {_short(rate)}/s · {size}B · {self._recorder.threads} threads"


def _short(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.0f}" if not unit else f"{number:.1f} {unit}"
        number /= 1000
    return ""
