"""struct perf_event_attr: its sizes, and the core's checks, held to what the running kernel says."""

import ctypes
import errno
import os
import struct

import pytest

from branchmon.abi.event_attr import SIZE, AttrSizeError, copy_attr

_libc = ctypes.CDLL(None, use_errno=True)
KERNEL_SOFTWARE, DUMMY = 1, 9


def attr(size: int = 112, bits: int = 1, read_format: int = 0, sample_type: int = 0, tail: bytes = b"") -> bytes:
    fields = struct.pack("<IIQQQQQ", KERNEL_SOFTWARE, size, DUMMY, 0, sample_type, read_format, bits)
    return (fields.ljust(SIZE, b"\0") + tail).ljust(8192, b"\0")


def ours(data: bytes) -> int:
    try:
        copy_attr(lambda offset, size: data[offset : offset + size]).check()
    except OSError as error:
        return error.errno or 0
    return 0


def kernels(data: bytes) -> int:
    """What the kernel says of the same structure, for an event that it always has."""
    buffer = ctypes.create_string_buffer(data, len(data))
    descriptor = _libc.syscall(298, buffer, 0, -1, -1, 0)
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return 0


@pytest.mark.parametrize(
    "data",
    [
        *(attr(size) for size in (0, 1, 63, 64, 65, 72, 80, 96, 112, 120, 128, 136, 144, 4096, 4097)),
        attr(144, tail=b"\1"),
        attr(4096, tail=bytes(2000) + b"\1"),
        attr(bits=1 | 1 << 63),
        attr(bits=1 | 1 << 35),
        attr(bits=1 | 2 | 1 << 35),
        attr(bits=1 | 1 << 12 | 1 << 36),
        attr(bits=1 | 1 << 37),
        attr(read_format=31),
        attr(read_format=1 << 5),
        attr(sample_type=1 << 25),
        attr(sample_type=1 << 14 | 1 << 24),
    ],
)
def test_as_the_kernel(data: bytes) -> None:
    if kernels(attr()) != 0:
        pytest.skip("the kernel refuses even a dummy event here")
    assert errno.errorcode.get(ours(data)) == errno.errorcode.get(kernels(data))


def test_unreadable_is_a_fault_and_a_cut_structure_too() -> None:
    for short in (0, 7, 50):
        with pytest.raises(OSError) as caught:
            copy_attr(lambda offset, size, short=short: attr()[offset : min(offset + size, short)])
        assert caught.value.errno == errno.EFAULT


def test_wrong_size_is_told_apart() -> None:
    with pytest.raises(AttrSizeError):
        copy_attr(lambda offset, size: attr(1)[offset : offset + size])
