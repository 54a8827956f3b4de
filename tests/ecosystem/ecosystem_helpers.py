"""Skipping without packages, and `import onnxruntime` that gives Tilth."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

import tilth.onnx.session
from tilth.onnx import session_errors

_HOW = "pip install -e '.[ecosystem]', or run `make ecosystem`"


def require(*packages: str) -> None:
    """Skip the module that calls this when one of the packages is absent."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {_HOW}", allow_module_level=True)


@contextmanager
def onnxruntime_is_tilth() -> Iterator[None]:
    """Inside the block, `import onnxruntime` gives `tilth.onnx.session`.

    This is the one import that a program changes, for programs that cannot be edited. What ONNX
    Runtime's package brings along beside the runtime (`onnxruntime.transformers`) stays its own.
    """
    own = ModuleType("onnxruntime")
    vars(own).update({k: v for k, v in vars(tilth.onnx.session).items() if k != "__spec__"})
    spec = importlib.util.find_spec("onnxruntime")
    own.__spec__, own.__path__ = spec, list((spec and spec.submodule_search_locations) or [])
    capi = ModuleType("onnxruntime.capi")
    modules = {
        "onnxruntime": own,
        "onnxruntime.capi": capi,
        "onnxruntime.capi.onnxruntime_pybind11_state": session_errors,
        "onnxruntime.capi._pybind_state": session_errors,
    }
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "onnxruntime"}
    for name in before:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] == "onnxruntime"]:
            del sys.modules[name]
        sys.modules.update(before)
