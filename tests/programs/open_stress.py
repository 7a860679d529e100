"""500 opens and closes from 8 processes that die at random; run by the shell's tests, inside a shell.

Waits for a line before and after, so that what branchmon holds can be looked at; then opens one event more.
"""

import ctypes
import os
import random
import struct
import sys

PROCESSES, ROUNDS = 8, 500 // 8 + 1
libc = ctypes.CDLL(None, use_errno=True)
with open("/sys/devices/intel_bm/type") as file:
    TYPE = int(file.read())


def attempt(pid):
    attr = struct.pack("<IIQQQQQ", TYPE, 112, 0, 0, 0, 0, 1 | 2).ljust(112, b"\0")
    return libc.syscall(298, attr, pid, -1, -1, 0)


def churn(seed):
    chance = random.Random(seed)
    held = []
    for _ in range(ROUNDS):
        descriptor = attempt(0)
        if descriptor >= 0:
            held.append(descriptor)
        if held and chance.random() < 0.6:
            os.close(held.pop(chance.randrange(len(held))))
        if chance.random() < 0.01:
            os.kill(os.getpid(), 9)
    os._exit(0)


def meet():
    print("at rest", flush=True)
    sys.stdin.readline()


os.close(attempt(0))
meet()
children = []
for seed in range(PROCESSES):
    pid = os.fork()
    if pid == 0:
        churn(seed)
    children.append(pid)
for pid in children[:2]:
    os.kill(pid, 9)
for pid in children:
    os.waitpid(pid, 0)
meet()
print("opens" if attempt(0) >= 0 else os.strerror(ctypes.get_errno()), flush=True)
