"""Counts its own near returns, and those of the program that it then becomes; run inside a shell."""

import ctypes
import os
import struct
import sys

with open("/sys/devices/intel_bm/type") as file:
    kind = int(file.read())
attr = struct.pack("<IIQQQQQ", kind, 112, 0, 0, 0, 0, 1 | 2 | 1 << 12).ljust(112, b"\0")
if ctypes.CDLL(None).syscall(298, attr, 0, -1, -1, 0) < 0:
    sys.exit("no event")
os.execvp(sys.argv[1], sys.argv[1:])
