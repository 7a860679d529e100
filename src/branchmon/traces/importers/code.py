"""What the program would execute between two branches: paths through its code."""

from typing import NamedTuple, Protocol

from branchmon.events import BranchKind
from branchmon.traces.importers.perf_script import MapLine, Side


class Skipped(NamedTuple):
    """A conditional branch on a path, not taken (or a far branch that goes on behind itself).

    :ivar gap: instructions before it, since the path's start or the one before.
    """

    gap: int
    kind: int
    source: int
    size: int


class Path(NamedTuple):
    """From one address straight on to another.

    :ivar gap: instructions before the end, since the last of `skipped`.
    :ivar kind: of the instruction at the end (:class:`~branchmon.events.BranchKind`).
    :ivar size: of it; 0 if it is not known.
    :ivar target: where it goes if it is a direct branch that is taken; else 0.
    """

    gap: int
    kind: int
    size: int
    skipped: tuple[Skipped, ...] = ()
    target: int = 0


class Code(Protocol):
    """What is known of the program's code."""

    exact: bool
    """Paths hold every instruction."""

    def path(self, pid: int, start: int | None, end: int) -> Path | None:
        """The way from `start` (None: not known, only the end matters) to `end`.

        None: it cannot be: the code leads elsewhere.
        """
        ...

    def mapped(self, line: MapLine) -> None:
        """A file was mapped into a process."""
        ...

    def seen(self, pid: int, side: Side) -> None:
        """An address, with what perf says of it."""
        ...

    def approximations(self) -> list[str]:
        """Sentences for the user: what is not known exactly after all."""
        ...

    def executed(self, pid: int) -> None:
        """A process executed a new program: its mappings are gone."""
        ...


MAX_STRAIGHT = 1 << 16
"""Bytes between two taken branches, at most: more is a break in the trace."""


class NoCode:
    """No binaries: nothing between two taken branches is known."""

    exact = False

    def path(self, pid: int, start: int | None, end: int) -> Path | None:
        """See :class:`Code`: an empty path, if the end lies ahead of the start and near."""
        if start is not None and not start <= end <= start + MAX_STRAIGHT:
            return None
        return Path(0, int(BranchKind.PLAIN), 0)

    def mapped(self, line: MapLine) -> None:
        """Nothing to learn."""

    def seen(self, pid: int, side: Side) -> None:
        """Nothing to learn."""

    def approximations(self) -> list[str]:
        """None: all of it is said at the beginning."""
        return []

    def executed(self, pid: int) -> None:
        """Nothing to forget."""
