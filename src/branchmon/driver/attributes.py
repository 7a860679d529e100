"""The PMU's sysfs attributes: names, ranges, defaults, and the kernel's way to read a number.

Source: the posted driver's ``DEVICE_ATTR_RW`` set; ``lib/kstrtox.c`` of Linux (``kstrtouint``, base 0).
"""

import errno
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from branchmon.errors import PerfError

UINT_MAX = (1 << 32) - 1
_ULLONG_MAX = (1 << 64) - 1
_ULLONG_OCTAL_DIGITS = 22


@dataclass(frozen=True)
class AttributeSpec:
    """A writable attribute: inclusive range, default, and what it means."""

    name: str
    low: int
    high: int
    default: int
    meaning: str


SPECS: dict[str, AttributeSpec] = {
    spec.name: spec
    for spec in (
        AttributeSpec("window_size", 0, 1023, 1023, "length of the window, in what window_cnt_sel counts"),
        AttributeSpec("threshold", 0, 127, 127, "count at which the unit trips"),
        AttributeSpec("lbr_freeze", 0, 1, 0, "record last branches and freeze them at a trip"),
        AttributeSpec("guest_disable", 0, 1, 0, "no monitoring in guests (no effect here)"),
        AttributeSpec(
            "window_cnt_sel",
            0,
            3,
            0,
            "window counts 0 instructions, 1 branches, 2 near returns, 3 near indirect branches",
        ),
        AttributeSpec("cnt_and_mode", 0, 1, 0, "1: trip only when all enabled counters meet their thresholds"),
        AttributeSpec("mispred_evt_cnt", 0, 1, 0, "1: count consecutive mispredictions (misprediction events only)"),
    )
}
NUM_COUNTERS = 2
"""Counters a task has: the read-only attribute ``num_counters``."""


def kstrtouint(text: str) -> int:
    """A number as ``kstrtouint(text, 0, …)`` of the kernel reads it.

    Optional ``+``; ``0x`` hexadecimal, leading ``0`` octal, else decimal; at most one newline at the end, nothing else.
    A NUL ends the text, as in C.

    :raises PerfError: EINVAL if malformed, ERANGE above 2**32 - 1.
    """
    text = text.split("\0", 1)[0]
    if text.startswith("+"):
        text = text[1:]
    base = 10
    if text.startswith("0"):
        base = 8
        if text[1:2] in ("x", "X") and text[2:3] and text[2] in string.hexdigits:
            base, text = 16, text[2:]
    digits = 0
    allowed = string.hexdigits if base == 16 else string.digits[:base]
    while digits < len(text) and text[digits] in allowed:
        digits += 1
    # The kernel notices an overflow of 64 bits while it reads, before what follows; int() has a limit of its own.
    significant = text[:digits].lstrip("0")
    value = int(significant or "0", base) if len(significant) <= _ULLONG_OCTAL_DIGITS else _ULLONG_MAX + 1
    if value > _ULLONG_MAX:
        raise PerfError(errno.ERANGE, "number above 4294967295", slug="attribute-range")
    rest = text[digits:]
    if digits == 0 or rest not in ("", "\n"):
        raise PerfError(errno.EINVAL, f"not a number: {text!r}", slug="attribute-malformed")
    if value > UINT_MAX:
        raise PerfError(errno.ERANGE, "number above 4294967295", slug="attribute-range")
    return value


class Attributes(Mapping[str, int]):
    """The attributes' present values; a mapping from name to value, and sysfs's reads and writes."""

    def __init__(self) -> None:
        self._values = {name: spec.default for name, spec in SPECS.items()}

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def show(self, name: str) -> str:
        """What reading the file gives: decimal and a newline."""
        return f"{self._values[name]}\n"

    def store(self, name: str, text: str) -> None:
        """What writing the file does; a refused write changes nothing.

        :raises PerfError: EINVAL (malformed, out of the attribute's range) or ERANGE (above 2**32 - 1).
        """
        value = kstrtouint(text)
        spec = SPECS[name]
        if not spec.low <= value <= spec.high:
            raise PerfError(
                errno.EINVAL, f"{name} takes {spec.low} to {spec.high}, not {value}", slug="attribute-range"
            )
        self._values[name] = value
