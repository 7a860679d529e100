"""Writing JSON piece by piece, so that the size of a trace never has to fit into memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from branchmon.errors import OutputError


@contextmanager
def text_file(path: str) -> Iterator[TextIO]:
    """A file to write text to.

    :raises OutputError: it cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", slug="export-write") from error


class JsonArray:
    """The elements of a JSON array, written one by one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._first = True

    def add(self, value: Any) -> None:
        """The next element."""
        self._file.write("\n" if self._first else ",\n")
        self._first = False
        json.dump(value, self._file, separators=(",", ":"))
