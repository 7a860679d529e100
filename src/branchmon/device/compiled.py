"""The device's functions compiled by numba: the very same code as in ``counters``, ``predictor`` and ``replay``.

Each function is copied with its globals bound to the compiled versions of what it calls, and compiled for the argument
types that it meets. Nothing is written twice, so there is nothing to keep equal.

Compiling takes some seconds; the result is kept in a private directory (``$XDG_CACHE_HOME/branchmon``), named by the
sources' contents, since numba itself does not notice when a function that another one calls has changed. If the
directory is not ours alone to write, nothing is kept and every process compiles anew.

Importing this module imports numba (about half a second): import it where it is used.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba

from branchmon.device import counters as _counters
from branchmon.device import predictor as _predictor
from branchmon.device import replay as _replay

_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    _counters.retire,
    _counters.advance,
    _predictor.forget,
    _predictor.predict,
    _replay.interrupt,
    _replay.replay_plain,
    _replay.replay_rows,
    _replay.learn_effects,
    _replay.outlives_window,
    _replay.steady,
    _replay.replay,
    _replay.predict_branches,
)
"""Callees before their callers."""


def cache_directory() -> Path | None:
    """Where compiled code is kept: a directory that only we can write, made if need be; None if there is none.

    Named by a hash of the sources and numba's version. Loading from it runs what is in it, hence the care.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for module in (_counters, _predictor, _replay):
        digest.update(Path(str(module.__file__)).read_bytes())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        return None
    path = Path(base, "branchmon", f"compiled-{digest.hexdigest()[:16]}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (path, path.parent):
            found = directory.stat(follow_symlinks=False)
            private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
            if not private or not os.access(directory, os.W_OK | os.X_OK):
                return None
    except OSError:
        return None
    return path


def _compile_all() -> dict[str, Any]:
    directory = cache_directory()
    compiled: dict[str, Any] = {}
    numba_config: Any = numba.config
    before = numba_config.CACHE_DIR
    try:
        # numba looks at this when a function is decorated, not later: other users of numba keep their own directory.
        numba_config.CACHE_DIR = "" if directory is None else str(directory)
        for function in _FUNCTIONS:
            assert isinstance(function, FunctionType)
            bound = {**function.__globals__, **compiled}
            copy = FunctionType(function.__code__, bound, function.__name__, function.__defaults__)
            copy.__qualname__, copy.__doc__ = function.__qualname__, function.__doc__
            copy.__module__ = __name__
            compiled[function.__name__] = numba.njit(copy, nogil=True, cache=directory is not None)
    finally:
        numba_config.CACHE_DIR = before
    return compiled


_compiled = _compile_all()

retire = _compiled["retire"]
advance = _compiled["advance"]
forget = _compiled["forget"]
predict = _compiled["predict"]
replay = _compiled["replay"]
replay_plain = _compiled["replay_plain"]
replay_rows = _compiled["replay_rows"]
predict_branches = _compiled["predict_branches"]
