"""Is everything here that Tilth needs: one finding per check, each told in a line."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import TilthError
from tilth.ir.graph import Graph, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32
from tilth.runtime.cache import default_cache
from tilth.runtime.devices import cpu_features, cpu_model, parse_device, usable_cores
from tilth.runtime.executable import Executable
from tilth.runtime.target import Options

_PACKAGES = ("numpy", "llvmlite", "onnx", "ml_dtypes", "typer", "rich", "platformdirs")
_SPINS = 200
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `detail` says it, or what is wrong."""

    check: str
    ok: bool
    detail: str


def checkup() -> list[Finding]:
    """Run all checks; a check that raises has failed."""
    return [_finding(name, check) for name, check in _CHECKS.items()]


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except Exception as e:  # a broken environment may break anything: that is what we are after
        return Finding(name, False, f"{type(e).__name__}: {e}")


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _packages() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def _processor() -> str:
    return f"{cpu_model()}, {' '.join(cpu_features()) or platform.machine()}"


def _cache() -> str:
    store = default_cache()
    if store is None:
        return "turned off (TILTH_CACHE=0)"
    key = "doctor"
    if not store.store(key, {"array": np.arange(3)}) or store.load(key) is None:
        raise TilthError(f"{store.root} cannot be written; set TILTH_CACHE_DIR")
    store.discard(key)
    return f"{store.root} is writable"


def _native_code() -> str:
    """Compile a small model for the CPU and compare it with the reference."""
    start = time.perf_counter()
    _small_executable_that_is_right(threads=1)
    return f"compiled, ran and agreed with the reference in {time.perf_counter() - start:.2f} s"


def _threads() -> str:
    """Many calls on all cores: a lost wake-up would hang, a race would show."""
    cores = usable_cores()
    executable, feeds, expected = _small_executable_that_is_right(threads=cores)
    start = time.perf_counter()
    for _ in range(_SPINS):
        _require_close(executable(feeds)["y"], expected)
    each = (time.perf_counter() - start) / _SPINS
    return f"{cores} usable cores, {_SPINS} calls agreed, {each * 1e6:.0f} us each"


def small_executable(threads: int, device: str = "cpu") -> tuple[Executable, Feeds]:
    """Something small that runs on `threads` threads, compiled here and now, and its feeds."""
    feeds = {"x": _numbers(0)}
    return compile_graph(_small_graph(), parse_device(device), Options(threads)), feeds


def _small_executable_that_is_right(threads: int) -> tuple[Executable, Feeds, np.ndarray]:
    executable, feeds = small_executable(threads)
    expected = small_executable(1, "reference")[0](feeds)["y"]
    _require_close(executable(feeds)["y"], expected)
    return executable, feeds, expected


def _require_close(found: np.ndarray, expected: np.ndarray) -> None:
    if not np.allclose(found, expected, rtol=0, atol=1e-5):
        raise TilthError("native code gives wrong results on this machine")


def _numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32)


def _small_graph() -> Graph:
    """y = tanh(x W) for a 256 x 256 x: enough work for several threads."""
    x = make_input(TensorType(f32, (256, 256)), "x")
    w = make_constant(_numbers(1) / np.float32(16))
    axes = {"lhs_batch": (), "rhs_batch": (), "lhs_contract": (1,), "rhs_contract": (0,)}
    return Graph((x,), (op.tanh(op.dot_general(x, w, **axes)),), ("y",))


_CHECKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "packages": _packages,
    "processor": _processor,
    "cache": _cache,
    "native code": _native_code,
    "threads": _threads,
}
