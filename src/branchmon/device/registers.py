"""The four registers: addresses, fields, reserved bits. Source: Intel SDM vol. 4, table for CPUID 06_66H, 350H-355H."""

from typing import NamedTuple

MSR_BR_DETECT_CTRL = 0x350
MSR_BR_DETECT_STATUS = 0x351
MSR_BR_DETECT_COUNTER_CONFIG_0 = 0x354
MSR_BR_DETECT_COUNTER_CONFIG_1 = 0x355

WINDOW_SIZE_MAX = 1023
THRESHOLD_MAX = 127


class GeneralProtection(Exception):
    """#GP(0): a register that does not exist, a reserved bit, or a value that the field does not allow.

    :param address: the register's address.
    :param value: the value written, None for a read.
    :param why: one sentence.
    """

    def __init__(self, address: int, value: int | None, why: str) -> None:
        super().__init__(f"#GP: MSR {address:#x}: {why}")
        self.address = address
        self.value = value
        self.why = why


class Field(NamedTuple):
    """A bit field of a register: its lowest bit and its width in bits."""

    shift: int
    width: int

    @property
    def mask(self) -> int:
        """The field's bits within the register."""
        return ((1 << self.width) - 1) << self.shift

    def get(self, register: int) -> int:
        """The field's value in `register`, unsigned."""
        return (register & self.mask) >> self.shift

    def put(self, value: int) -> int:
        """A register with only this field set, to the low bits of `value` (so a negative value is two's complement)."""
        return (value << self.shift) & self.mask


class Control:
    """Fields of MSR_BR_DETECT_CTRL."""

    MONITORING = Field(0, 1)
    EXCEPT = Field(1, 1)
    FREEZE_LBR = Field(2, 1)
    GUEST_DISABLE = Field(3, 1)
    WINDOW_SIZE = Field(8, 10)
    WINDOW_SELECT = Field(24, 2)
    AND_MODE = Field(26, 1)


class Status:
    """Fields of MSR_BR_DETECT_STATUS."""

    EVENT = Field(0, 1)
    LBRS_VALID = Field(1, 1)
    HIT = (Field(8, 1), Field(9, 1))
    WINDOW = Field(16, 10)
    COUNT = (Field(32, 8), Field(40, 8))


class CounterConfig:
    """Fields of MSR_BR_DETECT_COUNTER_CONFIG_0 and _1."""

    ENABLED = Field(0, 1)
    SELECT = Field(1, 7)
    THRESHOLD = Field(8, 7)
    CONSECUTIVE = Field(15, 1)


def _fields_mask(*fields: Field) -> int:
    mask = 0
    for field in fields:
        mask |= field.mask
    return mask


CONTROL_MASK = _fields_mask(
    Control.MONITORING, Control.EXCEPT, Control.FREEZE_LBR, Control.GUEST_DISABLE,
    Control.WINDOW_SIZE, Control.WINDOW_SELECT, Control.AND_MODE,
)  # fmt: skip
STATUS_MASK = _fields_mask(Status.EVENT, Status.LBRS_VALID, *Status.HIT, Status.WINDOW, *Status.COUNT)
COUNTER_CONFIG_MASK = _fields_mask(
    CounterConfig.ENABLED, CounterConfig.SELECT, CounterConfig.THRESHOLD, CounterConfig.CONSECUTIVE
)
