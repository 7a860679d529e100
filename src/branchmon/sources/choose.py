"""Which source follows a program, and why."""

import importlib
from typing import NamedTuple

from branchmon.driver.tasks import Tasks
from branchmon.errors import UnsupportedError, UsageError
from branchmon.sources.base import BranchSink, Capabilities, LiveSource

_SOURCES = {
    "step": ("branchmon.sources.step.source", "StepSource"),
    "translate": ("branchmon.sources.translate.source", "TranslateSource"),
    "translate-memory": ("branchmon.sources.translate.source", "MemoryTranslateSource"),
}
"""By name, in the order of preference."""

NAMES = tuple(_SOURCES)


class Choice(NamedTuple):
    """A source's class and one sentence why it was chosen."""

    source: type[LiveSource]
    reason: str

    def __call__(self, tasks: Tasks, sink: BranchSink | None = None) -> LiveSource:
        """Make the source."""
        make: type = self.source
        made: LiveSource = make(tasks, sink)
        return made


def choose(name: str | None = None, *, attach: bool = False) -> Choice:
    """The source to use.

    :param name: as ``--source`` gives it; None: the first that can do what is needed here.
    :param attach: it has to attach to running processes.
    :raises UsageError: no source of that name.
    :raises UnsupportedError: it, or all of them, cannot be used here.
    """
    if name is not None:
        if name not in _SOURCES:
            raise UsageError(
                f"There is no source {name}", slug="no-such-source", remedy=f"The sources are {', '.join(NAMES)}."
            )
        source, capabilities = _load(name)
        if source is None or not capabilities.available:
            raise UnsupportedError(
                f"The source {name} cannot be used here: {capabilities.why}",
                slug="source-unavailable",
                remedy="`branchmon list` shows what each source can do on this machine.",
            )
        return Choice(source, "asked for")
    refusals = []
    for candidate in NAMES:
        source, capabilities = _load(candidate)
        if source is None or not capabilities.available:
            refusals.append(f"{candidate}: {capabilities.why}")
        elif attach and not capabilities.attach:
            refusals.append(f"{candidate}: cannot attach to a running process")
        else:
            return Choice(source, capabilities.why if not refusals else f"{capabilities.why} ({'; '.join(refusals)})")
    raise UnsupportedError(f"No source can be used here ({'; '.join(refusals)})", slug="source-unavailable")


def default_name() -> str | None:
    """The name of the source that is used when none is asked for; None if there is none."""
    try:
        choice = choose()
    except UnsupportedError:
        return None
    return choice.source.capabilities().name


def all_sources() -> list[Capabilities]:
    """What each source can do on this machine, in the order of preference."""
    return [_load(name)[1] for name in NAMES]


capabilities = all_sources


def _load(name: str) -> tuple[type[LiveSource] | None, Capabilities]:
    module_name, class_name = _SOURCES[name]
    try:
        source: type[LiveSource] = getattr(importlib.import_module(module_name), class_name)
        return source, source.capabilities()
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ImportError) and error.name and not error.name.startswith("branchmon.")
        why = f"it needs the module {error.name}" if missing else "it is not part of this installation"
        return None, Capabilities(name, False, why)
