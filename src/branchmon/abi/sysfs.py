"""The tree that /sys/devices/intel_bm shows: type, format, events, attributes, as the kernel's sysfs does.

Source: SPEC section 2; ``fs/kernfs/file.c``, ``fs/sysfs/file.c``, ``kernel/events/core.c`` (pmu_dev_attrs) of Linux.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable

from branchmon.abi.nodes import Directory, Link, Node, Request
from branchmon.driver.attributes import NUM_COUNTERS, SPECS, kstrtouint
from branchmon.driver.config import FORMATS
from branchmon.driver.pmu import PMU_NAME, Pmu
from branchmon.events import BmEvent

PAGE_SIZE = 4096
DEVICES = "/sys/devices"
EVENT_SOURCES = "/sys/bus/event_source/devices"
PMU_DIRECTORY = f"{DEVICES}/{PMU_NAME}"
FIRST_DYNAMIC_TYPE = 6
"""Numbers below are the kernel's own event types (``enum perf_type_id``)."""


class AttributeFile(Node):
    """A file of sysfs.

    :param show: what reading it gives.
    :param store: takes what is written, raising ``OSError`` if refused; None: read-only.
    """

    def __init__(self, show: Callable[[], str], store: Callable[[str], None] | None = None) -> None:
        super().__init__(stat.S_IFREG | (0o444 if store is None else 0o644), PAGE_SIZE)
        self.show = show
        self.store = store

    def open(self, flags: int) -> None:
        """Refuse writing a read-only attribute, even to root (``kernfs_fop_open``)."""
        if flags & os.O_ACCMODE != os.O_RDONLY and self.store is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def read(self, request: Request, offset: int, size: int) -> bytes:
        """The value, from `offset` on."""
        return self.show().encode()[offset : offset + size]

    def write(self, request: Request, offset: int, data: bytes) -> int:
        """One store; the offset means nothing, and at most a page is taken."""
        if self.store is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = data[:PAGE_SIZE]
        self.store(data.decode("latin-1"))
        return len(data)


def used_types(directory: str = EVENT_SOURCES) -> set[int]:
    """The type numbers of the kernel's PMUs."""
    found: set[int] = set()
    try:
        names = os.listdir(directory)
    except OSError:
        return found
    for name in names:
        try:
            with open(f"{directory}/{name}/type", encoding="ascii") as file:
                found.add(int(file.read()))
        except (OSError, ValueError):
            continue
    return found


def free_type(used: Iterable[int]) -> int:
    """A type number that no PMU of the kernel has: above them all, out of the way of those that come later."""
    return max(FIRST_DYNAMIC_TYPE, 31, *used) + 1


def pmu_tree(
    pmu: Pmu, hidden: Callable[[str], Node | None] | None = None, type_read: Callable[[], None] | None = None
) -> Directory:
    """The PMU's directory.

    There is no ``cpumask``: with one, perf would count system-wide.

    :param hidden: finds the nodes that are in the directory but not listed: event descriptors while they are made.
    :param type_read: called when ``type`` is read: an event will be opened soon.
    """

    def show_type() -> str:
        if type_read is not None:
            type_read()
        return f"{pmu.type}\n"

    def attribute(name: str) -> AttributeFile:
        return AttributeFile(lambda: pmu.attributes.show(name), lambda text: pmu.attributes.store(name, text))

    return Directory(
        {
            "type": AttributeFile(show_type),
            "format": Directory({name: constant(bits) for name, bits in FORMATS.items()}),
            "events": Directory({event.perf_name: constant(f"event={event.value:#x}") for event in BmEvent}),
            **{name: attribute(name) for name in SPECS},
            "num_counters": constant(str(NUM_COUNTERS)),
            "perf_event_mux_interval_ms": _mux_interval(),
            "subsystem": Link("../../bus/event_source"),
            "uevent": AttributeFile(lambda: "", _store_uevent),
        },
        hidden,
    )


def constant(text: str) -> AttributeFile:
    """A read-only attribute that never changes."""
    return AttributeFile(lambda: f"{text}\n")


def _mux_interval() -> AttributeFile:
    """Kept as the kernel keeps it; without an effect, since nothing has to share counters by turns."""
    value = [4]

    def store(text: str) -> None:
        interval = kstrtouint(text)
        if interval < 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        value[0] = interval

    return AttributeFile(lambda: f"{value[0]}\n", store)


def _store_uevent(text: str) -> None:
    """Accept what ``kobject_synth_uevent`` accepts: an action; nobody listens here."""
    action = text.rstrip("\n").split(" ", 1)[0]
    if action not in ("add", "remove", "change", "move", "online", "offline", "bind", "unbind"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
