"""Opens events on itself, inside a shell: prints errnos and checks what descriptors do. Run by the shell's tests."""

import ctypes
import errno
import fcntl
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
with open("/sys/devices/intel_bm/type") as file:
    TYPE = int(file.read())


def attempt(config=0, bits=1, pid=0, cpu=-1, group=-1, flags=0, form=0, period=0, size=112, config1=0, tail=b""):
    attr = struct.pack("<IIQQQQQIIQ", TYPE, size, config, period, 0, form, bits, 0, 0, config1)
    buffer = ctypes.create_string_buffer((attr.ljust(136, b"\0") + tail).ljust(8192, b"\0"), 8192)
    result = libc.syscall(298, buffer, pid, cpu, group, flags)
    if result >= 0:
        return result, ""
    return -1, errno.errorcode[ctypes.get_errno()] + (
        f":{struct.unpack_from('<I', buffer.raw, 4)[0]}" if size > 136 else ""
    )


def refused(**what):
    return attempt(**what)[1]


def errno_of(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""


def check(name, got, expected):
    if got != expected:
        print(f"{name}: {got!r}, not {expected!r}")
        sys.exit(1)


check("system-wide", refused(pid=-1), "EINVAL")
check("a CPU", refused(cpu=0), "EINVAL")
check("nobody", refused(pid=2**22 + 5), "ESRCH")
check("no such event", refused(config=6), "EINVAL")
check("sampling", refused(period=5), "ENOTSUP")
check("flags", refused(flags=16), "EINVAL")
check("bad group", refused(group=0), "EBADF")
check("larger", refused(size=200, tail=b"\1" * 64), "E2BIG:136")

leader, _ = attempt(form=8 | 4 | 3, config1=2)
sibling, _ = attempt(group=leader, form=8 | 4 | 16, bits=0, config=5)
check("third event", refused(), "EBUSY")
numbers = struct.unpack("<7Q", os.read(leader, 100))
check("group of", numbers[0], 2)
ids = [struct.unpack("<Q", fcntl.ioctl(fd, 0x80082407, bytes(8)))[0] for fd in (leader, sibling)]
check("ids", [numbers[4], numbers[6]], ids)
check("group read by a sibling", len(os.read(sibling, 100)), 8 * (1 + 2 * 3))
check("short read", errno_of(os.read, leader, 8), "ENOSPC")
check("write", errno_of(os.write, leader, b"x"), "EINVAL")
check("pread", errno_of(os.pread, leader, 100, 0), "ESPIPE")
check("reopen", errno_of(os.open, f"/proc/self/fd/{leader}", os.O_RDONLY), "ENXIO")
for command, expected in ((0x2402, "EINVAL"), (0x24FF, "ENOTTY"), (0x2405, "EBADF"), (0x40042409, "EINVAL")):
    check(f"ioctl {command:#x}", errno_of(fcntl.ioctl, leader, command, 99), expected)
check("period", errno_of(fcntl.ioctl, leader, 0x40082404, bytes(8)), "EINVAL")

fcntl.ioctl(leader, 0x2400, 0)
for _ in range(5):
    str(object())
fcntl.ioctl(leader, 0x2401, 0)
copy = os.dup(leader)
os.close(leader)
count = struct.unpack("<7Q", os.read(copy, 100))[3]
check("counted", count > 0, True)
check("stands still", struct.unpack("<7Q", os.read(copy, 100))[3], count)
fcntl.ioctl(copy, 0x2403, 0)
check("reset", struct.unpack("<7Q", os.read(copy, 100))[3], 0)
os.close(sibling)
child = os.fork()
if child == 0:
    os._exit(0 if len(os.read(copy, 100)) == 40 else 1)
check("inherited descriptor", os.waitpid(child, 0)[1], 0)
os.close(copy)
for _ in range(20):
    first, why = attempt()
    check("opened again at once", why, "")
    os.close(first)
check("close on exec", fcntl.fcntl(attempt(flags=8)[0], fcntl.F_GETFD), fcntl.FD_CLOEXEC)
print("all right")
