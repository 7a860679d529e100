"""What every source has to count, on programs whose every instruction is listed and was counted by hand."""

import os
import signal
import threading
import time

import pytest

from branchmon.device.unit import TOTALS_SIZE
from branchmon.events import BranchKind
from driving import SOURCES, native, watched

pytestmark = [pytest.mark.parametrize("source", SOURCES), pytest.mark.timeout(60)]

KINDS = {
    "cond": BranchKind.CONDITIONAL,
    "jump": BranchKind.JUMP,
    "call": BranchKind.CALL,
    "ret": BranchKind.RETURN,
    "ijump": BranchKind.INDIRECT_JUMP,
    "icall": BranchKind.INDIRECT_CALL,
    "far": BranchKind.FAR,
}


# Millions of instructions, most of them the unwinder's.
FLAVOURS = pytest.param("flavours.cc", marks=[pytest.mark.soak, pytest.mark.timeout(900)])


def counts(instructions: int, *, not_taken: int = 0, **kinds: int) -> list[int]:
    """``Unit.totals`` with mispredictions left out."""
    totals = [0] * TOTALS_SIZE
    totals[0] = instructions
    for name, value in kinds.items():
        totals[KINDS[name]] = value
    totals[9] = not_taken
    return totals


# The counts are those of the margins of the programs.
LISTED = {
    # 13 plain; per source line as marked
    "kinds.s": (0, counts(39, cond=9, jump=2, call=4, ret=6, ijump=1, icall=2, far=2, not_taken=4)),
    "rep.s": (0, counts(21, far=1)),
    # 10; 5 x 8 and 10 nops, 5 rets in the rewritten page; 3 + 5 + 5; 1 + 3 + 1; 2 + 5 + 1 + 2 + 5; 1 + 2 + 1; 3
    "rewrite.s": (0, counts(100, cond=5, call=3, ret=10, icall=7, far=5, not_taken=1)),
    # 11; 3 x 4; 2; 3 x 2; 2; 2; 2 x 2; 3
    "handler.s": (0, counts(42, cond=3, jump=3, ret=2, far=8, not_taken=2)),
    # 18; handlers and restorers 4 x 4
    "breakpoint.s": (4, counts(34, ret=4, far=11)),
    # 9; 6; 2; 4; 5; 3 + 1; 6; handler 3; restorer 2
    "flags.s": (0, counts(41, call=1, ret=2, far=6)),
    # 5; 4 x 9 + 4 x 2; 1; 4 x 7; 3; 4 x (1 + 200 + 5 + 3)
    "threads.s": (3, counts(917, cond=4 + 4 + 4 + 4 + 200, call=200, ret=200, far=18, not_taken=4 + 1 + 1 + 4)),
    # parent 8 + 9; child 2 + 5; second program 3 + 1 + 40 + 3
    "family.s -DCALL=57": (7, counts(71, cond=1 + 1 + 1 + 1 + 10, call=10, ret=10, far=5, not_taken=1 + 1 + 1)),
    "family.s -DCALL=58": (7, counts(71, cond=1 + 1 + 1 + 1 + 10, call=10, ret=10, far=5, not_taken=1 + 1 + 1)),
    # leader 7; thread 2 + 5; second program 3 + 1 + 40 + 3
    "thread_exec.s": (7, counts(61, cond=1 + 1 + 1 + 10, call=10, ret=10, far=3, not_taken=1 + 1)),
    # 1 + 3; 128 x 4
    "loop.s -DPLACE=1 -DCALLS=128": (0, counts(516, cond=128, call=128, ret=128, far=1, not_taken=1)),
}


@pytest.mark.parametrize("listing", LISTED)
def test_counts_are_those_of_the_listing(source, listing, program):
    status, expected = LISTED[listing]
    path = program(*listing.split())
    outcome = watched(source, [path])
    expected[8] = outcome.totals[8]  # mispredictions: not asked for here
    assert outcome.totals == expected
    assert outcome.status == status << 8
    assert native([path])[0] == status << 8, "the listing is wrong: the program ends otherwise without us"
    assert not outcome.warnings


