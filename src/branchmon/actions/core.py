"""A core file of our own making, which gdb opens at the tripping instruction, with every thread.

Source: ``man 5 core``, ``man 5 elf``; ``fs/binfmt_elf.c`` and ``include/linux/elfcore.h`` of Linux for the notes.
"""

import contextlib
import os
import signal
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import BinaryIO

from branchmon.driver.tasks import Task
from branchmon.errors import OutputError
from branchmon.sources.base import Mapping, Registers, TaskContext
from branchmon.sources.maps import status_fields

DEFAULT_NAME = "branchmon-%p-%n.core"

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_PRSTATUS_HEAD = struct.Struct("<iiih2xQQiiii64x")
_PRPSINFO = struct.Struct("<bcbb4xQIIiiii16s80s")
_NOTE = struct.Struct("<III")
_ET_CORE, _EM_X86_64, _EV_CURRENT = 4, 62, 1
_PT_LOAD, _PT_NOTE = 1, 4
_PF = {"r": 4, "w": 2, "x": 1}
_NT_PRSTATUS, _NT_FPREGSET, _NT_PRPSINFO, _NT_AUXV = 1, 2, 3, 6
_NT_FILE, _NT_X86_XSTATE = 0x46494C45, 0x202
_FXSAVE = 512
_PAGE = 4096
_CHUNK = 1 << 20
_NEVER = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


@dataclass(frozen=True)
class _Part:
    """A mapping and how much of it goes into the file."""

    mapping: Mapping
    size: int


def core_path(pattern: str, pid: int, number: int) -> str:
    """The file's name: ``%p`` process, ``%n`` number of the trip, ``%%`` a percent sign."""
    values = {"%p": str(pid), "%n": str(number), "%%": "%"}
    parts, i = [], 0
    while i < len(pattern):
        pair = pattern[i : i + 2]
        parts.append(values.get(pair, pattern[i]))
        i += 2 if pair in values else 1
    return "".join(parts)


def write_core(path: str, task: Task) -> None:
    """Write a core file of `task`'s process, with `task` as the thread that gdb shows first.

    Call it in a trip listener. As the kernel's default, it holds what the program may have changed, the first page of
    each file (with its build-id), the vdso, and no other contents of files: gdb finds these by their names.

    :raises OutputError: it cannot be written; nothing is left of it then.
    """
    context = task.context
    if context is None:
        raise OutputError("this source shows no machine state at a trip", slug="no-evidence")
    others = [(other.tid, other.context) for other in context.siblings() if other.context is not None]
    threads = [(task.tid, context), *others]
    mappings = context.mappings()
    changed = _changed(task.pid)
    parts = [_Part(mapping, _kept(mapping, context, changed)) for mapping in mappings if mapping.path not in _NEVER]
    notes = b"".join(_notes(task.pid, threads, mappings))
    temporary = f"{path}.partial"
    try:
        # Memory may hold secrets: nobody else reads it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                _write(file, parts, notes, context)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}", slug="output-failed", remedy="make room, or name another file: core=FILE"
        ) from error


def _kept(mapping: Mapping, context: TaskContext, changed: frozenset[int]) -> int:
    size = mapping.end - mapping.start
    if "r" not in mapping.permissions:
        return 0
    on_disk = mapping.path.startswith("/") and not mapping.path.endswith(" (deleted)")
    if not on_disk or "w" in mapping.permissions or mapping.start in changed:
        return size
    return _PAGE if context.read(mapping.start, 4) == b"\x7fELF" else 0


def _changed(pid: int) -> frozenset[int]:
    """Where the mappings start that have pages of their own, maybe read-only by now: relocated data (RELRO)."""
    found, start = set(), 0
    for line in _read(f"/proc/{pid}/smaps").splitlines():
        name, _, rest = line.partition(b":")
        if name == b"Anonymous":
            if rest.split()[0] != b"0":
                found.add(start)
        elif b"-" in name.split(b" ")[0] and name[:1].isalnum():
            first = name.partition(b"-")[0]
            with contextlib.suppress(ValueError):
                start = int(first, 16)
    return frozenset(found)


def _write(file: BinaryIO, parts: Sequence[_Part], notes: bytes, context: TaskContext) -> None:
    count = len(parts) + 1
    start = _HEADER.size + count * _SEGMENT.size
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    file.write(
        _HEADER.pack(
            ident, _ET_CORE, _EM_X86_64, _EV_CURRENT, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, count, 0, 0, 0
        )
    )
    file.write(_SEGMENT.pack(_PT_NOTE, 0, start, 0, 0, len(notes), 0, 4))
    at = first = (start + len(notes) + _PAGE - 1) // _PAGE * _PAGE
    for part in parts:
        m = part.mapping
        flags = sum(bit for letter, bit in _PF.items() if letter in m.permissions)
        file.write(_SEGMENT.pack(_PT_LOAD, flags, at, m.start, 0, part.size, m.end - m.start, _PAGE))
        at += part.size
    file.write(notes)
    at = first
    for part in parts:
        for offset in range(0, part.size, _CHUNK):
            size = min(_CHUNK, part.size - offset)
            data = context.read(part.mapping.start + offset, size)
            if data.count(0) != len(data):  # zeros become holes
                file.seek(at + offset)
                file.write(data)
        at += part.size
    file.truncate(at)


# ---- notes ----------------------------------------------------------------------------------------------------------


def _notes(pid: int, threads: Sequence[tuple[int, TaskContext]], mappings: Sequence[Mapping]) -> Iterator[bytes]:
    status = status_fields(pid)
    for i, (tid, context) in enumerate(threads):
        yield _note(_NT_PRSTATUS, _prstatus(tid, status, context.registers()))
        if i == 0:
            yield _note(_NT_PRPSINFO, _prpsinfo(pid, status))
            yield _note(_NT_AUXV, _read(f"/proc/{pid}/auxv"))
            yield _note(_NT_FILE, _files(mappings))
        xstate = context.xstate()
        if len(xstate) >= _FXSAVE:
            yield _note(_NT_FPREGSET, xstate[:_FXSAVE])
            yield _note(_NT_X86_XSTATE, xstate, b"LINUX\0")


def _note(kind: int, data: bytes, name: bytes = b"CORE\0") -> bytes:
    return _NOTE.pack(len(name), len(data), kind) + _padded(name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _prstatus(tid: int, status: dict[str, str], registers: Registers) -> bytes:
    sigtrap = int(signal.SIGTRAP)
    head = _PRSTATUS_HEAD.pack(
        sigtrap, 0, 0, sigtrap, _hex(status, "SigPnd"), _hex(status, "SigBlk"), tid, int(status.get("PPid", 0)), 0, 0
    )
    return head + struct.pack("<27QI4x", *(value & (1 << 64) - 1 for value in astuple(registers)), 1)


def _hex(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0"), 16)


def _prpsinfo(pid: int, status: dict[str, str]) -> bytes:
    name = status.get("Name", "").encode()[:15]
    arguments = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").rstrip()[:79]
    uid, gid = (int(status.get(key, "0").split()[0]) for key in ("Uid", "Gid"))
    return _PRPSINFO.pack(0, b"t", 0, 0, 0, uid, gid, pid, int(status.get("PPid", 0)), 0, 0, name, arguments)


def _files(mappings: Iterable[Mapping]) -> bytes:
    files = [m for m in mappings if m.path.startswith("/")]
    head = struct.pack("<QQ", len(files), _PAGE)
    places = b"".join(struct.pack("<QQQ", m.start, m.end, m.offset // _PAGE) for m in files)
    return head + places + b"".join(os.fsencode(m.path) + b"\0" for m in files)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
