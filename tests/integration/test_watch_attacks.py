"""`branchmon watch` on attacks: stopped before their effect; the facts of known chains; every action."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import attacks
import rop
from watching import CALL_RET, COMMAND, RET_MISP, build, evidence, records, watch


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> rop.Target:
    return rop.build_server(tmp_path_factory.mktemp("rop"))


@pytest.fixture(scope="module")
def chains(target: rop.Target) -> dict[str, rop.Chain]:
    return {chain.name: chain for chain in rop.chains(target)}


# ---- attacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["three gadgets", "plain", "stack pivot", "ret2libc", "jump-oriented", "long gadgets",
                                  "call-preceded", "balanced by calls"])  # fmt: skip
def test_attacks_work_without_a_watcher(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path, name: str
) -> None:
    requests = (*rop.REQUESTS, *chains[name].requests)
    subprocess.run(
        [target.path], input=rop.serve(*requests), cwd=tmp_path, capture_output=True, timeout=20, check=False
    )
    assert (tmp_path / rop.FILE_NAME.decode()).exists()


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("three gadgets", RET_MISP),
        ("plain", RET_MISP),
        ("plain", CALL_RET),
        ("stack pivot", CALL_RET),
        ("call-preceded", RET_MISP),
        ("balanced by calls", RET_MISP),
    ],
)
def test_kill_comes_before_the_effect(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path, name: str, event: str
) -> None:
    before = rop.REQUESTS[:3]
    honest = subprocess.run([target.path], input=rop.serve(*before), capture_output=True, check=True).stdout
    done = watch(target, tmp_path, ["-e", event, "--on-trip", "kill"], *before, *chains[name].requests)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    assert done.stdout.startswith(honest)  # the requests before were served
    assert not (tmp_path / rop.FILE_NAME.decode()).exists()


def test_a_short_chain_across_a_window_edge_is_missed(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path
) -> None:
    # What docs/limits.md says: the window does not slide. At most of the places that the chain can lie it is stopped.
    stopped = [
        attacks.run_server(target, RET_MISP, (*way, *chains["three gadgets"].requests)).before > 0
        for way in attacks.alignments(12)
    ]
    assert 9 <= sum(stopped) < 12, stopped


def _serve_many(target: rop.Target, directory: Path, rounds: int) -> None:
    requests = rop.REQUESTS * rounds
    honest = subprocess.run([target.path], input=rop.serve(*requests), capture_output=True, check=True).stdout
    out = directory / "records"
    options = ["-e", f"{RET_MISP},{CALL_RET}", "--on-trip", "report,kill", "--json", "-o", str(out)]
    done = watch(target, directory, options, *requests, timeout=3600)
    assert (done.returncode, done.stdout) == (0, honest)
    assert records(out)[-1]["trips"] == 0


def test_harmless_requests_do_not_trip(target: rop.Target, tmp_path: Path) -> None:
    _serve_many(target, tmp_path, 10)


@pytest.mark.soak
def test_ten_thousand_harmless_requests_do_not_trip(target: rop.Target, tmp_path: Path) -> None:
    _serve_many(target, tmp_path, 10_000 // len(rop.REQUESTS) + 1)


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_facts_of_a_plain_chain(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    trip = evidence(target, tmp_path, *chains["plain"].requests, event=CALL_RET)
    facts = trip["facts"]
    # By the addresses that the chain was made from, each behind no call: handle's own return, and those of gadgets.
    used = ("pop rdi ; ret", "pop rax ; ret", "mov qword ptr [rdi], rax ; ret", "pop rsi ; ret", "syscall ; ret", "ret")
    made_of = {f"{target.gadgets[text]:#x}" for text in used}
    in_chain = [branch for branch in trip["last_branches"] if branch["target"]["address"] in made_of]
    assert {branch["kind"] for branch in in_chain} == {"return"}
    assert facts["not-call-preceded"] == facts["unmatched-returns"] == len(in_chain) >= 7
    assert facts["short-gadgets"] >= len(in_chain) - 1
    assert facts["pivot"] == 0
    assert facts["to-sigreturn"] == 0
    assert [counter["count"] for counter in trip["counters"]] == [8]
    assert trip["last_branches"][-1]["source"] == trip["instruction"]
    assert trip["instruction_text"] == "ret"


def test_facts_of_the_variants(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    pivot = evidence(target, tmp_path, *chains["stack pivot"].requests, event=CALL_RET)
    assert pivot["facts"]["pivot"] == 1
    assert "outside the thread's stack" in pivot["verdict"]
    preceded = evidence(target, tmp_path, *chains["call-preceded"].requests)
    assert preceded["facts"]["not-call-preceded"] == 0  # what this evasion is made for
    assert preceded["facts"]["mispredicted-returns"] >= 3


def test_fingerprint_is_stable_and_suppresses(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    requests = chains["three gadgets"].requests
    first, second = (evidence(target, tmp_path, *rop.REQUESTS[:n], *requests) for n in (0, 2))
    assert first["fingerprint"] == second["fingerprint"]
    listed = tmp_path / "known"
    listed.write_text(f"# known\n{first['fingerprint']}  # a test\n")
    out = tmp_path / "suppressed"
    options = ["-e", RET_MISP, "--on-trip", "report,kill", "--suppress", str(listed), "--json", "-o", str(out)]
    done = watch(target, tmp_path, options, *requests)
    assert done.returncode == 128 + signal.SIGSEGV  # as without us: the attack crashes the server at its end
    end = records(out)[-1]
    assert (end["type"], end["reported"], end["suppressed"]) == ("end", 0, end["trips"])
    assert end["suppressed"] >= 1


def test_only_if_acts_on_the_fact(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    for condition, killed in (("not-call-preceded>=3", True), ("not-call-preceded>=30", False), ("pivot", False)):
        options = ["-e", RET_MISP, "--on-trip", "kill", "--only-if", condition]
        done = watch(target, tmp_path, options, *chains["three gadgets"].requests)
        file = tmp_path / rop.FILE_NAME.decode()
        assert file.exists() is not killed, condition
        assert (done.returncode == 128 + signal.SIGKILL) is killed
        file.unlink(missing_ok=True)


# ---- actions --------------------------------------------------------------------------------------------------------


def test_core_opens_in_gdb_at_the_instruction(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    out, core = tmp_path / "records", tmp_path / "core.%n"
    options = ["-e", RET_MISP, "--on-trip", f"report,core={core},kill", "--json", "-o", str(out)]
    watch(target, tmp_path, options, *chains["three gadgets"].requests)
    trip = records(out)[1]
    names = [name for name in trip["registers"] if name not in ("fs_base", "gs_base", "eflags")]
    ask = [part for name in names for part in ("-ex", f'printf "{name} %#lx\\n", ${name}')]
    gdb = subprocess.run(
        ["gdb", "-nx", "-batch", *ask, "-ex", "x/gx $rsp", str(target.path), str(tmp_path / "core.1")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    shown = dict(re.findall(r"^(\w+) (0x[0-9a-f]+|0)$", gdb.stdout, re.M))
    assert {name: int(value, 0) for name, value in shown.items()} == {
        name: int(trip["registers"][name], 0) for name in names
    }, gdb.stderr
    top = next(word for word in trip["stack"] if word["offset"] == 0)
    assert int(gdb.stdout.split()[-1], 0) == int(top["value"], 0)
    assert trip["registers"]["rip"] == trip["next"]["address"]
    assert (tmp_path / "core.1").stat().st_mode & 0o077 == 0


THREADS = r"""
#include <pthread.h>
#include <unistd.h>
static int down(int n) { return n ? down(n - 1) + 1 : 0; }
static void *wait_for_ever(void *p) { (void)p; for (;;) pause(); }
int main(void) {
    pthread_t t;
    pthread_create(&t, 0, wait_for_ever, 0);
    volatile int r = down(400);
    return r == 400 ? 7 : 1;
}
"""


def test_core_has_every_thread_and_the_program_goes_on(tmp_path: Path) -> None:
    program = build(tmp_path, THREADS)
    core = tmp_path / "core"
    command = [*COMMAND, "-e", "intel_bm/rets,threshold=100,window_size=400/", "--max-trips", "1",
               "--on-trip", f"core={core}", "--", program]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=200, check=False)
    assert done.returncode == 7, done.stderr
    gdb = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "bt -1", "-ex", "thread apply all bt", program, str(core)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "in down (n=" in gdb.stdout and "wait_for_ever" in gdb.stdout, gdb.stdout + gdb.stderr


def test_stop_goes_on_at_cont_with_identical_output(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path
) -> None:
    requests = (*rop.REQUESTS[:3], *chains["three gadgets"].requests)
    bare = subprocess.run([target.path], input=rop.serve(*requests), cwd=tmp_path, capture_output=True, check=False)
    (tmp_path / rop.FILE_NAME.decode()).unlink()
    options = ["-e", RET_MISP, "--on-trip", "stop", "--max-trips", "1"]
    with subprocess.Popen(
        [*COMMAND, *options, "--", target.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stderr is not None and process.stdout is not None
        process.stdin.write(rop.serve(*requests))
        process.stdin.close()
        told = process.stderr.readline().decode()
        pid = int(re.findall(r"kill -CONT (\d+)", told)[0])
        _wait_for_state(pid, "tT")
        assert not (tmp_path / rop.FILE_NAME.decode()).exists()
        os.kill(pid, signal.SIGCONT)
        stdout = process.stdout.read()
        assert (process.wait(), stdout) == (128 - bare.returncode, bare.stdout)
    assert (tmp_path / rop.FILE_NAME.decode()).exists()


def _wait_for_state(pid: int, letters: str) -> None:
    """Until the process is in one of these states (of /proc/PID/stat); the test's own time limit ends it."""
    while True:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in letters:
            return


