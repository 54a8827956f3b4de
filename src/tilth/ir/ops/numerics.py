"""The number formats behind the reference rules: where they compute and how they round.

Small floats (bf16, f16, fp8, fp4) are computed in float32 and sub-byte integers in 8 bits; each
result is rounded, or wrapped, once to its own dtype. Functions such as exp are computed in
float64, so that the reference is the correctly rounded answer for all practical purposes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import ml_dtypes
import numpy as np

from tilth.ir.types import DType, dtype_of

Array = np.ndarray


@functools.cache
def _kind(dtype: np.dtype) -> DType:
    return dtype_of(dtype)


@functools.cache
def _wide(dtype: np.dtype) -> np.dtype:
    """The dtype that NumPy computes well in and that holds every value of `dtype`."""
    kind = dtype_of(dtype)
    if kind.kind == "float" and kind.bits < 32:
        return np.dtype(np.float32)
    if kind.is_integer and kind.bits < 8:
        return np.dtype(np.int8 if kind.kind == "int" else np.uint8)
    return dtype


@functools.cache
def _double(dtype: np.dtype) -> np.dtype:
    kind = dtype_of(dtype).kind
    return np.dtype({"float": np.float64, "complex": np.complex128}.get(kind, _wide(dtype)))


def widen(x: Array) -> Array:
    """Small floats as float32, sub-byte integers as 8 bits, anything else as it is."""
    return x.astype(_wide(x.dtype), copy=False)


def double(x: Array) -> Array:
    """Floats as float64 and complex as complex128, anything else as `widen` does."""
    return x.astype(_double(x.dtype), copy=False)


def narrow(x: Array, dtype: np.dtype) -> Array:
    """Back to `dtype`: floats round to nearest even, integers wrap."""
    return np.asarray(x).astype(dtype, copy=False)


def exactly(fn: Callable[..., Array]) -> Callable[..., Array]:
    """Compute `fn` widened; the result has the dtype of the first operand."""

    def rule(*xs: Array) -> Array:
        return narrow(fn(*map(widen, xs)), xs[0].dtype)

    return rule


def precisely(fn: Callable[..., Array]) -> Callable[..., Array]:
    """Compute `fn` in double precision; the result has the dtype of the first operand."""

    def rule(*xs: Array) -> Array:
        return narrow(fn(*map(double, xs)), xs[0].dtype)

    return rule


def limits(dtype: np.dtype) -> tuple[float, float] | tuple[int, int]:
    """The lowest and highest finite value of an integer or float dtype."""
    if _kind(dtype).is_integer:
        info = ml_dtypes.iinfo(dtype)
        return int(info.min), int(info.max)
    finfo = ml_dtypes.finfo(dtype)
    return float(finfo.min), float(finfo.max)


def convert(x: Array, dtype: np.dtype) -> Array:
    """StableHLO `convert`, with its undefined corners defined.

    Integers wrap; floats to integers truncate and saturate, and NaN gives 0; anything to bool is
    `x != 0`; complex to real drops the imaginary part.
    """
    source, target = _kind(x.dtype).kind, _kind(dtype)
    wide = widen(x)
    if target.kind == "bool":
        return wide != 0
    if source == "complex" and target.kind != "complex":
        wide, source = wide.real, "float"
    if source == "float" and target.is_integer:
        return _saturate(wide, dtype)
    return narrow(wide, dtype)


def _saturate(x: Array, dtype: np.dtype) -> Array:
    low, high = limits(dtype)
    whole = np.trunc(np.where(np.isnan(x), 0.0, x.astype(np.float64)))
    inside = (whole >= low) & (whole < float(high) + 1.0)
    safe = np.where(inside, whole, 0.0)
    exact = safe.astype(np.uint64 if low == 0 else np.int64)
    edges = np.where(whole > 0, np.array(high, exact.dtype), np.array(low, exact.dtype))
    return narrow(np.where(inside, exact, edges), dtype)


def saturating_round(x: Array, dtype: np.dtype) -> Array:
    """Round to nearest even and clamp into the finite range of an integer or float dtype."""
    if _kind(dtype).is_integer:
        return _saturate(np.rint(x), dtype)
    return narrow(np.clip(x, *limits(dtype)), dtype)


def identity(kind: str, dtype: np.dtype) -> Array:
    """The neutral element of a reduction, as a 0-d array of `dtype`."""
    value: float | bool
    match kind, _kind(dtype).kind:
        case (("sum" | "or"), _):
            value = 0
        case "product", _:
            value = 1
        case "and", "bool":
            value = True
        case "and", _:
            return np.invert(np.zeros((), _wide(dtype))).astype(dtype)
        case (("max" | "min"), "bool"):
            value = kind == "min"
        case (("max" | "min"), "float"):
            value = -np.inf if kind == "max" else np.inf
            if not np.isinf(np.array(value, np.float32).astype(dtype)).any():
                value = limits(dtype)[0 if kind == "max" else 1]
        case (("max" | "min"), "int" | "uint"):
            value = limits(dtype)[0 if kind == "max" else 1]
        case _:
            raise ValueError(f"{dtype} has no {kind} reduction")
    return np.array(value).astype(dtype)
