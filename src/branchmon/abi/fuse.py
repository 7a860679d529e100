"""The /dev/fuse wire protocol, as much of it as an attribute tree and event descriptors need.

A :class:`Session` reads requests on one thread and calls the methods of the :class:`~branchmon.abi.nodes.Node` they are
for. It implements version 7.31 and is content with any kernel that speaks 7.12 or later.

Source: ``include/uapi/linux/fuse.h``; ``Documentation/filesystems/fuse.rst`` of Linux.
"""

import contextlib
import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator

from branchmon.abi.fuse_opcodes import Opcode
from branchmon.abi.nodes import Directory, Later, Link, Node, Request

VERSION = (7, 31)
OLDEST_MINOR = 12
MAX_WRITE = 64 << 10
_BUFFER = MAX_WRITE + (64 << 10)

_IN_HEADER = struct.Struct("<IIQQIIII")
_OUT_HEADER = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_INIT_IN = struct.Struct("<4I")
_INIT_OUT = struct.Struct("<4I2H2I2H8I")
_READ_IN = struct.Struct("<QQIIQII")
_IOCTL_IN = struct.Struct("<QIIQII")
_POLL_IN = struct.Struct("<QQII")
_SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
_NOTIFY_POLL = 1
_POLL_SCHEDULE_NOTIFY = 1
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8


# As sysfs: its directories have no method for any of these.
_UNSUPPORTED_CREATION = (Opcode.CREATE, Opcode.MKNOD)
_UNSUPPORTED_CHANGE = (
    *(Opcode.SYMLINK, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR),
    *(Opcode.RENAME, Opcode.RENAME2, Opcode.LINK),
)


