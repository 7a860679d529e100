"""Real programs under ``branchmon stat``: the same bytes on stdout and stderr, the same exit status as without it."""

import shutil
import subprocess
import sys

import pytest

TEXT = "".join(f"line {n} of {n * 7919 % 101}\n" for n in range(40))

# Name, arguments, input. QUICK ones retire about 100,000 instructions (start-up of a dynamic program), so that single
# steps take seconds; the others up to a hundred million.
QUICK = [
    ("false", [], ""),
    ("cat", [], TEXT),
]
SLOW = [
    ("true", [], ""),
    ("echo", ["a", "b"], ""),
    ("expr", ["6", "*", "7"], ""),
    ("ls", ["-l", "/usr"], ""),
    ("ls", ["/nonexistent"], ""),
    ("sort", ["-k4n"], TEXT),
    ("wc", [], TEXT),
    ("head", ["-n", "3"], TEXT),
    ("tail", ["-n", "3"], TEXT),
    ("cut", ["-d", " ", "-f", "2"], TEXT),
    ("tr", ["a-z", "A-Z"], TEXT),
    ("uniq", ["-c"], TEXT),
    ("md5sum", [], TEXT),
    ("sha256sum", [], TEXT),
    ("base64", [], TEXT),
    ("seq", ["1", "50"], ""),
    ("factor", ["720720", "1000003"], ""),
    ("basename", ["/a/b/c"], ""),
    ("dirname", ["/a/b/c"], ""),
    ("stat", ["-c", "%s %n", "/etc/passwd"], ""),
    ("find", ["/usr/share/doc/tar"], ""),
    ("sed", ["-n", "s/line/LINE/p"], TEXT),
    ("awk", ["{ s += $2 } END { print s }"], TEXT),
    ("grep", ["-c", "of 1"], TEXT),
    ("grep", ["no such text"], TEXT),
    ("gzip", ["-nc"], TEXT),
    ("bzip2", ["-c"], TEXT),
    ("xz", ["-c"], TEXT),
    ("tar", ["-cf", "-", "--mtime=@0", "-C", "/etc", "passwd"], ""),
    ("diff", ["/etc/passwd", "/etc/group"], ""),
    ("sh", ["-c", "for i in 1 2 3; do echo $i; done | sort -r; exit 3"], ""),
    ("bash", ["-c", "kill -TERM $$"], ""),
    ("perl", ["-e", "print join(',', map { $_ * $_ } 1 .. 20), qq(\\n)"], ""),
    ("python3", ["-I", "-S", "-c", "print(sum(i * i for i in range(100)))"], ""),
    ("git", ["--version"], ""),
    ("sqlite3", [":memory:", "create table t(a); insert into t values (1), (2); select sum(a) from t;"], ""),
    ("bc", [], "2^64\n"),
    ("file", ["/etc/passwd"], ""),
    ("openssl", ["dgst", "-sha1"], TEXT),
    ("gcc", ["-x", "c", "-S", "-o", "-", "-"], "int main(void) { return 42; }\n"),
]


def run(command, text):
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    return done.returncode, done.stdout, done.stderr


def same_as_bare(name, arguments, text, tmp_path, *options):
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    code, out, err = run([program, *arguments], text)
    report = tmp_path / "report"
    stat = [sys.executable, "-m", "branchmon", "stat", "-o", str(report), *options, "--", program, *arguments]
    assert run(stat, text) == (code if code >= 0 else 128 - code, out, err)
    assert "intel_bm/rets/" in report.read_text()


@pytest.mark.parametrize(("name", "arguments", "text"), QUICK, ids=[name for name, *_ in QUICK])
def test_quick_programs_one_step_at_a_time(name, arguments, text, tmp_path):
    same_as_bare(name, arguments, text, tmp_path, "--source", "step")


@pytest.mark.soak
@pytest.mark.parametrize(("name", "arguments", "text"), [*QUICK, *SLOW], ids=[name for name, *_ in [*QUICK, *SLOW]])
def test_programs(name, arguments, text, tmp_path):
    same_as_bare(name, arguments, text, tmp_path)
