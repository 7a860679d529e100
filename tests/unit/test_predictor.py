"""The predictor model by hand."""

from branchmon.device.predictor import RETURN_STACK, forget, new_predictor, predict
from branchmon.events import BranchKind

CONDITIONAL, JUMP, CALL = BranchKind.CONDITIONAL, BranchKind.JUMP, BranchKind.CALL
RETURN, INDIRECT, FAR = BranchKind.RETURN, BranchKind.INDIRECT_JUMP, BranchKind.FAR


def test_returns_are_predicted_by_their_calls():
    p = new_predictor()
    assert predict(p, CALL, 1, 0x100, 5, 0x500) == 0
    assert predict(p, CALL, 1, 0x510, 5, 0x600) == 0
    assert predict(p, RETURN, 1, 0x600, 1, 0x515) == 0
    assert predict(p, RETURN, 1, 0x520, 1, 0x106) == 1  # not behind the call
    assert predict(p, RETURN, 1, 0x520, 1, 0x105) == 1  # popped already


def test_the_return_stack_holds_16():
    p = new_predictor()
    for i in range(RETURN_STACK + 1):
        predict(p, CALL, 1, 0x1000 * i, 5, 0x100)
    for i in range(RETURN_STACK, 0, -1):
        assert predict(p, RETURN, 1, 0x100, 1, 0x1000 * i + 5) == 0
    assert predict(p, RETURN, 1, 0x100, 1, 5) == 1  # overwritten by the last call


def test_a_call_to_the_next_instruction_pushes_nothing():
    p = new_predictor()
    predict(p, CALL, 1, 0x100, 5, 0x300)
    predict(p, CALL, 1, 0x300, 5, 0x305)
    assert predict(p, RETURN, 1, 0x310, 1, 0x105) == 0


def test_returns_whose_call_nobody_saw_are_not_judged():
    p = new_predictor()
    forget(p)
    assert predict(p, RETURN, 1, 0x100, 1, 0x777) == 0
    predict(p, CALL, 1, 0x200, 5, 0x300)
    assert predict(p, RETURN, 1, 0x300, 1, 0x999) == 1


def test_indirect_branches_learn_their_targets():
    p = new_predictor()
    outcomes = [predict(p, INDIRECT, 1, 0x4000, 2, 0x5000) for _ in range(20)]
    assert outcomes[0] == 1 and outcomes[-4:] == [0, 0, 0, 0]  # right once the path has come round
    assert predict(p, INDIRECT, 1, 0x4000, 2, 0x6000) == 1


def test_conditionals_learn_their_direction():
    p = new_predictor()
    assert predict(p, CONDITIONAL, 0, 0x40, 2, 0x80) == 0  # weakly not taken at first
    taken = [predict(p, CONDITIONAL, 1, 0x40, 2, 0x80) for _ in range(40)]
    assert taken[0] == 1 and sum(taken[-20:]) == 0
    alternating = [predict(p, CONDITIONAL, i & 1, 0x90, 2, 0x80) for i in range(200)]
    assert sum(alternating[-50:]) == 0  # the history tells the two apart


def test_direct_and_far_branches_are_never_wrong():
    p = new_predictor()
    assert [predict(p, kind, 1, 1, 5, 99) for kind in (JUMP, CALL, FAR)] == [0, 0, 0]
