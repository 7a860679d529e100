"""`branchmon shell`: /sys, event descriptors, users, and what is left when it ends."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from shells import PROGRAMS, SHELL, build, descendants, host_mounts, inside, need_shell, returns128

PMU = "/sys/devices/intel_bm"


@pytest.fixture(scope="module", autouse=True)
def _shell() -> None:
    need_shell("gcc")


def test_attributes_can_be_read_and_written_and_the_rest_of_sys_is_there() -> None:
    before = sorted(os.listdir("/sys/devices"))
    script = (
        f"cd {PMU}; cat num_counters threshold; echo 0x20 > threshold; cat threshold; "
        "echo 128 > threshold && echo accepted; echo 1 > type && echo accepted; cat threshold; "
        "cat /sys/bus/event_source/devices/intel_bm/window_size; readlink -f subsystem; "
        "stat -f -c %T /sys; ls /sys/devices"
    )
    lines = inside("sh", "-c", script, options=("--set", "threshold=9")).stdout.split()
    assert lines[:7] == ["2", "9", "32", "32", "1023", "/sys/bus/event_source", "sysfs"]
    assert lines[7:] == sorted({*before, "intel_bm"})
    assert not os.path.exists(PMU)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    result = inside("sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_a_command_that_is_not_there() -> None:
    result = inside("/nonexistent/program")
    assert result.returncode == 127 and "[not-found]" in result.stderr


def test_one_shell_in_another_is_refused() -> None:
    result = inside(*SHELL, "--", "true")
    assert result.returncode == 3 and "[nested]" in result.stderr


def test_descriptors_do_what_the_kernels_do() -> None:
    result = inside("python3", PROGRAMS / "self_open.py")
    assert (result.stdout, result.stderr, result.returncode) == ("all right\n", "", 0)


@pytest.mark.parametrize("way", ["poll", "epoll", "SIGIO"])
def test_the_authors_pattern(tmp_path: Path, way: str) -> None:
    client, program = build(tmp_path, "bm_client"), returns128(tmp_path)
    signalled = "yes fd right" if way == "SIGIO" else "no fd -"
    result = inside(client, "100", way, program)
    assert result.stdout == f"trips 1 bias 0 polled yes signalled {signalled} status 0 failed 0\n"


def test_a_program_that_never_trips_hangs_up(tmp_path: Path) -> None:
    result = inside(build(tmp_path, "bm_client"), "127", "poll", returns128(tmp_path, calls=126))
    assert result.stdout == "trips 0 bias 0 polled no signalled no fd - status 0 failed 0\n"


def test_strict_mode_refuses_small_thresholds(tmp_path: Path) -> None:
    client, program = build(tmp_path, "bm_client"), returns128(tmp_path)
    assert inside(client, "1", "poll", program, options=("--strict",)).stdout == "open: Invalid argument\n"


def test_an_ordinary_user_has_it_too(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests are an ordinary user's already")
    # /dev/fuse is for root only on some machines: give this one user another, in a namespace of the test's own.
    device = tmp_path / "fuse"
    os.mknod(device, 0o020666, os.makedev(10, 229))
    os.chmod(device, 0o666)
    client, program = build(Path("/tmp"), "bm_client"), returns128(Path("/tmp"))
    try:
        user = "setpriv --reuid 65534 --regid 65534 --clear-groups"
        prefix = ("unshare", "-m", "sh", "-c", f'mount --bind {device} /dev/fuse && exec {user} "$@"', "sh")
        script = f"id -u; echo 20 > {PMU}/threshold && cat {PMU}/threshold; {client} 100 poll {program}; exit 5"
        result = inside("sh", "-c", script, prefix=prefix)
        assert result.stdout.splitlines()[:2] == ["65534", "20"], result.stderr
        assert "trips 1 bias 0 polled yes" in result.stdout
        assert result.returncode == 5
    finally:
        client.unlink()
        program.unlink()


def test_several_shells_are_independent() -> None:
    command = [*SHELL, "--set", "threshold=11", "--", "sh", "-c", f"echo; read x; cat {PMU}/threshold"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "\n"
        second = inside("sh", "-c", f"echo 3 > {PMU}/threshold; cat {PMU}/threshold")
        out, _ = first.communicate("go\n", timeout=60)
    assert (out, second.stdout) == ("11\n", "3\n")


def test_killing_branchmon_leaves_nothing_and_the_command_goes_on(tmp_path: Path) -> None:
    mounts = host_mounts()
    script = f"echo; read x; cat {PMU}/threshold 2>&1; echo on its own > {tmp_path}/said"
    with subprocess.Popen([*SHELL, "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None and shell.stdin is not None
        shell.stdout.readline()
        family = descendants(shell.pid)
        shell.send_signal(signal.SIGKILL)
        shell.wait(60)
        _await_end(family[:1])  # it guarded this one, which lets go now
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        text = shell.stdout.read()  # ends with the last process inside
    assert b"not connected" in text or b"connection abort" in text
    assert (tmp_path / "said").read_text() == "on its own\n"
    assert host_mounts() == mounts
    _await_end(family)


def _await_end(pids: list[int]) -> None:
    until = time.monotonic() + 30
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until, "a process is left"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """It is there, and no zombie that the test machine's first process has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_is_left_after_many_opens_and_deaths() -> None:
    command = [*SHELL, "--", "python3", str(PROGRAMS / "open_stress.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None and shell.stdin is not None
        held = []
        for _ in range(2):
            assert shell.stdout.readline() == "at rest\n"
            held.append(_holdings(descendants(shell.pid)[0]))  # the first process only guards the one that works
            shell.stdin.write("\n")
            shell.stdin.flush()
        assert shell.stdout.readline() == "opens\n"
        assert shell.wait(60) == 0
    assert held[0] == held[1]


def _holdings(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads and child processes of branchmon, once they have settled."""
    last, same = (0, 0, 0), 0
    while same < 20:
        now = (
            len(os.listdir(f"/proc/{pid}/fd")),
            len(os.listdir(f"/proc/{pid}/task")),
            len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
        )
        last, same = now, same + 1 if now == last else 0
        time.sleep(0.02)
    return last


def test_leftovers_are_waited_for_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    script = f"(read x < {tmp_path}/go; cat {PMU}/num_counters > {tmp_path}/said) & echo $!; exit 4"
    with subprocess.Popen(
        [*SHELL, "--", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None and shell.stderr is not None
        left = shell.stdout.readline().strip()
        assert f"({left})" in shell.stderr.readline()
        (tmp_path / "go").write_text("go\n")
        assert shell.wait(60) == 4
    assert (tmp_path / "said").read_text() == "2\n"


def test_sigterm_goes_to_the_command() -> None:
    script = "trap 'exit 9' TERM; echo; while :; do read x; done"
    with subprocess.Popen([*SHELL, "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(60) == 9


@pytest.mark.parametrize("seed", [1, 2])
def test_random_calls_are_answered_with_documented_errnos(seed: int) -> None:
    result = inside("python3", PROGRAMS / "open_fuzz.py", str(seed))
    words = result.stdout.split()
    assert words[:1] == ["seen"] and int(words[1]) >= 5 and words[2] == "True", result.stderr


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_random_calls(seed: int) -> None:
    assert inside("python3", PROGRAMS / "open_fuzz.py", str(seed)).stdout.startswith("seen")


def test_a_counted_program_outlives_a_killed_branchmon(tmp_path: Path) -> None:
    script = f"echo; read x; i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; echo finished > {tmp_path}/said"
    perf = ["python3", str(PROGRAMS / "counted.py"), "sh", "-c", script]
    with subprocess.Popen([*SHELL, "--", *perf], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None and shell.stdin is not None
        shell.stdout.readline()
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        shell.send_signal(signal.SIGKILL)
        shell.wait(60)
        shell.stdout.read()  # ends with the last process inside
    assert (tmp_path / "said").read_text() == "finished\n"
