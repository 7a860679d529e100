"""Where the extended state that ptrace gives keeps zmm31.

Source: Intel SDM vol. 1 section 13.4 (XSAVE area, standard format); CPUID leaf 0DH.
"""

import ctypes
import mmap
import struct
from collections.abc import Callable
from functools import cache

from branchmon.sources import ptrace

_HI16_ZMM = 7
_XSTATE_BV = 512
_INDEX_IN_HI16 = 15


def _cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """eax, ebx, ecx, edx of CPUID, by a few bytes of machine code."""
    code = bytes.fromhex(
        "53"  # push rbx
        "4989d0"  # mov r8, rdx
        "89f8"  # mov eax, edi
        "89f1"  # mov ecx, esi
        "0fa2"  # cpuid
        "418900"  # mov [r8], eax
        "41895804"  # mov [r8+4], ebx
        "41894808"  # mov [r8+8], ecx
        "4189500c"  # mov [r8+12], edx
        "5b"  # pop rbx
        "c3"
    )
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        anchor = ctypes.c_char.from_buffer(memory)
        result = (ctypes.c_uint32 * 4)()
        function: Callable[..., None] = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(
            ctypes.addressof(anchor)
        )
        function(leaf, subleaf, ctypes.addressof(result))
        del function, anchor
        eax, ebx, ecx, edx = result
    return eax, ebx, ecx, edx


@cache
def zmm31_offset() -> int:
    """Offset of zmm31 in the extended state; 0 where this processor or kernel has no AVX-512VL."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
        if not {"avx512f", "avx512vl", "fsgsbase"} <= set(flags):
            return 0
        size, offset, _, _ = _cpuid(0xD, _HI16_ZMM)
    except OSError:
        return 0
    return offset + 64 * _INDEX_IN_HI16 if size == 16 * 64 else 0


def swap_zmm31(tid: int, program: bytes | None) -> bytes:
    """Give a stopped task its own zmm31 back, unless None; the 64 bytes that were in it."""
    data = bytearray(ptrace.get_regset(tid, ptrace.NT_X86_XSTATE))
    at = zmm31_offset()
    (present,) = struct.unpack_from("<Q", data, _XSTATE_BV)
    found = bytes(data[at : at + 64]) if present >> _HI16_ZMM & 1 else bytes(64)
    if program is not None and found != program:
        if not present >> _HI16_ZMM & 1:
            data[at - 64 * _INDEX_IN_HI16 : at + 64] = bytes(16 * 64)
            struct.pack_into("<Q", data, _XSTATE_BV, present | 1 << _HI16_ZMM)
        data[at : at + 64] = program
        ptrace.set_regset(tid, ptrace.NT_X86_XSTATE, bytes(data))
    return found
