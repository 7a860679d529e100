"""Real programs under the sources: byte-identical output, the same exit status. A quick part in CI, all as soak."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from driving import ENVIRONMENT, SOURCES, fixed_addresses, native, watched

TEXT = b"".join(b"%d line of text, %s\n" % (i * 7919 % 100, b"xy"[i % 2 : i % 2 + 1] * (i % 9)) for i in range(60))
HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 3; }\n'

QUICK = [
    (["true"], b""),
    (["echo", "hello", "world"], b""),
    (["sh", "-c", "echo out; echo err >&2; exit 3"], b""),
]
ALL = [
    (["false"], b""),
    (["cat"], TEXT),
    (["sort"], TEXT),
    (["uniq", "-c"], TEXT),
    (["wc"], TEXT),
    (["cut", "-c3-8"], TEXT),
    (["tr", "a-z", "A-Z"], TEXT),
    (["head", "-n3"], TEXT),
    (["tac"], TEXT),
    (["md5sum"], TEXT),
    (["sha256sum"], TEXT),
    (["base64"], TEXT),
    (["grep", "-n", "text, x*$"], TEXT),
    (["grep", "nothing-like-it"], TEXT),
    (["sed", "s/line/LINE/;5q"], TEXT),
    (["awk", "{ sum += $1 } END { print sum }"], TEXT),
    (["gzip", "-nc"], TEXT),
    (["bzip2", "-c"], TEXT),
    (["xz", "-c"], TEXT),
    (["ls", "-l", "/usr"], b""),
    (["ls", "/no/such/directory"], b""),
    (["find", "/usr/share/perl5", "-maxdepth", "1"], b""),
    (["tar", "-cf", "-", "--mtime=@0", "-C", "/etc", "hostname"], b""),
    (["date", "-u", "-d", "@0"], b""),
    (["expr", "6", "*", "7"], b""),
    (["env"], b""),
    (["bash", "-c", "for i in 1 2 3; do echo $i | cat; done; kill -9 $$"], b""),
    (["perl", "-e", "print join(',', sort { $b <=> $a } 1..20), qq(\\n); exit 4"], b""),
    ([sys.executable, "-I", "-S", "-c", "print(sum(i * i for i in range(100)))"], b""),
    (["git", "--version"], b""),
    (["sqlite3", ":memory:", "select 1 + 1;"], b""),
    (["diff", "/etc/passwd", "/etc/group"], b""),
    (["timeout", "0.05", "sleep", "20"], b""),
]


def name(case: tuple[list[str], bytes]) -> str:
    return Path(case[0][0]).name


CASES = [pytest.param(*case, id=name(case)) for case in QUICK] + [
    pytest.param(*case, id=name(case), marks=[pytest.mark.soak, pytest.mark.timeout(900)]) for case in ALL
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("argv", "stdin"), CASES)
def test_output_and_status_are_the_same(source, argv, stdin):
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    outcome = watched(source, argv, stdin=stdin)
    assert (outcome.status, outcome.stdout, outcome.stderr) == native(argv, stdin=stdin)
    assert outcome.instructions > 1000
    assert not outcome.warnings


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", SOURCES)
def test_a_compiler_with_its_children(source, tmp_path):
    (tmp_path / "hello.c").write_text(HELLO)
    made = []
    for how in ("native", "watched"):
        argv = ["gcc", "-c", str(tmp_path / "hello.c"), "-o", str(tmp_path / "hello.o")]
        status = native(argv)[0] if how == "native" else watched(source, argv).status
        assert status == 0
        made.append((tmp_path / "hello.o").read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("source", SOURCES)
def test_two_runs_count_the_same(source):
    with fixed_addresses():
        first, second = (watched(source, ["true"]).totals for _ in range(2))
    assert first == second


def test_the_command_line_is_no_different(tmp_path):
    """The whole command: output files, the exit status that the shell sees, a signal as 128 + n."""
    for script, code in (("echo out; echo err >&2; exit 3", 3), ("kill -TERM $$", 128 + 15)):
        report = tmp_path / "report"
        argv = [sys.executable, "-m", "branchmon", "stat", "-e", "rets", "-o", str(report), "--", "sh", "-c", script]
        done = subprocess.run(argv, capture_output=True, env={**os.environ, **ENVIRONMENT}, timeout=120, check=False)
        expected = subprocess.run(["sh", "-c", script], capture_output=True, timeout=10, check=False)
        assert (done.stdout, done.stderr) == (expected.stdout, expected.stderr)
        assert done.returncode == code
        assert "rets" in report.read_text()
