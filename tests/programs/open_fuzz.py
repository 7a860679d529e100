"""Random structures, arguments, ioctls and reads for the PMU; run by the shell's tests, inside a shell, with a seed.

Every call must come back, with an errno that perf_event_open, ioctl or read is documented to give.
"""

import ctypes
import errno
import os
import random
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
with open("/sys/devices/intel_bm/type") as file:
    TYPE = int(file.read())
chance = random.Random(int(sys.argv[1]))
OPEN = {"EINVAL", "EACCES", "ESRCH", "EBADF", "E2BIG", "ENOTSUP", "EBUSY", "EPERM", "EFAULT"}
IOCTL = {"EINVAL", "ENOTTY", "EBADF", "EFAULT"}


def bits(width):
    return chance.choice((0, 0, 0, 1 << chance.randrange(width), chance.getrandbits(width)))


def check(what, result, allowed):
    name = "" if result >= 0 else errno.errorcode[ctypes.get_errno()]
    if name and name not in allowed:
        sys.exit(f"{what}: {name}")
    return name


seen = set()
held = []
for _ in range(400):
    size = chance.choice((0, 64, 72, 112, 136, 144, chance.getrandbits(13)))
    flags = 1 | (bits(38) & ~(1 << 12))  # stays disabled
    attr = struct.pack("<IIQQQQQIIQ", TYPE, size, chance.choice((0, 5, bits(64))), bits(64), bits(26), bits(6), flags,
                       bits(32), 0, bits(24))  # fmt: skip
    buffer = ctypes.create_string_buffer(attr.ljust(136, b"\0") + bits(64).to_bytes(8, "little"), 9000)
    address = chance.choice((ctypes.addressof(buffer),) * 9 + (8,))
    group = chance.choice((-1, -1, 0, 999, *held))
    result = libc.syscall(298, ctypes.c_void_p(address), chance.choice((0, 0, 0, -1, 1 << 22, -7)),
                          chance.choice((-1, -1, -1, 0, 99999, -5)), group, bits(5))  # fmt: skip
    seen.add(check("open", result, OPEN))
    if result >= 0:
        held.append(result)
    if held:
        command = chance.choice((*range(0x2402, 0x240C), 0x40082404, 0x80082407, 0x40042408, 0x40042409, bits(32)))
        if command not in (0x5450, 0x5451):  # FIOCLEX and the like are the file table's
            check("ioctl", libc.ioctl(held[-1], ctypes.c_ulong(command), buffer), IOCTL)
        check("read", libc.read(held[-1], buffer, chance.randrange(1, 200)), {"ENOSPC"})
    while len(held) > chance.randrange(3):
        os.close(held.pop(0))
print("seen", len(seen), "" in seen)
