"""The trace format: an Arrow IPC *stream*, batches compressed with zstd. One row a retired branch, taken or not.

Any Arrow reader opens it (docs/traces.md shows three lines each for pyarrow, polars and duckdb). What matters:

* Columns are plain and absolute, batches independent of each other: a file cut anywhere is good up to its last complete
  batch, a ring can drop its oldest batches, and nobody needs our reader. (Differences and dictionaries save less than
  zstd does by itself: see ``benchmarks/trace_size.py``.)
* A row of kind 1-7 is a branch. Kind 0 is a number of instructions without a branch behind them. Kinds from 16 up are
  *events*: what happened to the thread at this point of its stream, told in ``note`` as JSON.
* Rows of one thread stand in the order in which they retired. Rows of several threads interleave in batches of the
  source's making; only ``start``, ``exec``, ``gap`` and ``exit`` say anything about the order between threads.
* A complete recording ends with an ``end`` row and Arrow's end-of-stream mark. Without both it was cut.

History of the version number, kept in the stream's metadata under ``branchmon.schema``:

1. The first. (2026-11)

Adding a column, an event kind or a metadata key is no new version: readers pass over what they do not know. Changing a
meaning is one; a reader refuses a version newer than its own.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from branchmon.errors import BranchmonError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
PREFIX = "branchmon."

COLUMNS = {
    "time": "uint64",  # nanoseconds since the recording began; see Metadata.clock for how fine
    "thread": "uint32",  # Linux thread id
    "gap": "uint32",  # instructions that retired since the thread's last row, this branch not included
    "kind": "uint8",  # branchmon.events.BranchKind, or RowKind
    "taken": "bool",  # false: a conditional that fell through
    "source": "uint64",  # address of the branch instruction
    "size": "uint8",  # its length in bytes; 0: not told
    "target": "uint64",  # address of the next instruction in user mode
    "note": "string",  # null for branches; JSON object for events
}

BATCH_ROWS = 1 << 16
"""Rows of a batch as we write it."""
MAX_BATCH_ROWS = 1 << 22
"""A reader refuses larger batches: they are damage or malice."""
MAX_BATCH_BYTES = 1 << 28
"""Likewise for a batch's uncompressed bytes."""
MAX_METADATA_BYTES = 1 << 24


class RowKind(IntEnum):
    """Rows that are no branches. The values never change meaning; unknown ones are passed over."""

    PLAIN = 0
    """``gap`` instructions without a branch behind them: the thread's last ones."""
    START = 16
    """A thread is followed from here. Note: ``pid``, ``parent`` (thread that made it, or null), ``comm``, and
    ``attached``: true if it ran before, so that nothing is known of its calls so far."""
    EXEC = 17
    """The thread executed a new program. Note: ``pid``, ``path``, ``comm``, and ``former``: the thread's id before,
    where another thread than the leader executed and took the leader's id."""
    MAPPINGS = 18
    """The process's executable mappings changed. Note: ``pid``, ``added``: list of [start, end, permissions, file
    offset, device, inode, path, build-id], ``removed``: list of starts. Removed first. ``complete`` true: these are
    all there are."""
    SIGNAL = 19
    """A signal was delivered. Note: ``signal``, its number."""
    EXIT = 20
    """The thread ended, or was let go. Note: ``status`` as waitpid gives it."""
    GAP = 21
    """Branches are missing here: window and counts start afresh, the predictor knows nothing. Note: ``why`` (see
    :class:`GapReason`), and whatever else is known (``detail``, ``lines``). Thread 0: all threads."""
    TRIP = 22
    """The live unit tripped near here. Note: ``number``, ``events`` (names), ``ip``, ``window``, ``status``."""
    NAMES = 23
    """Names of functions that the input told, where there may be no file to look them up in. Note: ``pid``,
    ``names``: list of [address of the function's start, name, module]."""
    END = 31
    """The recording ended in good order. Note: ``rows``, ``branches``, ``warnings`` (sentences)."""


FIRST_EVENT = int(RowKind.START)


class GapReason:
    """Why branches are missing: the ``why`` of a gap."""

    DROPPED = "dropped"
    """A ring dropped what was older, or a recorder was not recording."""
    OVERFLOW = "overflow"
    """The processor's trace overflowed."""
    DECODE = "decode-error"
    """The trace could not be decoded."""
    LOST = "lost"
    """The kernel lost data."""
    SNIPPET = "snippet"
    """Not an accident: a sample's last branches end, another sample's begin."""
    DISCONTINUITY = "discontinuity"
    """The branch does not start where the last one went: tracing was off, or a line is missing."""
    UNKNOWN = "unknown"
    """Something in the input that we do not know."""


class TraceError(BranchmonError):
    """A file that is no trace, or one we cannot read (exit code 1)."""


@dataclass
class Metadata:
    """What a trace says about itself, in the stream's metadata.

    :ivar program: argv of the launched program; empty if attached.
    :ivar pids: processes attached to.
    :ivar source: ``step``, ``translate``, ``intel-pt``, ``lbr``.
    :ivar settings: events in perf's syntax and attributes that were live while recording.
    :ivar exact: every retired branch is here, with the true number of instructions between them (gaps are marked).
    :ivar approximations: sentences: what is not exact, and what follows.
    :ivar clock: ``branch``: each row has its own time; ``batch``: the time when its batch was handed over.
    :ivar started: ISO 8601, UTC.
    :ivar host: machine, kernel, processor.
    :ivar writer: name and version of the program that wrote it.
    """

    program: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    source: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    approximations: list[str] = field(default_factory=list)
    clock: str = "batch"
    started: str = ""
    host: dict[str, str] = field(default_factory=dict)
    writer: str = ""

    def encode(self) -> dict[str, str]:
        """As key-value metadata of the Arrow schema; every value but the version is JSON."""
        pairs = {PREFIX + "schema": str(VERSION)}
        pairs.update({PREFIX + key: json.dumps(value) for key, value in asdict(self).items()})
        return pairs

    @classmethod
    def decode(cls, pairs: dict[str, str]) -> "Metadata":
        """The reverse; unknown keys are ignored, and so are values of another type than ours.

        :raises TraceError: not a branchmon trace, or a newer version.
        """
        check_version(pairs.get(PREFIX + "schema"))
        found = cls()
        for key, default in asdict(found).items():
            try:
                value = json.loads(pairs[PREFIX + key])
            except (KeyError, ValueError, RecursionError):
                continue
            if type(value) is type(default):
                setattr(found, key, value)
        return found


def check_version(text: str | None) -> None:
    """Refuse what is no trace, and what a newer branchmon wrote.

    :raises TraceError: with slug ``not-a-trace`` or ``trace-too-new``.
    """
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise TraceError("an Arrow stream, but no branchmon trace: it has no schema version", slug="not-a-trace")
    if int(text) > VERSION:
        raise TraceError(
            f"a newer branchmon wrote this trace: its schema is version {int(text)}, this one reads up to {VERSION}",
            slug="trace-too-new",
            remedy="update branchmon",
        )


def arrow_type(alias: str) -> "pa.DataType":
    """The Arrow type that :data:`COLUMNS` names."""
    import pyarrow as pa

    factory: Callable[[], pa.DataType] = getattr(pa, "bool_" if alias == "bool" else alias)
    return factory()


def arrow_schema(metadata: Metadata) -> "pa.Schema":
    """The Arrow schema of a trace."""
    import pyarrow as pa

    fields = [pa.field(name, arrow_type(alias), nullable=name == "note") for name, alias in COLUMNS.items()]
    pairs: Any = metadata.encode()
    return pa.schema(fields, metadata=pairs)
