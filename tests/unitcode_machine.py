"""Runs generated code in a process of its own, so that code gone wrong cannot take the tests with it.

The worker maps one executable blob and one data area at %gs, fills both as told, calls the blob's first byte and sends
the area back. It knows nothing of what the code is.
"""

import ctypes
import mmap
import pickle
import struct
import subprocess
import sys
from types import TracebackType
from typing import IO, Any

BLOB_SIZE = 4 << 20
AREA_SIZE = 1 << 20
_ARCH_SET_GS = 0x1001
_SYS_ARCH_PRCTL = 158


class Machine:
    """A worker process; use it as a context manager."""

    def __enter__(self) -> "Machine":
        self._worker = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._worker.stdout is not None
        self.blob_address: int
        self.area_address: int
        self.blob_address, self.area_address = pickle.load(self._worker.stdout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.close()
        self._worker.stdout.close()
        self._worker.wait(30)

    def load(self, blob: bytes) -> None:
        """Put the code in place."""
        self._send(blob)

    def run(self, area: bytes, keep: int) -> bytes:
        """Fill the start of the area, call the code, and return the area's first `keep` bytes."""
        self._send((area, keep))
        assert self._worker.stdout is not None
        try:
            answer: bytes = pickle.load(self._worker.stdout)
        except EOFError:
            raise AssertionError(f"the generated code crashed: exit status {self._worker.wait(30)}") from None
        return answer

    def _send(self, what: object) -> None:
        assert self._worker.stdin is not None
        pickle.dump(what, self._worker.stdin)
        self._worker.stdin.flush()


def _work(requests: IO[bytes], answers: IO[bytes]) -> None:
    blob = mmap.mmap(-1, BLOB_SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area = mmap.mmap(-1, AREA_SIZE)
    area_address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    blob_address = ctypes.addressof(ctypes.c_char.from_buffer(blob))
    code: Any = ctypes.CFUNCTYPE(None)(blob_address)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_SET_GS, ctypes.c_ulong(area_address)) != 0:
        raise OSError(ctypes.get_errno(), "arch_prctl")
    pickle.dump((blob_address, area_address), answers)
    answers.flush()
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        if isinstance(request, bytes):
            blob[: len(request)] = request
            continue
        data, keep = request
        area[: len(data)] = data
        code()
        pickle.dump(area[:keep], answers)
        answers.flush()


def pack_words(*words: int) -> bytes:
    """64-bit little-endian words."""
    return struct.pack(f"<{len(words)}Q", *(word & (1 << 64) - 1 for word in words))


if __name__ == "__main__":
    _work(sys.stdin.buffer, sys.stdout.buffer)
