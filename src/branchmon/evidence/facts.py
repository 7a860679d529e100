"""Facts about a trip, each named and explained in docs/evidence.md: no score, no guess.

A fact is a number, or None where it cannot be known (the docs say when).
"""

import itertools
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from branchmon.device.lbr import LastBranch
from branchmon.errors import UsageError
from branchmon.events import BranchKind
from branchmon.evidence.code import Code

SHORT_GADGET = 20
"""Instructions between two indirect branches, the second one included, up to which a gadget is called short."""

_RETURN = int(BranchKind.RETURN)
_CALLS = (int(BranchKind.CALL), int(BranchKind.INDIRECT_CALL))
_INDIRECT = (_RETURN, int(BranchKind.INDIRECT_JUMP), int(BranchKind.INDIRECT_CALL))


class Facts(msgspec.Struct, frozen=True, rename="kebab"):
    """The facts of one trip; the names are those of ``--only-if``."""

    returns: int
    """Near returns among the last branches."""
    mispredicted_returns: int
    """Those that the return stack predicted wrongly."""
    not_call_preceded: int
    """Returns to an address that no call instruction precedes (returns to sigreturn apart)."""
    to_sigreturn: int
    """Returns to the C library's sigreturn code: the end of a signal handler, or sigreturn-oriented programming."""
    unmatched_returns: int
    """Returns that contradict the calls before them, as far as the last branches and the return stack know these."""
    short_gadgets: int
    """The longest run of gadgets of at most 20 instructions, each ended by an indirect branch."""
    inside_instruction: int | None
    """Targets that lie inside an instruction of their function's own listing; None: no target has a symbol."""
    pivot: int | None
    """1: the stack pointer is outside the thread's stack; None: the stack is not known."""


FACT_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Facts))


def collect_facts(branches: Sequence[LastBranch], code: Code, pivot: bool | None) -> Facts:
    """The facts of a trip.

    :param branches: the last branches, oldest first.
    :param pivot: see :attr:`Facts.pivot`.
    """
    returns = [branch for branch in branches if branch.kind == _RETURN]
    no_call = [branch for branch in returns if not code.preceded_by_call(branch.target)]
    sigreturns = [branch for branch in no_call if code.is_sigreturn(branch.target)]
    return Facts(
        returns=len(returns),
        mispredicted_returns=sum(branch.mispredicted for branch in returns),
        not_call_preceded=len(no_call) - len(sigreturns),
        to_sigreturn=len(sigreturns),
        unmatched_returns=unmatched_returns(branches, code),
        short_gadgets=short_gadgets(branches, code),
        inside_instruction=_inside_instruction(branches, code),
        pivot=None if pivot is None else int(pivot),
    )


def unmatched_returns(branches: Sequence[LastBranch], code: Code) -> int:
    """Returns that go elsewhere than behind the call that made them.

    Where the call is among the last branches, a shadow stack of these decides. Where it is older, the 16-entry return
    stack of the predictor does: a return that it mispredicted *and* that comes back behind no call has no call.
    (A misprediction alone also follows from recursion deeper than 16.)
    """
    shadow: list[int] = []
    found = 0
    for branch in branches:
        if branch.kind in _CALLS:
            behind = branch.source + code.size(branch.source)
            if branch.target != behind:  # `call 1f; 1: pop` asks for its address, it does not call
                shadow.append(behind)
        elif branch.kind == _RETURN:
            if shadow:
                if branch.target in shadow:
                    # Frames left by longjmp or an exception stand above it.
                    while shadow.pop() != branch.target:
                        pass
                else:
                    found += 1
                    shadow.pop()
            elif branch.mispredicted and not code.preceded_by_call(branch.target):
                found += 1
    return found


def short_gadgets(branches: Sequence[LastBranch], code: Code) -> int:
    """The longest run of short gadgets: what was executed between two indirect branches, direct branches included."""
    longest = run = 0
    length: int | None = None  # of the present gadget so far; None: it began before the last branches, or is too long
    for before, branch in itertools.pairwise(branches):
        if before.kind in _INDIRECT:
            length = 0
        if length is not None:
            part = code.instructions(before.target, branch.source, SHORT_GADGET)
            length = None if part is None or length + part > SHORT_GADGET else length + part
        if branch.kind in _INDIRECT:
            run = 0 if length is None else run + 1
            longest = max(longest, run)
    return longest


def _inside_instruction(branches: Sequence[LastBranch], code: Code) -> int | None:
    answers = [code.starts_an_instruction(branch.target) for branch in branches]
    return sum(answer is False for answer in answers) if any(answer is not None for answer in answers) else None


# ---- conditions -----------------------------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
_CONDITION = re.compile(r"\s*([a-z-]+)\s*(?:(>=|<=|==|!=|>|<|=)\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Condition:
    """``--only-if``: a fact compared with a number. A fact that is not known fulfils no condition."""

    fact: str
    comparison: str
    number: int

    def __str__(self) -> str:
        return f"{self.fact}{self.comparison}{self.number}"

    def holds(self, facts: Facts) -> bool:
        """Whether `facts` fulfil it."""
        value = getattr(facts, self.fact.replace("-", "_"))
        return value is not None and _COMPARISONS[self.comparison](value, self.number)


def parse_condition(text: str) -> Condition:
    """Read ``not-call-preceded>=3``; a bare ``pivot`` means ``pivot>=1``.

    :raises UsageError: no such fact, or not a comparison with a number.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or match[1] not in FACT_NAMES:
        raise UsageError(
            f"not a condition on a fact: {text!r}",
            slug="no-such-fact",
            remedy=f"write FACT>=NUMBER; the facts are {', '.join(FACT_NAMES)} (docs/evidence.md explains them)",
        )
    return Condition(match[1], match[2] or ">=", int(match[3]) if match[3] else 1)
