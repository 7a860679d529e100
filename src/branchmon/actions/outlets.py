"""Where reports go: files, pipes, terminals, syslog, metrics. None of them can hold up the watched program."""

import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from branchmon.errors import OutputError, UnsupportedError

QUEUE_LENGTH = 1000
"""Reports that may wait for a slow reader; more are dropped, and counted."""

PATIENCE = 5.0
"""Seconds without progress after which :meth:`Writer.close` gives a reader up."""

DEV_LOG = "/dev/log"
JOURNAL = "/run/systemd/journal/socket"
_FACILITY_USER_WARNING = 1 << 3 | 4


class Writer:
    """Writes to a descriptor from a thread of its own, so that a slow reader holds up nobody.

    :param path: file to write; None: stderr.
    :param dropped: makes the line that tells how many were dropped.
    :raises OutputError: the file cannot be opened.
    """

    def __init__(self, path: str | None, dropped: Callable[[int], bytes], *, append: bool = False) -> None:
        self.path = path
        self._dropped = dropped
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_LENGTH)
        self.lost = 0
        """Reports dropped because the reader was too slow or went away."""
        self.error: OSError | None = None
        self._untold = 0
        self._closed = False
        self._progress = time.monotonic()
        self._descriptor, self._owned = 2, path is not None
        if path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
            try:
                self._descriptor = os.open(path, flags, 0o666)
            except OSError as error:
                raise OutputError(
                    f"{path}: {error.strerror}", slug="output-failed", remedy="name a file that can be written"
                ) from error
        self._thread = threading.Thread(target=self._work, name="branchmon-writer", daemon=True)
        self._thread.start()

    @property
    def is_terminal(self) -> bool:
        """It writes to a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: bytes) -> None:
        """Hand over one report; returns at once."""
        if self.error is not None:
            self.lost += 1
            return
        try:
            if self._untold:
                self._queue.put_nowait(self._dropped(self._untold))
                self._untold = 0
            self._queue.put_nowait(data)
        except queue.Full:
            self.lost += 1
            self._untold += 1

    def close(self) -> None:
        """Wait until everything is written, the reader went away, or nothing has moved for :data:`PATIENCE`."""
        if self._closed:
            return
        self._closed = True
        self._progress = time.monotonic()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                if time.monotonic() - self._progress > PATIENCE:
                    return
        while self._thread.is_alive() and time.monotonic() - self._progress <= PATIENCE:
            self._thread.join(0.05)
        if self._owned and not self._thread.is_alive():
            os.close(self._descriptor)

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            while data and self.error is None:
                try:
                    data = data[os.write(self._descriptor, data) :]
                    self._progress = time.monotonic()
                except BlockingIOError:  # somebody made the terminal non-blocking
                    time.sleep(0.01)
                except OSError as error:
                    self.error = error
            if self.error is not None and data:
                self.lost += 1


class Syslog:
    """The journal, or syslog where there is none; a log that does not take a message loses it.

    :raises UnsupportedError: neither is there.
    """

    def __init__(self, *, journal: str = JOURNAL, dev_log: str = DEV_LOG) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self.journal = True
        try:
            self._socket.connect(journal)
        except OSError:
            self.journal = False
            try:
                self._socket.connect(dev_log)
            except OSError as error:
                self._socket.close()
                raise UnsupportedError(
                    f"no log to write to: neither {journal} nor {dev_log} answers",
                    slug="no-syslog",
                    remedy="start a syslog daemon, or use --json -o FILE",
                ) from error
        self.lost = 0

    def send(self, message: str, fields: dict[str, str]) -> None:
        """One message; `fields` go to the journal, which can be searched for them."""
        if self.journal:
            lines = [f"MESSAGE={message}", "PRIORITY=4", "SYSLOG_IDENTIFIER=branchmon"]
            lines += [f"BRANCHMON_{name.upper().replace('-', '_')}={value}" for name, value in fields.items()]
            data = "".join(line.replace("\n", " ") + "\n" for line in lines).encode()
        else:
            data = f"<{_FACILITY_USER_WARNING}>branchmon[{os.getpid()}]: {message}".encode()
        try:
            self._socket.send(data)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Metrics:
    """A file in Prometheus's text format, replaced as a whole, as node-exporter's textfile collector wants it.

    :param path: its name should end in ``.prom``.
    :raises OutputError: it cannot be written.
    """

    EVERY = 1.0
    """Seconds between two updates, at least."""

    HELP = (
        ("trips_total", "counter", "trips of the branch monitoring unit"),
        ("outcomes_total", "counter", "what became of the trips: reported, suppressed, limited, unmet"),
        ("actions_total", "counter", "actions taken at trips"),
        ("dropped_reports_total", "counter", "reports that a reader was too slow for"),
        ("tasks", "gauge", "tasks watched"),
        ("up", "gauge", "1 while branchmon watches, 0 after it ended"),
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._written = float("-inf")
        self.write(force=True)

    def add(self, name: str, **labels: str) -> None:
        """Count one."""
        self.values[(name, tuple(sorted(labels.items())))] += 1

    def set(self, name: str, value: int, **labels: str) -> None:
        """Set a value."""
        self.values[(name, tuple(sorted(labels.items())))] = value

    def write(self, *, force: bool = False) -> None:
        """Replace the file, if the last time is long enough ago.

        :raises OutputError: it cannot be written.
        """
        now = time.monotonic()
        if not force and now - self._written < self.EVERY:
            return
        self._written = now
        temporary = f"{self.path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(self.text())
            os.rename(temporary, self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: {error.strerror}", slug="output-failed", remedy="name a file that can be written"
            ) from error

    def text(self) -> str:
        """The file's contents."""
        lines = []
        for name, kind, meaning in self.HELP:
            lines += [f"# HELP branchmon_{name} {meaning}", f"# TYPE branchmon_{name} {kind}"]
            for (metric, labels), value in sorted(self.values.items()):
                if metric == name:
                    inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
                    lines.append(f"branchmon_{name}{{{inner}}} {value}" if inner else f"branchmon_{name} {value}")
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
