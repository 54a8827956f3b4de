"""Naming devices and finding out what is here.

A device is written `kind[:model][#index]`: `cpu`, `npu:ascend910b3`, `cuda#1`.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from tilth.ir.errors import DeviceError
from tilth.runtime.target import TARGETS, Device

_NAME = re.compile(r"(?P<kind>[a-z][a-z0-9_]*)(:(?P<model>[\w.-]+))?(#(?P<index>\d+))?")
# instruction sets worth naming, best last; the names are those of /proc/cpuinfo
_X86_FEATURES = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile")
_ARM_FEATURES = ("asimd", "asimddp", "i8mm", "sve", "sve2")


def parse_device(text: str | Device) -> Device:
    """`kind[:model][#index]` as a `Device`. Raises DeviceError naming the known kinds."""
    if isinstance(text, Device):
        return text
    known = ", ".join(sorted(TARGETS))
    match = _NAME.fullmatch(text)
    if match is None:
        raise DeviceError(f"'{text}' is not a device; write kind[:model][#index], kinds: {known}")
    if match["kind"] not in TARGETS:
        raise DeviceError(f"no device kind '{match['kind']}'; this build has: {known}")
    device = Device(match["kind"], match["model"] or "", int(match["index"] or 0))
    if device.kind in _SINGLE and (device.model or device.index):
        raise DeviceError(
            f"no device '{device}': there is one {device.kind}, named '{device.kind}'"
        )
    return device


def devices() -> list[Device]:
    """The devices of this machine, real or simulated, best first."""
    return [
        Device("cpu", description=describe_cpu()),
        Device("reference", description="NumPy interpreter: the specification, slow"),
    ]


_SINGLE = ("cpu", "reference")


def usable_cores() -> int:
    """How many cores this process may use (its affinity, which containers and taskset set)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_cpu() -> str:
    """Model name, usable cores, instruction sets, memory."""
    cores = usable_cores()
    parts = [cpu_model(), f"{cores} core{'s' if cores != 1 else ''}", " ".join(cpu_features())]
    memory = memory_bytes()
    if memory:
        parts.append(f"{memory / 2**30:.1f} GiB")
    return ", ".join(p for p in parts if p)


def cpu_model() -> str:
    """The name the maker gave the processor, or the architecture where it is not told."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """The vector instruction sets of this CPU, of those worth naming."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(f for f in (*_X86_FEATURES, *_ARM_FEATURES) if f in flags)


def memory_bytes() -> int:
    """Physical memory, 0 when the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo, "" when absent."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(rf"^{field}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
