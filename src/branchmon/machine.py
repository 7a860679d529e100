"""What this machine really has: processor, perf PMUs, limits on tracing. Cheap to ask: a few small files."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from branchmon.driver.pmu import PMU_NAME

SILICON = {(6, 0x66): "Cannon Lake"}
"""Family and model of processors that the manual gives the unit's registers for (SDM vol. 4, CPUID 06_66H)."""

_HARDWARE_PMUS = ("cpu", "cpu_core", "cpu_atom")


@dataclass(frozen=True)
class Machine:
    """This machine.

    :ivar cpu: the processor's name.
    :ivar family: CPUID family; None if /proc/cpuinfo does not tell. Likewise `model`.
    :ivar silicon: the processor is one whose manual has the unit's registers.
    :ivar kernel_pmu: the kernel has an ``intel_bm`` PMU.
    :ivar hardware_pmu: the kernel drives the processor's own counters (often not so in a virtual machine).
    :ivar paranoid: ``kernel.perf_event_paranoid``; None if the kernel has no perf events.
    :ivar ptrace_scope: yama's ``kernel.yama.ptrace_scope``; None without yama.
    """

    cpu: str
    family: int | None
    model: int | None
    cpus: int
    kernel: str
    silicon: bool
    kernel_pmu: bool
    hardware_pmu: bool
    paranoid: int | None
    ptrace_scope: int | None


def this_machine(root: Path = Path("/")) -> Machine:
    """Look at /proc and /sys (under `root`, for tests)."""
    cpuinfo = _cpuinfo(root / "proc/cpuinfo")
    family, model = _number(cpuinfo.get("cpu family")), _number(cpuinfo.get("model"))
    intel = cpuinfo.get("vendor_id") == "GenuineIntel"
    pmus = root / "sys/bus/event_source/devices"
    return Machine(
        cpu=cpuinfo.get("model name", platform.machine() or "unknown"),
        family=family,
        model=model,
        cpus=os.cpu_count() or 1,
        kernel=platform.release(),
        silicon=intel and (family, model) in SILICON,
        kernel_pmu=(pmus / PMU_NAME).exists(),
        hardware_pmu=any((pmus / name).exists() for name in _HARDWARE_PMUS),
        paranoid=_number(_text(root / "proc/sys/kernel/perf_event_paranoid")),
        ptrace_scope=_number(_text(root / "proc/sys/kernel/yama/ptrace_scope")),
    )


def _cpuinfo(path: Path) -> dict[str, str]:
    """The first processor's lines."""
    values: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                values[key.strip()] = value.strip()
    except OSError:
        pass
    return values


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
