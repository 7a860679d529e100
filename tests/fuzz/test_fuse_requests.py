"""Random packets: every one is answered or rightly ignored, none ends the session."""

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from branchmon.abi.fuse import Session
from branchmon.abi.fuse_opcodes import Opcode
from branchmon.abi.sysfs import pmu_tree
from branchmon.driver.pmu import Pmu

_SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


@settings(max_examples=300, deadline=None)
@given(
    opcode=st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 2**32 - 1)),
    node=st.integers(0, 40),
    body=st.binary(max_size=200),
)
def test_any_request(opcode: int, node: int, body: bytes) -> None:
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session = Session(other.detach(), pmu_tree(Pmu(40)))
    try:
        session.dispatch(struct.pack("<IIQQIIII", 40 + len(body), opcode, 5, node, 0, 0, 1, 0) + body)
        end.setblocking(False)
        if opcode in _SILENT:
            assert _nothing_there(end)
        else:
            length, error, unique = struct.unpack_from("<IiQ", end.recv(1 << 17))
            assert unique == 5 and length >= 16 and -4096 < error <= 0
    finally:
        session.close()
        end.close()


def _nothing_there(end: socket.socket) -> bool:
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    return False
