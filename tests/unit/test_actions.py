"""What watch decides by: actions, rates, suppressions, conditions; and writers that hold nobody up."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from branchmon.actions import parse_actions
from branchmon.actions.core import core_path
from branchmon.actions.outlets import Metrics, Writer
from branchmon.actions.policy import Policy, RateLimit, parse_rate, read_suppressions
from branchmon.actions.watcher import Outlets, Watcher
from branchmon.device.lbr import LastBranch
from branchmon.driver.pmu import Pmu, Trip
from branchmon.driver.tasks import Task
from branchmon.errors import OutputError, UsageError
from branchmon.events import BranchKind
from branchmon.evidence.code import Code
from branchmon.evidence.collect import Collector, TripView
from branchmon.evidence.facts import Facts, parse_condition, short_gadgets, unmatched_returns
from branchmon.symbols import Symbolizer


def test_actions_come_in_the_order_in_which_they_are_done() -> None:
    assert [str(a) for a in parse_actions(["kill,report", "run=a, b", "core=x"])] == [
        "report", "run=a, b", "core=x", "kill",
    ]  # fmt: skip
    for text in ("explode", "", "kill=now", "run", "run=", "report,,kill"):
        with pytest.raises(UsageError) as caught:
            parse_actions([text])
        assert caught.value.slug == "no-such-action"


def test_rates() -> None:
    assert [parse_rate(t) for t in ("20", "5/m", " 1 / h ")] == [(20, 1.0), (5, 60.0), (1, 3600.0)]
    for text in ("0/s", "x", "5/d", "-1", "1.5/s"):
        with pytest.raises(UsageError):
            parse_rate(text)
    now = [100.0]
    limit = RateLimit(2, 10.0, clock=lambda: now[0])
    for moment, exhausted in (
        (100, False),
        (101, False),
        (102, True),
        (109.9, True),
        (110, False),
        (111, False),
        (112, True),
    ):
        now[0] = moment
        assert limit.exhausted() is exhausted, moment
        if not exhausted:
            limit.use()


def test_suppressions(tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text("# comment\n\n0123456789abcdef # why\n  fedcba9876543210\n")
    assert read_suppressions(str(file)) == {"0123456789abcdef", "fedcba9876543210"}
    file.write_text("0123456789abcdef\nnonsense\n")
    with pytest.raises(UsageError, match="line 2"):
        read_suppressions(str(file))
    with pytest.raises(UsageError, match="No such file"):
        read_suppressions(str(tmp_path / "none"))


def test_conditions() -> None:
    facts = Facts(returns=5, mispredicted_returns=2, not_call_preceded=3, to_sigreturn=0, unmatched_returns=1,
                  short_gadgets=4, inside_instruction=None, pivot=1)  # fmt: skip
    for text, holds in (
        ("not-call-preceded>=3", True), ("not-call-preceded>3", False), ("pivot", True), ("pivot==0", False),
        ("inside-instruction>=0", False), ("returns < 6", True), ("to-sigreturn=0", True), ("returns!=5", False),
    ):  # fmt: skip
        assert parse_condition(text).holds(facts) is holds, text
    for text in ("guilt>=1", "pivot>=x", "pivot>=", "returns=>1", ""):
        with pytest.raises(UsageError) as caught:
            parse_condition(text)
        assert "short-gadgets" in caught.value.remedy


def code(data: bytes, base: int) -> Code:
    def read(address: int, size: int) -> bytes:
        return data[max(0, address - base) : max(0, address - base + size)] if address >= base else b""

    return Code(read, Symbolizer([]))


RETURN, CALL, INDIRECT = int(BranchKind.RETURN), int(BranchKind.CALL), int(BranchKind.INDIRECT_CALL)


@pytest.mark.parametrize(
    ("bytes_before", "preceded"),
    [
        ("e800000000", True),  # call rel32
        ("ffd0", True),  # call rax
        ("41ffd4", True),  # call r12
        ("ff1500000000", True),  # call [rip]
        ("ff942400010000", True),  # call [rsp+0x100]
        ("3e41ff94cc00010000", True),  # notrack call [r12+rcx*8+0x100]
        ("ffe0", False),  # jmp rax
        ("e900000000", False),  # jmp rel32
        ("ff30", False),  # push [rax]
        ("90909090", False),
        ("e80000000090", False),  # a call, but not right before
    ],
)
def test_preceded_by_call(bytes_before: str, preceded: bool) -> None:
    before = bytes.fromhex(bytes_before)
    padded = b"\x90" * 16 + before
    assert code(padded + b"\xc3", 0x1000).preceded_by_call(0x1000 + len(padded)) is preceded
    assert code(before + b"\xc3", 0x1000).preceded_by_call(0x1000 + len(before)) is preceded  # at a mapping's start


def test_unmatched_returns() -> None:
    # 1000: call +0; 1005: ret; the rest nops.
    view = code(bytes.fromhex("e810000000c3") + b"\x90" * 64, 0x1000)

    def returns(target: int, wrong: bool = False) -> LastBranch:
        return LastBranch(0x1030, target, wrong, RETURN)

    call = LastBranch(0x1000, 0x1020, False, CALL)
    assert unmatched_returns([call, returns(0x1005)], view) == 0
    assert unmatched_returns([call, returns(0x1010, True)], view) == 1
    assert unmatched_returns([call, call, returns(0x1005), returns(0x1005)], view) == 0
    assert unmatched_returns([returns(0x1005, True)], view) == 0  # deep recursion: behind a call, though mispredicted
    assert unmatched_returns([returns(0x1011, True)], view) == 1
    assert unmatched_returns([returns(0x1011, False)], view) == 0  # the return stack knew it


def test_short_gadgets_count_instructions_between_indirect_branches() -> None:
    view = code(b"\x90" * 200, 0x1000)

    def gadget(start: int, length: int, kind: int = RETURN) -> LastBranch:
        """A branch from the last of `length` one-byte instructions at `start` to the next gadget, 50 further on."""
        return LastBranch(start + length - 1, start + 50, False, kind)

    first = LastBranch(0x1000, 0x1010, False, RETURN)
    assert short_gadgets([first], view) == 0
    assert short_gadgets([first, gadget(0x1010, 20)], view) == 1
    assert short_gadgets([first, gadget(0x1010, 21)], view) == 0
    assert short_gadgets([first, gadget(0x1010, 20), gadget(0x1042, 3, INDIRECT), gadget(0x1074, 1)], view) == 3
    direct = LastBranch(0x1010 + 14, 0x1042, False, int(BranchKind.JUMP))  # 15 instructions, and then
    assert short_gadgets([first, direct, gadget(0x1042, 5)], view) == 1
    assert short_gadgets([first, direct, gadget(0x1042, 6)], view) == 0


def test_core_names() -> None:
    assert core_path("c.%p.%n%%%x", 7, 3) == "c.7.3%%x"


def test_writer_with_a_reader_that_does_not_read() -> None:
    read, write = os.pipe()
    writer = Writer(f"/dev/fd/{write}", lambda n: f"dropped {n}\n".encode())
    os.close(write)
    for _ in range(5000):  # 5 MB into a pipe of 64 KB: returns at once
        writer.write(b"x" * 1000 + b"\n")
    assert 3000 < writer.lost < 5000
    lost = writer.lost
    parts: list[bytes] = []

    def drain() -> None:
        while data := os.read(read, 1 << 16):
            parts.append(data)

    reader = threading.Thread(target=drain)
    reader.start()
    while not writer._queue.empty():
        pass
    writer.write(b"last\n")
    writer.close()
    reader.join()
    os.close(read)
    lines = b"".join(parts).splitlines()
    told = [int(line.split()[1]) for line in lines if line.startswith(b"dropped")]
    assert lines[-2:] == [f"dropped {told[-1]}".encode(), b"last"]
    assert sum(told) == lost
    assert len(lines) - len(told) == 5000 - lost + 1


def test_writer_gives_up_a_reader_that_went_away(tmp_path: Path) -> None:
    read, write = os.pipe()
    writer = Writer(f"/dev/fd/{write}", lambda n: b"")
    os.close(write)
    os.close(read)
    for _ in range(10):
        writer.write(b"x\n")
    writer.close()
    assert writer.lost == 10
    with pytest.raises(OutputError):
        Writer(str(tmp_path / "none" / "x"), lambda n: b"")


def test_metrics_are_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.prom"
    metrics = Metrics(str(file))
    metrics.add("trips_total", event="rets", comm='a"b\\c\nd')
    metrics.write()  # too soon
    before = file.stat().st_ino
    assert "trips_total{" not in file.read_text()
    metrics.write(force=True)
    assert 'branchmon_trips_total{comm="a\\"b\\\\c\\nd",event="rets"} 1\n' in file.read_text()
    assert file.stat().st_ino != before
    with pytest.raises(OutputError):
        Metrics(str(tmp_path / "none" / "x.prom"))


def test_a_trip_without_evidence_still_kills(tmp_path: Path) -> None:
    class Broken(Collector):
        def view(self, trip: Trip) -> TripView:
            raise ValueError("confused")

    for conditions, killed in (([], True), ([parse_condition("pivot")], False)):
        with subprocess.Popen(["sleep", "1000"]) as process:
            task = Task(process.pid, process.pid, Pmu())
            writer = Writer(str(tmp_path / "out"), lambda n: b"")
            told: list[str] = []
            outlets = Outlets(writer)
            outlets.tell = told.append  # type: ignore[method-assign]
            watcher = Watcher(
                Policy(conditions=conditions), parse_actions(["report,kill"]), outlets,
                release=lambda pid: None, enough=lambda: None, collector=Broken(),
            )  # fmt: skip
            watcher.tripped(Trip(1, 0, task, 0, 0, 0, (0, 0), (), ()))
            writer.close()
            if not killed:
                assert process.poll() is None
                process.terminate()
            assert process.wait() == (-9 if killed else -15)
            assert told == ["no evidence of a trip: confused"]
