"""What a measurement ran on: processor, cores, versions. Numbers mean nothing without it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tilth.runtime.devices import cpu_features, cpu_model, usable_cores

PACKAGES = ("tilth", "onnxruntime", "openvino", "numpy", "llvmlite")


def describe_machine(threads: int) -> dict[str, Any]:
    """The circumstances of a measurement as plain values for JSON."""
    return {
        "processor": cpu_model(),
        "features": list(cpu_features()),
        "cores": usable_cores(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
