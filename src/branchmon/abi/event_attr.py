"""``struct perf_event_attr`` as a caller passes it, and what perf's core checks before any driver sees it.

Source: ``perf_copy_attr`` and ``perf_event_open`` in ``kernel/events/core.c`` (Linux 6.18);
``include/uapi/linux/perf_event.h``.
"""

import errno
import os
import struct
from collections.abc import Callable

from branchmon.driver.perf_event import PerfEventAttr

SIZE_VER0 = 64
SIZE = 136
"""The structure as we know it (PERF_ATTR_SIZE_VER8): written back to a caller whose structure has more in it."""
PAGE_SIZE = 4096

FLAG_FD_NO_GROUP = 1
FLAG_FD_OUTPUT = 2
FLAG_PID_CGROUP = 4
FLAG_FD_CLOEXEC = 8
FLAGS_ALL = 15

FORMAT_TIME_ENABLED = 1
FORMAT_TIME_RUNNING = 2
FORMAT_ID = 4
FORMAT_GROUP = 8
FORMAT_LOST = 16
FORMATS_ALL = 31

SAMPLE_READ = 1 << 4
SAMPLE_BRANCH_STACK = 1 << 11
SAMPLE_STACK_USER = 1 << 13
SAMPLE_WEIGHT = 1 << 14
SAMPLE_WEIGHT_STRUCT = 1 << 24
_SAMPLES_ALL = (1 << 25) - 1

_BITS: dict[str, int] = {
    "disabled": 1 << 0,
    "inherit": 1 << 1,
    "pinned": 1 << 2,
    "exclusive": 1 << 3,
    "exclude_user": 1 << 4,
    "exclude_kernel": 1 << 5,
    "exclude_hv": 1 << 6,
    "freq": 1 << 10,
    "enable_on_exec": 1 << 12,
    "use_clockid": 1 << 25,
    "namespaces": 1 << 28,
    "aux_output": 1 << 31,
    "inherit_thread": 1 << 35,
    "remove_on_exec": 1 << 36,
    "sigtrap": 1 << 37,
}
_KNOWN_BITS = (1 << 38) - 1
_LAYOUT = struct.Struct("<IIQQQQQIIQQQQIIQIHHIIQQ")


class AttrSizeError(OSError):
    """E2BIG: the caller's structure has another size than ours; :data:`SIZE` has to be written to its size field."""

    def __init__(self) -> None:
        super().__init__(errno.E2BIG, os.strerror(errno.E2BIG))


class RawAttr:
    """The structure's fields that matter, as numbers."""

    def __init__(self, data: bytes) -> None:
        """:param data: the structure as we know it, padded with zeros."""
        fields = _LAYOUT.unpack(data.ljust(SIZE, b"\0")[:SIZE])
        self.type, _, self.config, self.sample_period, self.sample_type, self.read_format, self.bits = fields[:7]
        self.config1, self.branch_sample_type = fields[9], fields[11]
        self.stack_user, self.clockid = fields[13], fields[14]
        self.reserved_2, self.reserved_3 = fields[18], fields[20]

    def has(self, name: str) -> bool:
        """One of the structure's single bits."""
        return bool(self.bits & _BITS[name])

    def check(self) -> None:
        """The checks of ``perf_copy_attr``.

        :raises OSError: EINVAL.
        """
        refused = (
            self.bits & ~_KNOWN_BITS
            or self.reserved_2
            or self.reserved_3
            or self.sample_type & ~_SAMPLES_ALL
            or self.read_format & ~FORMATS_ALL
            or (self.sample_type & SAMPLE_STACK_USER and (self.stack_user >= 0xFFFF or self.stack_user % 8))
            or (self.sample_type & SAMPLE_WEIGHT and self.sample_type & SAMPLE_WEIGHT_STRUCT)
            or (self.has("inherit_thread") and not self.has("inherit"))
            or (self.has("remove_on_exec") and self.has("enable_on_exec"))
            or (self.has("sigtrap") and not self.has("remove_on_exec"))
        )
        if refused:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def driver_attr(self) -> PerfEventAttr:
        """What the driver gets to see."""
        names = ("freq", "disabled", "inherit", "inherit_thread", "pinned", "exclusive", "exclude_user",
                 "exclude_kernel", "exclude_hv", "enable_on_exec", "remove_on_exec")  # fmt: skip
        return PerfEventAttr(
            self.type,
            self.config,
            self.config1,
            self.sample_period,
            self.sample_type,
            self.read_format,
            **{name: self.has(name) for name in names},
        )


def copy_attr(read: Callable[[int, int], bytes]) -> RawAttr:
    """Fetch the structure, as ``perf_copy_attr`` does, without its checks of what is in it.

    :param read: reads the caller's memory: (offset into the structure, size).
    :raises AttrSizeError: E2BIG.
    :raises OSError: EFAULT.
    """
    head = _exactly(read, 0, 8)
    size = struct.unpack_from("<I", head, 4)[0] or SIZE_VER0
    if not SIZE_VER0 <= size <= PAGE_SIZE:
        raise AttrSizeError
    data = _exactly(read, 0, size)
    if any(data[SIZE:]):
        raise AttrSizeError
    return RawAttr(data[:SIZE])


def _exactly(read: Callable[[int, int], bytes], offset: int, size: int) -> bytes:
    data = read(offset, size)
    if len(data) != size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data