# Calls begin behind PLACE instructions; round i (from 0) returns at instruction PLACE + 4i + 2.
PLACED = [
    # the golden example of the driver's authors: ret 100 is instruction 402
    ((4, 128), {"threshold": 100}, 1),
    # the loop begins the window's first instruction but one
    ((1, 128), {"threshold": 100}, 1),
    # cut by the window's edge: 50 rets in the first window, 78 in the second
    ((823, 128), {"threshold": 100}, 0),
    ((823, 128), {"threshold": 78}, 1),
    ((823, 128), {"threshold": 79}, 0),
    ((823, 128), {"threshold": 50}, 2),
    # threshold = count, count + 1
    ((4, 100), {"threshold": 100}, 1),
    ((4, 100), {"threshold": 101}, 0),
    # the window ends with ret 100 (instruction 402), which still trips; one earlier it clears 99
    ((4, 128), {"threshold": 100, "window_size": 402}, 1),
    ((4, 128), {"threshold": 100, "window_size": 401}, 0),
    # after a trip the window starts afresh: rets 64 (instruction 258) and 128 (256 instructions later)
    ((4, 128), {"threshold": 64}, 2),
    ((4, 128), {"threshold": 64, "window_size": 258}, 2),
    # 63 rets to instruction 255; then 64 rets from 258 to 510, the second window's last
    ((4, 128), {"threshold": 64, "window_size": 255}, 1),
    # windows of near returns, and of branches (call, ret, jnz)
    ((4, 128), {"threshold": 100, "window_size": 100, "window_cnt_sel": 2}, 1),
    ((4, 128), {"threshold": 100, "window_size": 99, "window_cnt_sel": 2}, 0),
    ((4, 128), {"threshold": 100, "window_size": 299, "window_cnt_sel": 1}, 1),
    ((4, 128), {"threshold": 100, "window_size": 298, "window_cnt_sel": 1}, 0),
    # every event of one ret
    ((4, 128), {"threshold": 1}, 128),
]


@pytest.mark.parametrize(("place", "terms", "trips"), PLACED)
def test_placed_windows(source, place, terms, trips, program):
    path = program("loop.s", f"-DPLACE={place[0]}", f"-DCALLS={place[1]}")
    assert watched(source, [path], [("rets", terms)]).trips == [trips]


def test_other_events_and_two_at_once(source, program):
    path = program("loop.s", "-DPLACE=4", "-DCALLS=100")
    # The bias goes -1, 0, -1, 0: it never reaches 1. One far branch: the exit.
    outcome = watched(source, [path], [("call-ret", {"threshold": 1}), ("far-branch", {"threshold": 1})])
    assert outcome.trips == [0, 1]


def test_a_trip_stands_at_its_instruction(source, program):
    path = program("loop.s", "-DPLACE=4", "-DCALLS=128")
    seen = []
    registers = []

    def prepare(source, pid):
        def look(trip):
            context = trip.task.context
            registers.append(context.registers())
            seen.append((trip.ip, context.read(trip.ip, 1), context.mappings()))

        source.tasks.pmu.listeners.append(look)

    outcome = watched(source, [path], [("rets", {"threshold": 100})], prepare=prepare)
    assert outcome.trips == [1]
    [(ip, byte, mappings)], [regs] = seen, registers
    assert byte == b"\xc3"
    assert regs.rcx == 128 - 99  # the hundredth call's count has not been taken down yet
    code = next(mapping for mapping in mappings if mapping.start <= regs.rip < mapping.end)
    assert "x" in code.permissions and code.path == path
    assert regs.rip < ip  # back in the loop, behind the call


def test_a_stop_and_its_end_change_nothing(source, program):
    path = program("stopped.s")
    done = threading.Event()

    def keep_going(source, pid):
        def send():
            while not done.wait(0.01):
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    return

        threading.Thread(target=send, daemon=True).start()

    try:
        outcome = watched(source, [path], prepare=keep_going)
    finally:
        done.set()
    assert outcome.totals[:8] == counts(19, cond=2, far=4)[:8]
    assert outcome.status == 0


def test_a_blocked_and_handled_sigtrap_survives(source, program):
    path = program("sigtrap.c", "-static")
    outcome = watched(source, [path])
    assert (outcome.status, outcome.stdout, outcome.stderr) == native([path])


@pytest.mark.parametrize("name", ["signals.c", "jobcontrol.c", "restart.c", "traced.c", "maps.c", FLAVOURS])
def test_the_program_cannot_tell(source, name, program):
    path = program(name, "-static")
    outcome = watched(source, [path])
    expected = native([path])
    assert (outcome.status, outcome.stdout, outcome.stderr) == expected
    assert expected[0] == 0


def test_death_by_signal_is_reported(source, program):
    path = program("signals.c", "-static")
    outcome = watched(source, [path, "die"])
    assert (outcome.status, outcome.stdout, outcome.stderr) == native([path, "die"])
    assert os.WTERMSIG(outcome.status) == signal.SIGSEGV


def test_a_sleeping_program_can_be_interrupted(source, program):
    path = program("signals.c", "-static")
    started = time.monotonic()
    results = []

    def prepare(source, pid):
        threading.Timer(0.3, source.interrupt).start()
        results.append(source.run())  # the interrupt's
        os.kill(pid, signal.SIGKILL)

    outcome = watched(source, [path, "sleep"], prepare=prepare)
    assert results == [False]
    assert os.WTERMSIG(outcome.status) == signal.SIGKILL
    assert time.monotonic() - started < 20
