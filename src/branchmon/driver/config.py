"""What an event is programmed with: both ``attr.config`` layouts, the ``config1`` terms, the registers they make.

Source: SPEC section 2 ("The second config layout", "Terms for perf's event syntax").
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from branchmon.device.registers import Control, CounterConfig, Field
from branchmon.errors import PerfError
from branchmon.events import BmEvent

EVENT_MASK = 0xFF
"""``config`` up to this is an event number; above, it is the packed layout of the authors' library."""

PACKED_FIELDS: dict[str, Field] = {
    "threshold": Field(8, 7),
    "mispred_evt_cnt": Field(15, 1),
    "lbr_freeze": Field(34, 1),
    "guest_disable": Field(35, 1),
    "window_size": Field(40, 10),
    "window_cnt_sel": Field(56, 2),
    "cnt_and_mode": Field(58, 1),
}
_PACKED_EVENT = Field(1, 7)
_PACKED_ON = 1 << 32 | 1 << 33
_PACKED_IGNORED = 1 | _PACKED_ON

TERM_FIELDS: dict[str, Field] = {
    "threshold": Field(0, 7),
    "mispred_evt_cnt": Field(7, 1),
    "window_size": Field(8, 10),
    "window_cnt_sel": Field(18, 2),
    "cnt_and_mode": Field(20, 1),
    "lbr_freeze": Field(21, 1),
    "guest_disable": Field(22, 1),
}
"""The terms of perf's event syntax, as fields of ``config1``; 0 means "as the attribute says"."""

FORMATS: dict[str, str] = {
    "event": "config:0-7",
    **{
        name: f"config1:{f.shift}" if f.width == 1 else f"config1:{f.shift}-{f.shift + f.width - 1}"
        for name, f in TERM_FIELDS.items()
    },
}
"""The files under ``format/`` of the PMU."""


@dataclass(frozen=True)
class EventConfig:
    """The settings of one event, fixed when it is opened; ranges as in :mod:`branchmon.driver.attributes`."""

    event: BmEvent
    window_size: int = 1023
    threshold: int = 127
    lbr_freeze: int = 0
    guest_disable: int = 0
    window_cnt_sel: int = 0
    cnt_and_mode: int = 0
    mispred_evt_cnt: int = 0

    @property
    def control(self) -> int:
        """MSR_BR_DETECT_CTRL while the event is scheduled in: monitoring and interrupt on."""
        return (
            Control.MONITORING.put(1)
            | Control.EXCEPT.put(1)
            | Control.FREEZE_LBR.put(self.lbr_freeze)
            | Control.GUEST_DISABLE.put(self.guest_disable)
            | Control.WINDOW_SIZE.put(self.window_size)
            | Control.WINDOW_SELECT.put(self.window_cnt_sel)
            | Control.AND_MODE.put(self.cnt_and_mode)
        )

    @property
    def counter_config(self) -> int:
        """The event's MSR_BR_DETECT_COUNTER_CONFIG while it is scheduled in: enabled."""
        return (
            CounterConfig.ENABLED.put(1)
            | CounterConfig.SELECT.put(self.event)
            | CounterConfig.THRESHOLD.put(self.threshold)
            | CounterConfig.CONSECUTIVE.put(self.mispred_evt_cnt)
        )


def event_config(config: int, config1: int, attributes: Mapping[str, int]) -> EventConfig:
    """The settings that ``attr.config`` and ``attr.config1`` ask for.

    :param attributes: the sysfs attributes' present values: what is not said otherwise.
    :raises PerfError: EINVAL: no such event, a bit that no field has, in ``config`` or ``config1``.
    """
    values = dict(attributes)
    if config > EVENT_MASK:
        known = _PACKED_EVENT.mask | _PACKED_IGNORED
        for name, field in PACKED_FIELDS.items():
            known |= field.mask
            values[name] = field.get(config)
        if config & ~known:
            raise PerfError(
                errno.EINVAL, f"config has bits that mean nothing: {config & ~known:#x}", slug="config-bits"
            )
        event = _PACKED_EVENT.get(config)
    else:
        event = config
        known = 0
        for name, field in TERM_FIELDS.items():
            known |= field.mask
            if field.get(config1):
                values[name] = field.get(config1)
        if config1 & ~known:
            raise PerfError(
                errno.EINVAL, f"config1 has bits that mean nothing: {config1 & ~known:#x}", slug="config-bits"
            )
    if event > max(BmEvent):
        raise PerfError(errno.EINVAL, f"no such event: {event:#x}; the events are 0 to 5", slug="no-such-event")
    return EventConfig(BmEvent(event), **values)


def packed_config(settings: EventConfig) -> int:
    """`settings` in the packed layout of ``attr.config``.

    EnMonitoring and EnExcept are set, though the driver ignores them: so the value is above :data:`EVENT_MASK` and
    never read as a plain event number.
    """
    value = _PACKED_EVENT.put(settings.event) | _PACKED_ON
    for name, field in PACKED_FIELDS.items():
        value |= field.put(getattr(settings, name))
    return value
