"""Checking what the caller feeds: every refusal says what was expected, where, and what to do.

A `Port` is a named, typed end of a model. Checking is strict: no dtype is converted, because a
silent cast hides bugs; only the memory layout (contiguity, byte order) is put right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.types import DType, TensorType, Type, dtype_of

C_CONTIGUOUS_AND_ALIGNED = 0x1 | 0x100  # bits of ndarray.flags.num


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model: its name and type; dimensions may be symbols."""

    name: str
    type: Type

    @property
    def dtype(self) -> DType:
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int | str, ...]:
        return self._tensor.shape

    @property
    def _tensor(self) -> TensorType:
        if not isinstance(self.type, TensorType):
            raise TypeError(f"'{self.name}' is {self.type}, not a tensor")
        return self.type

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


def check_feeds(ports: Sequence[Port], feeds: Mapping[str, Any], hint: str = "") -> list[Any]:
    """The fed arrays in the order of `ports`, contiguous, aligned and in native byte order.

    A symbolic dimension takes any extent, the same one everywhere. `hint` is added to errors about
    extents. Raises InputError for missing or extra names, wrong dtype, rank or dimension.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds must map input names to arrays, got {type(feeds).__name__}")
    _check_names(ports, feeds)
    symbols: dict[str, tuple[int, str]] = {}
    return [_check(port, feeds[port.name], symbols, hint) for port in ports]


def _check_names(ports: Sequence[Port], feeds: Mapping[str, Any]) -> None:
    known = {p.name for p in ports}
    missing = [p for p in ports if p.name not in feeds]
    if missing:
        expected = ", ".join(map(str, missing))
        raise InputError(f"missing input {expected}; fed: {_quoted(feeds) or 'nothing'}")
    extra = [name for name in feeds if name not in known]
    if extra:
        expected = ", ".join(map(str, ports)) or "none"
        raise InputError(f"unknown input {_quoted(extra)}; the inputs are: {expected}")


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _check(port: Port, fed: Any, symbols: dict[str, tuple[int, str]], hint: str) -> np.ndarray:
    array = _as_array(port, fed)
    _check_dtype(port, array)
    _check_shape(port, array.shape, symbols, hint)
    if port.dtype.kind == "string":
        return np.asarray(array, dtype=object, order="C")
    return np.require(array, port.dtype.numpy, ["C", "A"])


def _as_array(port: Port, fed: Any) -> np.ndarray:
    try:
        return np.asarray(fed)
    except Exception as e:  # any type may define __array__, and any error may come out of it
        message = f"input '{port.name}': {type(fed).__name__} is no array ({e}); expected {port}"
        raise InputError(message) from e


def _check_dtype(port: Port, array: np.ndarray) -> None:
    try:
        found = dtype_of(array.dtype)
    except KeyError:
        found = None
    if found != port.dtype:
        name = found or array.dtype
        raise InputError(
            f"input '{port.name}': expected dtype {port.dtype}, got {name}; "
            f"convert it, for example with array.astype({port.dtype.numpy.name!r})"
        )


def _check_shape(
    port: Port, shape: tuple[int, ...], symbols: dict[str, tuple[int, str]], hint: str
) -> None:
    where = f"input '{port.name}'"
    expected = f"(expected {port.type}, got shape {shape})"
    if len(shape) != len(port.shape):
        raise InputError(
            f"{where}: expected {len(port.shape)} dimensions, got {len(shape)} {expected}"
        )
    for axis, (extent, dim) in enumerate(zip(shape, port.shape, strict=True)):
        if isinstance(dim, str):
            bound, by = symbols.setdefault(dim, (extent, port.name))
            if bound != extent:
                told = f"{bound} in input '{by}'"
                raise InputError(
                    f"{where}: dimension {axis} is {extent}, but '{dim}' is {told}{hint}"
                )
        elif extent != dim:
            raise InputError(
                f"{where}: dimension {axis} must be {dim}, not {extent} {expected}{hint}"
            )