def test_gdb_hand_over_continues_at_the_instruction(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path
) -> None:
    out = tmp_path / "records"
    options = ["-e", RET_MISP, "--on-trip", "report,gdb", "--json", "-o", str(out)]
    requests = (*rop.REQUESTS[:3], *chains["three gadgets"].requests)
    told = tmp_path / "told"  # a file, as the stopped program keeps its descriptors
    with told.open("wb") as stderr:
        code = subprocess.run(
            [*COMMAND, *options, "--", str(target.path)],
            input=rop.serve(*requests), cwd=tmp_path, stdout=stderr, stderr=stderr, timeout=120, check=False,
        ).returncode  # fmt: skip
    pid = int(re.findall(rb"gdb -p (\d+)", told.read_bytes())[0])
    try:
        assert code == 0
        trip = next(record for record in records(out) if record["type"] == "trip")
        assert not (tmp_path / rop.FILE_NAME.decode()).exists()
        gdb = subprocess.run(
            ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", 'printf "pc %#lx\\n", $pc', "-ex", "kill"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert f"pc {trip['next']['address']}" in gdb.stdout, gdb.stdout + gdb.stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_attached_server_is_killed_too(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    requests = b"".join(rop.frame(request) for request in rop.REQUESTS)
    with subprocess.Popen([target.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as server:
        assert server.stdin is not None and server.stdout is not None
        out = tmp_path / "records"
        command = [
            *COMMAND,
            "-e",
            CALL_RET,
            "--on-trip",
            "report,kill",
            "--json",
            "-o",
            str(out),
            "-p",
            str(server.pid),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as watcher:
            while not out.exists() or b'"start"' not in out.read_bytes():  # written once the events are open
                assert watcher.poll() is None
            server.stdin.write(requests + rop.serve(*chains["plain"].requests))
            server.stdin.close()
            assert server.wait() == -signal.SIGKILL
            assert watcher.wait() == 0
    assert not (tmp_path / rop.FILE_NAME.decode()).exists()
    assert [record["type"] for record in records(out)] == ["start", "trip", "end"]
