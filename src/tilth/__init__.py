"""Tilth: an open AI compute stack. A model comes in unchanged, is compiled once, and runs fast.

model = tilth.load("model.onnx")
out = model({"x": array})
exe = model.compile(device="cpu", threads=2)
"""

from typing import TYPE_CHECKING, Any

from tilth.ir.errors import (
    CompileError,
    DeviceError,
    InputError,
    LimitError,
    ModelError,
    TilthError,
    UnsupportedError,
    VerifyError,
)
from tilth.model import Model, load
from tilth.runtime.devices import devices
from tilth.runtime.executable import Compiled, Executable
from tilth.runtime.report import Report
from tilth.runtime.target import Device

if TYPE_CHECKING:
    from tilth.runtime.profile import Profile

__version__ = "0.1.0"

__all__ = [
    "CompileError",
    "Compiled",
    "Device",
    "DeviceError",
    "Executable",
    "InputError",
    "LimitError",
    "Model",
    "ModelError",
    "Profile",
    "Report",
    "TilthError",
    "UnsupportedError",
    "VerifyError",
    "__version__",
    "devices",
    "load",
]


def __getattr__(name: str) -> Any:
    """`Profile`, which is imported when something is profiled or asks for it."""
    if name == "Profile":
        from tilth.runtime.profile import Profile

        return Profile
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
