"""Running things inside a branchmon shell, for the tests of the kernel's face."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
SHELL = (sys.executable, "-m", "branchmon", "shell", "--source", "step")


def inside(
    *command: str | Path, options: tuple[str, ...] = (), prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command inside, and wait for it."""
    return subprocess.run(
        [*prefix, *SHELL, *options, "--", *map(str, command)], capture_output=True, text=True, timeout=240, check=False
    )


@cache
def why_not() -> str:
    """Why a shell cannot be had here; empty if it can."""
    result = inside("true")
    return "" if result.returncode == 0 else result.stderr.strip()


def need_shell(*programs: str) -> None:
    """Skip, with the reason, where there is no shell or one of the programs is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if why_not():
        pytest.skip(f"no shell here: {why_not()}")


def build(directory: Path, name: str, *flags: str) -> Path:
    """Compile one of tests/programs."""
    program = directory / name
    subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", program, PROGRAMS / f"{name}.c"], check=True, timeout=120)
    return program


def returns128(directory: Path, calls: int = 128) -> Path:
    """So many calls and returns, and nothing else: no C library."""
    return build(directory, "returns128", "-nostdlib", "-static", f"-DCALLS={calls}")


def host_mounts() -> set[str]:
    """The mount points of this process's namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return {line.split()[4] for line in file}


def descendants(pid: int) -> list[int]:
    """All children of a process, theirs too."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as file:
                children = [int(text) for text in file.read().split()]
            found += children
            todo += children
    return found
