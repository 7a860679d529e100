"""Last-branch records: the newest 32 taken branches, frozen by a trip when asked (SPEC section 1, reading 7)."""

from collections import deque
from typing import NamedTuple

LBR_DEPTH = 32


class LastBranch(NamedTuple):
    """One record: where a taken branch was and went, its kind and whether it was mispredicted."""

    source: int
    target: int
    mispredicted: bool
    kind: int


class LbrStack:
    """The record stack of one task.

    Records taken branches only. Oldest first when read.
    """

    def __init__(self) -> None:
        self._ring: deque[LastBranch] = deque(maxlen=LBR_DEPTH)

    def record(self, source: int, target: int, mispredicted: int, kind: int) -> None:
        """Note a taken branch; the oldest record falls out when there are 32."""
        self._ring.append(LastBranch(source, target, mispredicted != 0, kind))

    def load(self, records: list[LastBranch]) -> None:
        """Replace all records, oldest first: for a source that keeps them elsewhere."""
        self._ring = deque(records, maxlen=LBR_DEPTH)

    def read(self) -> tuple[LastBranch, ...]:
        """The records, oldest first."""
        return tuple(self._ring)

    def clear(self) -> None:
        """Forget every record."""
        self._ring.clear()
