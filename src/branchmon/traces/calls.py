"""Call stacks along a trace, from its calls and returns."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from branchmon.events import BranchKind
from branchmon.traces.rows import Rows

MAX_DEPTH = 1024
"""Deeper calls are not told apart."""

_CALL = int(BranchKind.CALL)
_RETURN = int(BranchKind.RETURN)
_INDIRECT_CALL = int(BranchKind.INDIRECT_CALL)


class Frame(NamedTuple):
    """One call that has not returned: the function's address, and where the call returns to (0: not known)."""

    function: int
    returns_to: int


class Step(NamedTuple):
    """A call or return.

    :ivar row: in the rows given.
    :ivar call: a call; else a return.
    :ivar left: frames that ended with it: 0 for a call; a return into an outer frame (``longjmp``, an exception) ends
        several, one that matches no call ends none.
    """

    row: int
    call: bool
    left: int


class CallStack:
    """The calls of one thread that have not returned; :attr:`frames` is as of the step last given."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def steps(self, rows: Rows) -> Iterator[Step]:
        """Go through a thread's rows, in order; :attr:`frames` is up to date at each step, before frames are left."""
        kinds = rows.kind
        for row in np.flatnonzero((kinds == _CALL) | (kinds == _INDIRECT_CALL) | (kinds == _RETURN)).tolist():
            if kinds[row] != _RETURN:
                size = int(rows.size[row])
                back = int(rows.source[row]) + size if size else 0
                if len(self.frames) < MAX_DEPTH:
                    self.frames.append(Frame(int(rows.target[row]), back))
                yield Step(row, True, 0)
            else:
                left = self._left_by(int(rows.target[row]))
                yield Step(row, False, left)
                if left:
                    del self.frames[-left:]

    def clear(self) -> None:
        """Branches are missing: nothing is known of the calls."""
        self.frames.clear()

    def _left_by(self, target: int) -> int:
        frames = self.frames
        if frames and frames[-1].returns_to in (0, target):
            return 1
        for depth in range(2, min(len(frames), 64) + 1):
            if frames[-depth].returns_to == target:
                return depth
        return 0
