"""What a FUSE tree is made of: files, directories, links."""

import errno
import os
import stat
from collections.abc import Callable
from enum import IntFlag
from typing import NamedTuple


class OpenFlag(IntFlag):
    """``FOPEN_`` bits of an open file."""

    DIRECT_IO = 1
    NONSEEKABLE = 4
    STREAM = 16
    NOFLUSH = 32


class Request(NamedTuple):
    """One request of the kernel.

    :ivar tid: the task that made it, 0 where the kernel did.
    """

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    tid: int
    body: bytes


class Later(Exception):
    """Raised by a node's method: :meth:`Session.reply` will be called for the request, from another thread."""


class Node:
    """A file of the tree. The defaults are those of a file that supports nothing.

    Methods raise ``OSError``; :class:`Later` from those that take a request.
    """

    open_flags = OpenFlag.DIRECT_IO | OpenFlag.NOFLUSH

    def __init__(self, mode: int, size: int = 0) -> None:
        self.id = 0
        """Inode number; given by :meth:`Session.register`."""
        self.mode = mode
        self.size = size
        self.uid: int | None = None
        """Owner; None: the session's."""
        self.gid: int | None = None

    def open(self, flags: int) -> None:
        """Before a descriptor is made; `flags` of open(2)."""

    def read(self, request: Request, offset: int, size: int) -> bytes:
        """At most `size` bytes."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def write(self, request: Request, offset: int, data: bytes) -> int:
        """How many of the bytes were taken."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def ioctl(self, request: Request, command: int, argument: int, data: bytes, room: int) -> tuple[int, bytes]:
        """The call's result, and what to copy to the argument's address (at most `room` bytes)."""
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def poll(self, request: Request, events: int) -> int:
        """POLL bits that are there now. Files are always ready."""
        return 0x145

    def release(self) -> None:
        """The last descriptor was closed."""


class Directory(Node):
    """A directory.

    :param hidden: finds nodes that are not listed, by name.
    """

    def __init__(self, entries: dict[str, Node], hidden: Callable[[str], Node | None] | None = None) -> None:
        super().__init__(stat.S_IFDIR | 0o755)
        self.entries = entries
        self.hidden = hidden

    def find(self, name: str) -> Node:
        """The entry with this name."""
        node = self.entries.get(name) or (self.hidden(name) if self.hidden is not None else None)
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node


class Link(Node):
    """A symbolic link."""

    def __init__(self, target: str) -> None:
        super().__init__(stat.S_IFLNK | 0o777, len(target))
        self.target = target
