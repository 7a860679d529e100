"""For tests: run `branchmon watch` on the toy server and on small C programs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import rop

COMMAND = [sys.executable, "-m", "branchmon", "watch"]
RET_MISP = "intel_bm/ret-misp,threshold=3,window_size=64/"
CALL_RET = "intel_bm/call-ret,threshold=8,window_size=64/"


def watch(
    target: rop.Target, directory: Path, options: list[str], *requests: bytes, timeout: float = 120
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *options, "--", str(target.path)],
        input=rop.serve(*requests), cwd=directory, capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evidence(target: rop.Target, directory: Path, *requests: bytes, event: str = RET_MISP) -> dict[str, Any]:
    """The first trip's record."""
    out = directory / "records"
    done = watch(target, directory, ["-e", event, "--json", "-o", str(out), "--on-trip", "report,kill"], *requests)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    return next(record for record in records(out) if record["type"] == "trip")


def build(directory: Path, text: str) -> str:
    (directory / "p.c").write_text(text)
    path = str(directory / "p")
    subprocess.run(["gcc", "-O0", "-g", "-pthread", "-o", path, str(directory / "p.c")], check=True)
    return path
