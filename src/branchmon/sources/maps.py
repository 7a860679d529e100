"""What /proc tells of a process: its mappings, threads, who traces it, what kind of program it is."""

import os

from branchmon.sources.base import Mapping

VSYSCALL = 0xFFFFFFFFFF600000
"""The vsyscall page: calls into it are carried out by the kernel; no instruction of it ever retires."""

ELF_MAGIC = b"\x7fELF"
ELF_CLASS_32 = 1


def read_mappings(pid: int) -> list[Mapping]:
    """The address space of a process, in order; empty if it is gone.

    Source: ``man 5 proc_pid_maps``.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [parse_mapping(line) for line in os.fsdecode(text).split("\n") if line]


def parse_mapping(line: str) -> Mapping:
    """One line of the maps file; a path may hold spaces, and newlines as ``\\012``."""
    addresses, permissions, offset, device, inode, *path = line.split(maxsplit=5)
    start, _, end = addresses.partition("-")
    return Mapping(
        int(start, 16),
        int(end, 16),
        permissions,
        int(offset, 16),
        device,
        int(inode),
        path[0].rstrip("\n") if path else "",
    )


def executable(mappings: list[Mapping]) -> list[Mapping]:
    """Those that code can run in."""
    return [mapping for mapping in mappings if "x" in mapping.permissions]


def threads(pid: int) -> list[int]:
    """The ids of a process's threads, ascending; empty if it is gone."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def status_fields(pid: int, tid: int | None = None) -> dict[str, str]:
    """``/proc/PID/status`` (or a thread's) as name → value; empty if it is gone."""
    path = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def tracer_of(pid: int) -> int:
    """The process that traces this one (as we see its id); 0 if none does."""
    return int(status_fields(pid).get("TracerPid", "0"))


def process_of(tid: int) -> int | None:
    """The process a thread belongs to; None if there is no such thread."""
    value = status_fields(tid).get("Tgid")
    return int(value) if value else None


def caught_signals(pid: int, tid: int) -> int:
    """The signals the process has handlers for; bit n-1 is signal n."""
    return int(status_fields(pid, tid).get("SigCgt", "0"), 16)


def program_name(pid: int) -> str:
    """The name of a task as ``comm`` gives it; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def program_path(pid: int) -> str:
    """The file a process executes; empty if it is gone or has none (a kernel thread)."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def elf_class(path: str) -> int | None:
    """1 for a 32-bit ELF file, 2 for a 64-bit one, None for anything else, or what cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(5)
    except OSError:
        return None
    return head[4] if head[:4] == ELF_MAGIC and len(head) > 4 else None
