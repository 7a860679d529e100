"""The FUSE protocol, spoken over a socket instead of /dev/fuse."""

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from branchmon.abi.fuse import Session
from branchmon.abi.fuse_opcodes import Opcode
from branchmon.abi.sysfs import free_type, pmu_tree
from branchmon.driver.pmu import Pmu

_HEADER = struct.Struct("<IIQQIIII")


class Kernel:
    """The other end: sends requests, one at a time, and takes the answers."""

    def __init__(self) -> None:
        self.end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(0.2)
        self.pmu = Pmu(40)
        self.session = Session(other.detach(), pmu_tree(self.pmu))

    def ask(self, opcode: int, node: int = 1, body: bytes = b"") -> tuple[int, bytes]:
        """The answer's errno and data."""
        self.session.dispatch(_HEADER.pack(40 + len(body), opcode, 7, node, 0, 0, 1, 0) + body)
        answer = self.end.recv(1 << 17)
        length, error, unique = struct.unpack_from("<IiQ", answer)
        assert length == len(answer) and unique == 7
        return -error, answer[16:]

    def find(self, *names: str) -> int:
        """The number of the node at a path."""
        node = 1
        for name in names:
            error, data = self.ask(Opcode.LOOKUP, node, name.encode() + b"\0")
            assert error == 0
            node = struct.unpack_from("<Q", data)[0]
        return node

    def read(self, *names: str) -> bytes:
        error, data = self.ask(Opcode.READ, self.find(*names), struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
        assert error == 0
        return data

    def write(self, name: str, data: bytes, offset: int = 0) -> tuple[int, int]:
        """Errno, and how much was taken."""
        body = struct.pack("<QQIIQII", 0, offset, len(data), 0, 0, 0, 0) + data
        error, answer = self.ask(Opcode.WRITE, self.find(name), body)
        return error, struct.unpack_from("<I", answer)[0] if not error else 0


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.session.close()
    made.end.close()


def test_init_answers_in_the_size_of_its_version(kernel: Kernel) -> None:
    error, data = kernel.ask(Opcode.INIT, 0, struct.pack("<4I", 7, 41, 131072, 0) + bytes(48))
    assert (error, len(data)) == (0, 64)
    assert struct.unpack_from("<2I", data) == (7, 31)
    assert kernel.ask(Opcode.INIT, 0, struct.pack("<4I", 6, 0, 0, 0))[0] == errno.EPROTO


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("type",), b"40\n"),
        (("num_counters",), b"2\n"),
        (("threshold",), b"127\n"),
        (("window_size",), b"1023\n"),
        (("events", "rets"), b"event=0x0\n"),
        (("events", "far-branch"), b"event=0x5\n"),
        (("format", "event"), b"config:0-7\n"),
        (("format", "threshold"), b"config1:0-6\n"),
    ],
)
def test_files_of_the_specification(kernel: Kernel, path: tuple[str, ...], text: bytes) -> None:
    assert kernel.read(*path) == text


@pytest.mark.parametrize(
    ("text", "error", "value"),
    [
        (b"0x20\n", 0, b"32\n"),
        (b"010", 0, b"8\n"),
        (b"+5", 0, b"5\n"),
        (b"128", errno.EINVAL, b"127\n"),
        (b"-1", errno.EINVAL, b"127\n"),
        (b"5 ", errno.EINVAL, b"127\n"),
        (b"\n", errno.EINVAL, b"127\n"),
        (b"4294967296", errno.ERANGE, b"127\n"),
    ],
)
def test_writes_follow_kstrtouint(kernel: Kernel, text: bytes, error: int, value: bytes) -> None:
    assert kernel.write("threshold", text, offset=3) == (error, 0 if error else len(text))
    assert kernel.read("threshold") == value


def test_a_write_takes_at_most_a_page(kernel: Kernel) -> None:
    assert kernel.write("threshold", b"0" * 5000) == (0, 4096)


def test_read_only_files_cannot_be_opened_for_writing(kernel: Kernel) -> None:
    for name in ("type", "num_counters"):
        assert kernel.ask(Opcode.OPEN, kernel.find(name), struct.pack("<II", os.O_RDWR, 0))[0] == errno.EACCES
        assert kernel.ask(Opcode.OPEN, kernel.find(name), struct.pack("<II", os.O_RDONLY, 0))[0] == 0


def test_there_is_no_cpumask(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.LOOKUP, 1, b"cpumask\0")[0] == errno.ENOENT


def test_reading_a_directory_in_small_pieces_gives_every_name_once(kernel: Kernel) -> None:
    names, offset = [], 0
    while True:
        _, data = kernel.ask(Opcode.READDIR, 1, struct.pack("<QQIIQII", 0, offset, 100, 0, 0, 0, 0))
        if not data:
            break
        at = 0
        while at < len(data):
            _, offset, length, _ = struct.unpack_from("<QQII", data, at)
            names.append(data[at + 24 : at + 24 + length].decode())
            at += (24 + length + 7) // 8 * 8
    assert len(names) == len(set(names))
    assert {".", "..", "type", "format", "events", "threshold", "subsystem"} <= set(names)


def test_nothing_can_be_made_or_removed(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.CREATE, 1, bytes(64))[0] == errno.EACCES
    assert kernel.ask(Opcode.UNLINK, 1, b"type\0")[0] == errno.EPERM
    assert kernel.ask(Opcode.LOOKUP, 99, b"type\0")[0] == errno.ESTALE
    assert kernel.ask(4711)[0] == errno.ENOSYS


def test_a_free_type_is_above_all_that_are_used() -> None:
    assert free_type({1, 2, 8, 77}) == 78
    assert free_type(()) >= 6
