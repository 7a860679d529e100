"""`branchmon watch`: commands, limits, profiles, and where reports go."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import attacks
import rop
from watching import COMMAND, RET_MISP, build, evidence, records, watch


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> rop.Target:
    return rop.build_server(tmp_path_factory.mktemp("rop"))


@pytest.fixture(scope="module")
def chains(target: rop.Target) -> dict[str, rop.Chain]:
    return {chain.name: chain for chain in rop.chains(target)}


def test_run_gets_the_evidence_on_stdin(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    options = ["-e", RET_MISP, "--on-trip", "run=cat >given; echo told"]
    done = watch(target, tmp_path, options, *chains["three gadgets"].requests)
    given = json.loads((tmp_path / "given").read_text())
    assert given["type"] == "trip" and given["events"] == ["ret-misp"]
    assert b"told" in done.stderr and b"told" not in done.stdout


def test_rate_limit_and_max_trips(tmp_path: Path) -> None:
    program = build(
        tmp_path, "static void f(void) {}\nint main(void) { for (int i = 0; i < 100; i++) f(); return 3; }\n"
    )
    event = "intel_bm/rets,threshold=5,window_size=1023/"
    for options, reported in ((["--rate-limit", "2/h"], 2), (["--max-trips", "3"], 3), (["--exit-on-trip", "9"], None)):
        out = tmp_path / "records"
        command = [*COMMAND, "-e", event, "--json", "-o", str(out), *options, "--", program]
        done = subprocess.run(command, capture_output=True, timeout=200, check=False)
        assert done.returncode == (9 if reported is None else 3), done.stderr
        told = records(out)
        assert told[0]["type"] == "start"
        end = told[-1]
        assert end["trips"] >= 20 or options[0] == "--max-trips"
        assert end["reported"] == len(told) - 2 == (end["trips"] if reported is None else reported)
        assert end["limited"] == end["trips"] - end["reported"]
        assert end["status"] == 3


FORKS = r"""
#include <sys/wait.h>
#include <unistd.h>
static void f(void) {}
int main(void) {
    for (int i = 0; i < 3; i++)
        if (!fork()) {
            for (int j = 0; j < 40; j++) f();
            _exit(0);
        }
    while (wait(0) > 0) {}
    return 0;
}
"""


def test_workers_are_watched_by_a_profile(tmp_path: Path) -> None:
    program = build(tmp_path, FORKS)
    out = tmp_path / "records"
    # 9 returns near each other happen in the workers' loops.
    (tmp_path / "p.toml").write_text(
        'events = ["intel_bm/rets,threshold=9/"]\n[attributes]\nwindow_size = 140\n[watch]\nonly-if = ["returns>=9"]\n'
    )
    command = [*COMMAND, "--profile", str(tmp_path / "p.toml"), "--json", "-o", str(out), "--", program]
    done = subprocess.run(command, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    told = records(out)
    assert told[0]["attributes"]["window_size"] == 140
    in_loops = [t for t in told if t["type"] == "trip" and t["instruction"].get("symbol") == "f"]
    assert len({trip["pid"] for trip in in_loops}) == 3


WAITS = r"""
#include <unistd.h>
static void f(void) {}
int main(void) {
    char c;
    while (read(0, &c, 1) == 1) {
        for (int j = 0; j < 40; j++) f();
        write(1, &c, 1);
    }
    return 5;
}
"""


def test_hangup_reads_the_profile_again(tmp_path: Path) -> None:
    program = build(tmp_path, WAITS)
    profile, out = tmp_path / "p.toml", tmp_path / "records"
    profile.write_text('events = ["intel_bm/rets,threshold=127/"]\n')
    command = [*COMMAND, "--profile", str(profile), "--json", "-o", str(out), "--", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None

        def round_trip() -> None:
            os.write(process.stdin.fileno(), b"x")
            assert process.stdout.read(1) == b"x"

        round_trip()
        for text, told in (
            ('events = ["intel_bm/rets,threshold=200/"]', b"line 1"),
            ('events = ["intel_bm/rets,threshold=20/"]', b"profile reloaded"),
        ):
            profile.write_text(f"{text}\n")
            process.send_signal(signal.SIGHUP)
            assert told in process.stderr.readline()
        round_trip()
        process.stdin.close()
        assert process.wait() == 5
    told = records(out)
    assert any(trip["counters"][0]["threshold"] == 20 for trip in told if trip["type"] == "trip")
    assert not any(trip["counters"][0]["threshold"] == 127 for trip in told if trip["type"] == "trip")


# ---- outlets --------------------------------------------------------------------------------------------------------


def test_records_follow_the_published_schema(target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs" / "evidence.schema.json").read_text())
    evidence(target, tmp_path, *chains["plain"].requests)
    lines = records(tmp_path / "records")
    assert [line["type"] for line in lines] == ["start", "trip", "end"]
    for line in lines:
        jsonschema.validate(line, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**lines[1], "facts": {}}, schema)


def test_reader_that_goes_away_does_not_end_the_program(tmp_path: Path) -> None:
    program = build(
        tmp_path, "static void f(void) {}\nint main(void) { for (int i = 0; i < 999; i++) f(); return 3; }\n"
    )
    read, write = os.pipe()
    command = [*COMMAND, "-e", "intel_bm/rets,threshold=5,window_size=1023/", "--rate-limit", "1000/s", "--json",
               "-o", f"/dev/fd/{write}", "--", program]  # fmt: skip
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.PIPE) as process:
        os.close(write)
        os.read(read, 100)
        os.close(read)
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 3, stderr
    assert b"lost by their reader" in stderr


def test_metrics_and_syslog(
    target: rop.Target, chains: dict[str, rop.Chain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trips.prom"
    watch(target, tmp_path, ["-e", RET_MISP, "--on-trip", "kill", "--metrics", str(file)],
          *chains["three gadgets"].requests)  # fmt: skip
    text = file.read_text()
    assert re.search(r'^branchmon_trips_total\{comm=".*",event="ret-misp"\} 1$', text, re.M), text
    assert 'branchmon_actions_total{action="kill"} 1' in text and "branchmon_up 0" in text
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)*\})? \d+', line), line
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.fixture
def log_socket(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        yield path, listener


def test_syslog_speaks_both_protocols(log_socket: tuple[str, socket.socket]) -> None:
    from branchmon.actions.outlets import Syslog
    from branchmon.errors import UnsupportedError

    path, listener = log_socket
    journal = Syslog(journal=path, dev_log="/nonexistent")
    journal.send("a trip", {"pid": "7"})
    lines = listener.recv(4096).decode().splitlines()
    assert "MESSAGE=a trip" in lines and "BRANCHMON_PID=7" in lines
    syslog = Syslog(journal="/nonexistent", dev_log=path)
    syslog.send("a trip", {"pid": "7"})
    assert re.fullmatch(r"<12>branchmon\[\d+\]: a trip", listener.recv(4096).decode())
    with pytest.raises(UnsupportedError, match="no log"):
        Syslog(journal="/nonexistent", dev_log="/nonexistent")
    journal.close()
    syslog.close()


def test_attack_harness_sees_what_the_command_sees(target: rop.Target, chains: dict[str, rop.Chain]) -> None:
    seen = attacks.run_server(target, RET_MISP, chains["three gadgets"].requests)
    assert seen.effect and seen.before >= 1
