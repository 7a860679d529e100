"""Where a report goes: stderr, as perf's, or a file; a file that cannot take it does not lose the result."""

import contextlib
import sys
import time
from typing import TextIO

from branchmon.errors import OutputError


class Destination:
    """Opened before anything is run, so that a wrong path is told before a program is started.

    :param path: a file to write (``-o``); None: stderr.
    :param append: keep what the file has (``--append``).
    :raises OutputError: the file cannot be opened.
    """

    def __init__(self, path: str | None, *, append: bool = False) -> None:
        self.path = path
        self._error: OutputError | None = None
        self._file: TextIO = sys.stderr
        if path is None:
            return
        try:
            self._file = open(path, "a" if append else "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._failed(error, "name a file that can be written") from error
        self.write(f"# started on {time.ctime()}\n\n")

    def write(self, text: str) -> None:
        """Write at once; to stderr from the first failure on."""
        if self._error is None:
            try:
                self._file.write(text)
                self._file.flush()
                return
            except OSError as error:
                if self.path is None:
                    raise
                self._error = self._failed(error, "make room, or write somewhere else; the result stands above")
                self._drop()
        sys.stderr.write(text)
        sys.stderr.flush()

    def close(self) -> None:
        """Close the file.

        :raises OutputError: something could not be written to it (it went to stderr instead).
        """
        if self.path is not None:
            try:
                self._file.close()
            except OSError as error:
                self._error = self._error or self._failed(error, "make room, or write somewhere else")
        if self._error is not None:
            raise self._error

    def _drop(self) -> None:
        """Forget what the file's buffer still holds."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _failed(self, error: OSError, remedy: str) -> OutputError:
        return OutputError(f"{self.path}: {error.strerror}", slug="output-failed", remedy=remedy)