class Session:
    """Serves one FUSE connection.

    :param descriptor: an open ``/dev/fuse``; the session owns it from now on.
    :param uid: owner of all nodes that have none of their own.
    """

    def __init__(self, descriptor: int, root: Directory, uid: int = 0, gid: int = 0) -> None:
        self.descriptor = descriptor
        self.root = root
        self.uid = uid
        self.gid = gid
        self.nodes: dict[int, Node] = {}
        self._last_id = 0
        self._born = int(time.time())
        self._poll_handles: dict[int, set[int]] = {}
        self._poll_lock = threading.Lock()
        self._handlers = self._table()
        self.register(root)

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def register(self, node: Node) -> Node:
        """Give a node its number, which it keeps until :meth:`forget`."""
        if not node.id:
            self._last_id += 1
            node.id = self._last_id
            self.nodes[node.id] = node
        return node

    def forget(self, node: Node) -> None:
        """The node is gone: requests for it get ESTALE."""
        self.nodes.pop(node.id, None)
        self._poll_handles.pop(node.id, None)

    # ---- serving ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the connection ends (unmounted, aborted, or :meth:`close` d)."""
        while True:
            try:
                packet = os.read(self.descriptor, _BUFFER)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # ENOENT: the request was interrupted before we got it
                return
            if not packet:
                return
            self.dispatch(packet)

    def close(self) -> None:
        """End the connection: whoever uses the tree gets ENOTCONN."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    def dispatch(self, packet: bytes) -> None:
        """Handle one packet of the kernel and reply."""
        if len(packet) < _IN_HEADER.size:
            return
        length, opcode, unique, node, uid, gid, tid, _ = _IN_HEADER.unpack_from(packet)
        if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
            return  # no reply; nothing of ours takes long
        request = Request(opcode, unique, node, uid, gid, tid, packet[_IN_HEADER.size : length])
        try:
            self.reply(unique, self._handle(request))
        except Later:
            pass
        except OSError as error:
            self.refuse(unique, error.errno or errno.EIO)
        except Exception:  # a malformed request, or a fault of ours: the caller must not hang
            self.refuse(unique, errno.EIO)

    def reply(self, unique: int, data: bytes = b"") -> None:
        """Answer a request."""
        self._send(_OUT_HEADER.pack(_OUT_HEADER.size + len(data), 0, unique) + data)

    def refuse(self, unique: int, number: int) -> None:
        """Answer a request with an errno."""
        self._send(_OUT_HEADER.pack(_OUT_HEADER.size, -number, unique))

    def wake(self, node: Node) -> None:
        """Make everybody who polls the node look again. Callable from any thread."""
        with self._poll_lock:
            handles = self._poll_handles.pop(node.id, ())
        for handle in handles:
            self._send(_OUT_HEADER.pack(_OUT_HEADER.size + 8, _NOTIFY_POLL, 0) + struct.pack("<Q", handle))

    def _send(self, packet: bytes) -> None:
        # ENOENT: nobody waits for it any more; ENODEV, EBADF: the connection has ended.
        with contextlib.suppress(OSError):
            os.write(self.descriptor, packet)

    # ---- requests --------------------------------------------------------------------------------------------------

    def _table(self) -> dict[int, Callable[[Request, Node], bytes]]:
        handlers: dict[int, Callable[[Request, Node], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: lambda request, node: self._attr_out(node),
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.RELEASE: self._release,
            Opcode.READDIR: self._readdir,
            Opcode.IOCTL: self._ioctl,
            Opcode.POLL: self._poll,
            Opcode.STATFS: lambda request, node: struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0),
            Opcode.OPENDIR: lambda request, node: struct.pack("<QII", 0, 0, 0),
        }
        for opcode in (Opcode.RELEASEDIR, Opcode.FLUSH, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.DESTROY):
            handlers[opcode] = lambda request, node: b""
        for opcode in _UNSUPPORTED_CREATION:
            handlers[opcode] = _refuser(errno.EACCES)
        for opcode in _UNSUPPORTED_CHANGE:
            handlers[opcode] = _refuser(errno.EPERM)
        return handlers

    def _handle(self, request: Request) -> bytes:
        if request.opcode == Opcode.INIT:
            return _init(request)
        handler = self._handlers.get(request.opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        node = self.nodes.get(request.node)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return handler(request, node)

    def _attr(self, node: Node) -> bytes:
        uid = self.uid if node.uid is None else node.uid
        gid = self.gid if node.gid is None else node.gid
        times = (self._born, self._born, self._born, 0, 0, 0)
        links = 2 if stat.S_ISDIR(node.mode) else 1
        return _ATTR.pack(node.id, node.size, 0, *times, node.mode, links, uid, gid, 0, 4096, 0)

    def _attr_out(self, node: Node) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attr(node)

    def _lookup(self, request: Request, node: Node) -> bytes:
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        found = self.register(node.find(os.fsdecode(request.body.rstrip(b"\0"))))
        return struct.pack("<4Q2I", found.id, 0, 0, 0, 0, 0) + self._attr(found)

    def _setattr(self, request: Request, node: Node) -> bytes:
        fields = _SETATTR_IN.unpack_from(request.body)
        valid, mode, uid, gid = fields[0], fields[11], fields[13], fields[14]
        if valid & _SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & _SET_UID:
            node.uid = uid
        if valid & _SET_GID:
            node.gid = gid
        return self._attr_out(node)  # a new size (O_TRUNC) means nothing to an attribute

    def _readlink(self, request: Request, node: Node) -> bytes:
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.fsencode(node.target)

    def _readdir(self, request: Request, node: Node) -> bytes:
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _, offset, size, *_ = _READ_IN.unpack_from(request.body)
        out = b""
        for i, (name, entry) in enumerate(self._listing(node)):
            if i < offset:
                continue
            raw = os.fsencode(name)
            record = struct.pack("<QQII", entry.id, i + 1, len(raw), entry.mode >> 12) + raw
            record += bytes(-len(record) % 8)
            if len(out) + len(record) > size:
                break
            out += record
        return out

    def _listing(self, node: Directory) -> Iterator[tuple[str, Node]]:
        yield ".", node
        yield "..", node
        for name, entry in node.entries.items():
            yield name, self.register(entry)

    def _open(self, request: Request, node: Node) -> bytes:
        (flags,) = struct.unpack_from("<I", request.body)
        node.open(flags)
        return struct.pack("<QII", node.id, node.open_flags, 0)

    def _read(self, request: Request, node: Node) -> bytes:
        _, offset, size, *_ = _READ_IN.unpack_from(request.body)
        return node.read(request, offset, size)

    def _write(self, request: Request, node: Node) -> bytes:
        _, offset, size, *_ = _READ_IN.unpack_from(request.body)
        return struct.pack("<II", node.write(request, offset, request.body[_READ_IN.size : _READ_IN.size + size]), 0)

    def _release(self, request: Request, node: Node) -> bytes:
        node.release()
        return b""

    def _ioctl(self, request: Request, node: Node) -> bytes:
        _, _, command, argument, size, room = _IOCTL_IN.unpack_from(request.body)
        data = request.body[_IOCTL_IN.size : _IOCTL_IN.size + size]
        return ioctl_out(*node.ioctl(request, command, argument, data, room))

    def _poll(self, request: Request, node: Node) -> bytes:
        _, handle, flags, events = _POLL_IN.unpack_from(request.body)
        # First remember who wants to be woken, then look: a trip in between wakes him once too often, never too seldom.
        if flags & _POLL_SCHEDULE_NOTIFY:
            with self._poll_lock:
                self._poll_handles.setdefault(node.id, set()).add(handle)
        return struct.pack("<II", node.poll(request, events), 0)


def ioctl_out(result: int, data: bytes) -> bytes:
    """The answer to an IOCTL request."""
    return struct.pack("<iIII", result, 0, 0, 0) + data


def _init(request: Request) -> bytes:
    major, minor, readahead, _ = _INIT_IN.unpack_from(request.body)
    if major < VERSION[0] or (major == VERSION[0] and minor < OLDEST_MINOR):
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    # A backlog without limit: a RELEASE is a background request, and must not be overtaken by what comes after it.
    return _INIT_OUT.pack(*VERSION, readahead, 0, 0xFFFF, 0xFFFF, MAX_WRITE, 1, 1, 0, *(0 for _ in range(8)))


def _refuser(number: int) -> Callable[[Request, Node], bytes]:
    def refuse(request: Request, node: Node) -> bytes:
        raise OSError(number, os.strerror(number))

    return refuse
