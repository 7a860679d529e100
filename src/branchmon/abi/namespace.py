"""The mounts that make the PMU appear under /sys, in a mount namespace of their own.

Nothing is mounted for anybody else, and everything goes away with the last process inside.

Source: ``man 7 mount_namespaces``, ``man 7 user_namespaces``, ``Documentation/filesystems/fuse.rst``.
"""

import errno
import os
from collections.abc import Callable

from branchmon.abi.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    unshare,
)
from branchmon.abi.sysfs import DEVICES, EVENT_SOURCES, PMU_DIRECTORY
from branchmon.driver.pmu import PMU_NAME
from branchmon.errors import UnsupportedError

FUSE_DEVICE = "/dev/fuse"
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC


def check_absent() -> None:
    """Refuse where the PMU is there already.

    :raises UnsupportedError: inside another branchmon, or the machine has the PMU.
    """
    if not os.path.lexists(PMU_DIRECTORY) and not os.path.lexists(f"{EVENT_SOURCES}/{PMU_NAME}"):
        return
    if _is_ours():
        raise UnsupportedError(
            "this is the inside of a branchmon shell already, and one cannot be in another",
            slug="nested",
            remedy="use perf here, or leave this shell first",
        )
    raise UnsupportedError(
        f"this machine's kernel has a PMU {PMU_NAME} of its own",
        slug="pmu-present",
        remedy="use perf without branchmon; `branchmon stat` works beside it",
    )


def _is_ours() -> bool:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return any(line.split()[4] == PMU_DIRECTORY and " fuse" in line for line in file)
    except OSError:
        return False


def enter() -> bool:
    """Give this process (which must have one thread only) a mount namespace of its own; a user namespace if need be.

    :returns: True if it is in a user namespace now, in which only its own user and group exist.
    :raises UnsupportedError: the system does not let it.
    """
    try:
        unshare(CLONE_NEWNS)
        private = False
    except PermissionError:
        _enter_user_namespace()
        private = True
    try:
        mount("none", "/", None, MS_REC | MS_PRIVATE)
    except OSError as error:
        raise _no_namespace(error) from error
    return private


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise _no_namespace(error) from error


def _no_namespace(error: OSError) -> UnsupportedError:
    return UnsupportedError(
        f"the system does not allow mounts of one's own ({error.strerror})",
        slug="no-namespace",
        remedy="run branchmon as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1,"
        " user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0); in a container, start it"
        " with --privileged. `branchmon stat` needs none of this",
    )


def open_fuse() -> int:
    """A new FUSE connection; must be opened in the user namespace that it will be mounted in.

    :raises UnsupportedError: there is no FUSE.
    """
    try:
        return os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedError(
            f"{FUSE_DEVICE} cannot be opened ({error.strerror})",
            slug="no-fuse",
            remedy="load the module (`modprobe fuse`) and let users read and write the device; in a container, start it"
            " with --device /dev/fuse. `branchmon stat` does without",
        ) from error


def mount_pmu(connection: int, *, private: bool) -> None:
    """Make the PMU's directory and its link appear.

    :param connection: an open FUSE device.
    :param private: only the caller's user is to use it; what :func:`enter` returned.
    :raises UnsupportedError: there is no /sys as it should be, or no permission to mount.
    """
    owner = f"user_id={os.geteuid()},group_id={os.getegid()}"
    options = f"fd={connection},rootmode=40000,{owner},default_permissions" + ("" if private else ",allow_other")
    try:
        graft(DEVICES, lambda: os.mkdir(PMU_DIRECTORY))
        mount(PMU_NAME, PMU_DIRECTORY, f"fuse.{PMU_NAME}", _SAFE, options)
        graft(EVENT_SOURCES, lambda: os.symlink(f"../../../devices/{PMU_NAME}", f"{EVENT_SOURCES}/{PMU_NAME}"))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise _no_namespace(error) from error
        raise UnsupportedError(
            f"the PMU cannot be put under /sys: {error.filename or ''}: {error.strerror}",
            slug="no-sysfs",
            remedy="/sys must be mounted and have bus/event_source (a kernel with perf events)",
        ) from error


def graft(directory: str, add: Callable[[], None]) -> None:
    """Put a directory of our own over one of sysfs, with all that was in it showing through, and something added.

    Overlayfs would swallow writes to attributes; binding each old entry back does not.
    """
    below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount(PMU_NAME, directory, "tmpfs", _SAFE, "mode=755,size=64k")
        for entry in os.scandir(f"/proc/self/fd/{below}"):
            source, target = f"/proc/self/fd/{below}/{entry.name}", f"{directory}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(source), target)
                continue
            if entry.is_dir():
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            mount(source, target, None, MS_BIND | MS_REC)
        add()
        mount("none", directory, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _SAFE)
    finally:
        os.close(below)
