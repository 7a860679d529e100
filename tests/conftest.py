"""Fixtures shared by tests that build and run programs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from driving import build


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Build a program of tests/programs, once for the same flags; its path."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made: dict[tuple[str, ...], str] = {}

    def get(name: str, *flags: str) -> str:
        key = (name, *flags)
        if key not in made:
            made[key] = build(tmp_path_factory.mktemp(Path(name).stem), name, *flags)
        return made[key]

    return get
