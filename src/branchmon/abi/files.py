"""Event descriptors: how they are made, and which one a task's descriptor is."""

import errno
import os
import secrets
from collections.abc import Callable

from branchmon.abi.event_file import EventFile
from branchmon.abi.fuse import Session
from branchmon.abi.nodes import Node
from branchmon.driver.perf_event import PerfEvent

_KERNEL_EVENT = "anon_inode:[perf_event]"


class EventFiles:
    """All open event files.

    A file is opened once, through a name that is found but never listed and is good for that one open.

    :param make: makes an event's file.
    """

    def __init__(self, make: Callable[[PerfEvent], EventFile]) -> None:
        self._make = make
        self._session: Session | None = None
        self._directory = -1
        self._device = 0
        self._prefix = f".event-{secrets.token_hex(8)}-"
        self._waiting: dict[str, EventFile] = {}
        self._live: dict[str, EventFile] = {}

    def start(self, session: Session, directory: int) -> None:
        """The tree is mounted.

        :param directory: a descriptor of the mounted root, owned from now on.
        """
        self._session = session
        self._directory = directory
        self._device = os.fstat(directory).st_dev

    def close(self) -> None:
        """Let go of the mount."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def hidden(self, name: str) -> Node | None:
        """The file that is waiting to be opened by this name."""
        return self._waiting.pop(name, None)

    def open(self, event: PerfEvent) -> int:
        """A new descriptor for an event, the only one that is ever opened. Not on the FUSE thread."""
        file = self._make(event)
        name = f"{self._prefix}{event.id}"
        self._waiting[name] = file
        self._live[name] = file
        try:
            return os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            self._waiting.pop(name, None)
            self._live.pop(name, None)
            raise

    def closed(self, file: EventFile) -> None:
        """A file's last descriptor is gone."""
        self._live.pop(f"{self._prefix}{file.event.id}", None)

    def __len__(self) -> int:
        return len(self._live)

    def find(self, tid: int, descriptor: int) -> EventFile | None:
        """The event file that a task's descriptor is of; None if it is something else. Not on the FUSE thread.

        :raises OSError: EBADF: it is not open.
        """
        path = f"/proc/{tid}/fd/{descriptor}"
        name = os.path.basename(_link(path))
        file = self._live.get(name)
        if file is None:
            return None
        # The name is no secret to who has the descriptor, and somebody could give it to another file.
        try:
            found = os.stat(path)
        except OSError:
            raise _bad_descriptor() from None
        return file if (found.st_dev, found.st_ino) == (self._device, file.id) else None

    def is_event(self, tid: int, descriptor: int) -> bool:
        """A task's descriptor is a perf event, ours or the kernel's.

        :raises OSError: EBADF: it is not open.
        """
        if self.find(tid, descriptor) is not None:
            return True
        return _link(f"/proc/{tid}/fd/{descriptor}") == _KERNEL_EVENT

    def barrier(self) -> None:
        """Wait until the FUSE thread has seen every close that happened before this call."""
        os.fstat(self._directory)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        raise _bad_descriptor() from None


def _bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))
