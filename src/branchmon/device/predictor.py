"""The branch predictor model: deterministic, documented, sized here and nowhere else.

Real predictors are secret (SPEC section 1, reading 6). Ours:

* **Return stack**, :data:`RETURN_STACK` entries, circular. A near call pushes the address behind it, a near return is
  predicted to go to the newest entry, which it pops. Overflow overwrites the oldest entry; underflow meets what
  stands there from before. An entry never written is 0 (*empty*), so a return without any call is mispredicted. A call
  to the very next instruction (``call 1f; 1: pop``) pushes nothing, as in real processors. An entry can be
  :data:`UNKNOWN`: the call was made before we looked (attach, or monitoring switched on late); a return that meets it
  is not judged and counts as predicted.
* **Target cache** for near indirect jumps and calls: :data:`TARGETS` entries without tags, each the last target, found
  by the branch's address mixed with the history of recent indirect targets.
* **Direction predictor** for conditional branches: :data:`DIRECTIONS` two-bit counters (start: 1, weakly not taken),
  found by address xor the last outcomes (gshare).

Direct jumps and calls are always predicted correctly; far branches are not predicted at all.

The state is one flat sequence of integers, as in :mod:`branchmon.device.counters`, for the same reason.
"""

from collections.abc import MutableSequence

from branchmon.events import BranchKind

RETURN_STACK = 16
TARGETS = 1024
DIRECTIONS = 4096
DIRECTION_BITS = 12  # log2(DIRECTIONS); also the length of the outcome history

UNKNOWN = 1
"""A return-stack entry whose call was not seen; no instruction ever stands at address 1."""

# The predictor's state, one integer a field:
TOP = 0  # index of the newest return-stack entry
STACK = 1
PATH = STACK + RETURN_STACK  # history of indirect targets, TARGETS - 1 at most
TARGET_CACHE = PATH + 1
OUTCOMES = TARGET_CACHE + TARGETS  # history of conditional outcomes, newest in bit 0
DIRECTION_COUNTERS = OUTCOMES + 1
PREDICTOR_SIZE = DIRECTION_COUNTERS + DIRECTIONS

_CONDITIONAL = int(BranchKind.CONDITIONAL)
_CALL = int(BranchKind.CALL)
_RETURN = int(BranchKind.RETURN)
_INDIRECT_JUMP = int(BranchKind.INDIRECT_JUMP)
_INDIRECT_CALL = int(BranchKind.INDIRECT_CALL)


def new_predictor() -> list[int]:
    """A predictor that has seen nothing: a program's first instruction."""
    return [0] * DIRECTION_COUNTERS + [1] * DIRECTIONS


def forget(p: MutableSequence[int]) -> None:
    """Make a predictor that starts in the middle of a program: everything cold, every return-stack entry UNKNOWN."""
    for i in range(PREDICTOR_SIZE):
        p[i] = 0
    for i in range(RETURN_STACK):
        p[STACK + i] = UNKNOWN
    for i in range(DIRECTIONS):
        p[DIRECTION_COUNTERS + i] = 1


def predict(p: MutableSequence[int], kind: int, taken: int, source: int, size: int, target: int) -> int:
    """Predict one retired branch, learn from it; 1 if the prediction was wrong, else 0.

    Parameters as the fields of :class:`branchmon.events.Branch`. A call whose `size` is 0 (not told) pushes UNKNOWN.
    """
    wrong = 0
    if kind == _CONDITIONAL:
        i = DIRECTION_COUNTERS + ((source ^ (source >> DIRECTION_BITS) ^ p[OUTCOMES]) & (DIRECTIONS - 1))
        strength = p[i]
        if taken != 0:
            wrong = 1 if strength < 2 else 0
            if strength < 3:
                p[i] = strength + 1
            p[OUTCOMES] = ((p[OUTCOMES] << 1) | 1) & (DIRECTIONS - 1)
        else:
            wrong = 1 if strength >= 2 else 0
            if strength > 0:
                p[i] = strength - 1
            p[OUTCOMES] = (p[OUTCOMES] << 1) & (DIRECTIONS - 1)
    elif kind == _RETURN:
        top = p[TOP]
        predicted = p[STACK + top]
        p[TOP] = (top - 1) & (RETURN_STACK - 1)
        wrong = 1 if predicted != target and predicted != UNKNOWN else 0
    else:
        if kind in (_INDIRECT_JUMP, _INDIRECT_CALL):
            i = TARGET_CACHE + ((source ^ (source >> 10) ^ p[PATH]) & (TARGETS - 1))
            wrong = 1 if p[i] != target else 0
            p[i] = target
            p[PATH] = ((p[PATH] << 3) ^ target ^ (target >> 5)) & (TARGETS - 1)
        if kind in (_CALL, _INDIRECT_CALL) and target != source + size:
            top = (p[TOP] + 1) & (RETURN_STACK - 1)
            p[TOP] = top
            p[STACK + top] = source + size if size != 0 else UNKNOWN
    return wrong
