"""The driver's refusals, told to people: from an errno to message, remedy and exit code; and who is privileged."""

import errno
from collections.abc import Mapping

from branchmon.driver.attributes import NUM_COUNTERS, SPECS, Attributes
from branchmon.errors import BranchmonError, PerfError, UnsupportedError, UsageError

_CAP_SYS_ADMIN = 21
_CAP_PERFMON = 38

REMEDIES = {
    "counters-taken": f"a task has {NUM_COUNTERS} counters: ask for at most {NUM_COUNTERS} events, or run once more for"
    " the others",
    "paranoid": "leave --strict out, or, as root: sysctl kernel.perf_event_paranoid=0",
    "strict-threshold": "use a threshold of 2 or more, or leave --strict out",
    "no-task": "name a program to run, -p PID or -t TID",
    "sampling": "use `branchmon watch` to look at every trip",
    "config-bits": "see the layouts in docs/stat.md",
    "no-such-event": "see `branchmon list`",
    "attribute-range": "see `branchmon list` for ranges",
    "attribute-malformed": "decimal, 0x… hexadecimal or 0… octal, as the kernel reads it",
}
"""What to do about a refusal of the driver, by slug."""


def refusal(error: PerfError, subject: str) -> BranchmonError:
    """The error to show for a refusal of the driver.

    :param subject: the event or attribute that was refused.
    """
    kind = UsageError if error.errno in (errno.EINVAL, errno.ERANGE, errno.ENOENT) else UnsupportedError
    return kind(f"{subject}: {error.strerror} ({error.name})", slug=error.slug, remedy=REMEDIES.get(error.slug, ""))


def store_attributes(attributes: Attributes, values: Mapping[str, str | int]) -> None:
    """Write attributes as sysfs would.

    :raises UsageError: no such attribute, or a value that it does not take.
    """
    for name, value in values.items():
        if name not in SPECS:
            raise UsageError(
                f"no such attribute: {name}",
                slug="no-such-attribute",
                remedy=f"the attributes are {', '.join(SPECS)}",
            )
        try:
            attributes.store(name, str(value))
        except PerfError as error:
            spec = SPECS[name]
            raise UsageError(
                f"{name}={value}: {error.strerror} ({error.name})",
                slug=error.slug,
                remedy=f"{name} takes {spec.low} to {spec.high}, decimal, 0x… hexadecimal or 0… octal",
            ) from error


def is_privileged() -> bool:
    """This process has CAP_SYS_ADMIN or CAP_PERFMON in effect."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration, ValueError):
        return False
    return bool(effective & (1 << _CAP_SYS_ADMIN | 1 << _CAP_PERFMON))


def perf_event_paranoid() -> int:
    """``/proc/sys/kernel/perf_event_paranoid``; the kernel's default, 2, if it cannot be read."""
    try:
        with open("/proc/sys/kernel/perf_event_paranoid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 2
