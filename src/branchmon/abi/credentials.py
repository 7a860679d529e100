"""Whom a caller may monitor: whom the kernel would let him trace.

Source: ``__ptrace_may_access`` in ``kernel/ptrace.c``, ``cap_ptrace_access_check`` and ``cap_capable`` in
``security/commoncap.c``, ``yama_ptrace_access_check`` in ``security/yama/yama_lsm.c``, ``man 2 ioctl_ns``.
"""

import errno
import fcntl
import os
from dataclasses import dataclass

from branchmon.sources.maps import status_fields

CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"


@dataclass(frozen=True)
class Credentials:
    """Of one task, ids as this process sees them.

    :ivar uids: real, effective, saved; likewise `gids`.
    :ivar namespace: inode number of its user namespace; 0 if it cannot be told.
    """

    tid: int
    pid: int
    uids: tuple[int, int, int]
    gids: tuple[int, int, int]
    permitted: int
    effective: int
    namespace: int

    def privileged(self, namespace: int) -> bool:
        """CAP_SYS_ADMIN or CAP_PERFMON in this very user namespace."""
        return self.namespace == namespace and bool(self.effective & (1 << CAP_SYS_ADMIN | 1 << CAP_PERFMON))


def credentials(tid: int) -> Credentials:
    """A task's.

    :raises ProcessLookupError: it is gone, or a zombie.
    """
    fields = status_fields(tid)
    if not fields or fields.get("State", "")[:1] in ("Z", "X"):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    uids = tuple(int(text) for text in fields["Uid"].split())
    gids = tuple(int(text) for text in fields["Gid"].split())
    return Credentials(
        tid,
        int(fields["Tgid"]),
        (uids[0], uids[1], uids[2]),
        (gids[0], gids[1], gids[2]),
        int(fields["CapPrm"], 16),
        int(fields["CapEff"], 16),
        user_namespace(tid),
    )


def user_namespace(tid: int | str) -> int:
    """Inode number of a task's user namespace; 0 if it may not be seen."""
    try:
        return os.stat(f"/proc/{tid}/ns/user").st_ino
    except OSError:
        return 0


def may_trace(caller: Credentials, target: Credentials, *, inside: int = 0, outside: int = 0) -> bool:
    """The kernel would let `caller` attach to `target` (by his real ids).

    :param inside: the user namespace that was made for an ordinary user's shell; what runs in it, without privileges
        of its own, counts as running in `outside`, where that user is.
    """
    if caller.pid == target.pid:
        return True
    caller_namespace = caller.namespace
    if inside and caller_namespace == inside and target.namespace == outside:
        caller_namespace = outside
        caller = Credentials(caller.tid, caller.pid, caller.uids, caller.gids, 0, 0, outside)
    capable = _capable(caller, target)
    same = all(uid == caller.uids[0] for uid in target.uids) and all(gid == caller.gids[0] for gid in target.gids)
    if not capable and not (same and _dumpable(target)):
        return False
    subset = caller_namespace == target.namespace and not target.permitted & ~caller.permitted
    return (capable or subset) and _yama_allows(caller, target, capable)


def _capable(caller: Credentials, target: Credentials) -> bool:
    """CAP_SYS_PTRACE in the target's user namespace (``cap_capable``)."""
    if caller.namespace == target.namespace:
        return bool(caller.effective >> CAP_SYS_PTRACE & 1)
    try:
        descriptor = os.open(f"/proc/{target.tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while True:
            owner = _owner(descriptor)
            parent = fcntl.ioctl(descriptor, _NS_GET_PARENT)
            os.close(descriptor)
            descriptor = parent
            if os.fstat(descriptor).st_ino == caller.namespace:
                return bool(caller.effective >> CAP_SYS_PTRACE & 1) or owner == caller.uids[1]
    except OSError:  # EPERM: the parent is none that we may see, so the caller is not above the target
        return False
    finally:
        os.close(descriptor)


def _owner(namespace: int) -> int:
    buffer = bytearray(4)
    fcntl.ioctl(namespace, _NS_GET_OWNER_UID, buffer, True)
    return int.from_bytes(buffer, "little")


def _dumpable(target: Credentials) -> bool:
    """Its memory is its owner's: /proc shows the files of a process that is not dumpable as root's."""
    try:
        return os.stat(f"/proc/{target.tid}/status").st_uid == target.uids[1]
    except OSError:
        return False


def _yama_allows(caller: Credentials, target: Credentials, capable: bool) -> bool:
    scope = yama_scope()
    if scope == 0 or (capable and scope < 3):
        return True
    return scope == 1 and _descends(target.pid, caller.pid)


def yama_scope() -> int:
    """``kernel.yama.ptrace_scope``; 0 without yama."""
    try:
        with open(_YAMA, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(status_fields(pid).get("PPid", "0"))
    return False
