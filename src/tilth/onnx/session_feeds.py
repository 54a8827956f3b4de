"""What callers feed, made into arrays: as lenient as ONNX Runtime, and not more.

Lists become arrays of the type the model wants, and so do scalars; an array must have that type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.interface import ports_for
from tilth.ir.errors import InputError
from tilth.ir.types import TensorType
from tilth.onnx.load import Port
from tilth.onnx.session_values import OrtValue
from tilth.runtime.feeds import Port as CheckedPort
from tilth.runtime.feeds import check_feeds


def checked_feeds(
    inputs: Sequence[Port], feeds: Mapping[str, Any], overrides: Mapping[str, int]
) -> dict[str, Any]:
    """The values of all inputs, in order: tensors as the model wants them, others as they are fed.

    `overrides` fixes symbols. Raises InputError for a wrong name, type, rank or dimension.
    """
    given = {n: fed.value() if isinstance(fed, OrtValue) else fed for n, fed in feeds.items()}
    tensors = [p for p in inputs if not p.container]
    others = {p.name: given.pop(p.name) for p in inputs if p.container}
    given |= {p.name: _as_array(p, given[p.name]) for p in tensors if p.name in given}
    ports = [_fixed(port, overrides) for port in ports_for(tensors, given)]
    checked = zip((p.name for p in tensors), check_feeds(ports, given), strict=True)
    values = {**others, **dict(checked)}
    return {p.name: values[p.name] for p in inputs}


def _as_array(port: Port, fed: Any) -> Any:
    if port.dtype is None:
        return fed
    if port.dtype.kind == "string":
        return _as_strings(port, fed)
    if isinstance(fed, np.ndarray):
        return fed
    if isinstance(fed, (list, np.generic, bool, int, float)):
        try:
            return np.asarray(fed, None if isinstance(fed, np.generic) else port.dtype.numpy)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputError(f"input '{port.name}': {e}; expected {port}") from e
    raise InputError(
        f"input '{port.name}': expected an array or a list for {port}, got {type(fed).__name__}"
    )


def _as_strings(port: Port, fed: Any) -> np.ndarray:
    """Text of any kind as `str` objects; other objects as their text."""
    array = np.asarray(fed)
    if array.dtype.kind not in "OSU":
        raise InputError(f"input '{port.name}': expected strings, got {array.dtype}")
    flat = [s.decode() if isinstance(s, bytes) else str(s) for s in array.reshape(-1).tolist()]
    strings = np.empty(len(flat), object)
    strings[:] = flat
    return strings.reshape(array.shape)


def _fixed(port: CheckedPort, overrides: Mapping[str, int]) -> CheckedPort:
    """The port with overridden symbols as extents."""
    shape = tuple(overrides.get(d, d) if isinstance(d, str) else d for d in port.shape)
    return CheckedPort(port.name, TensorType(port.dtype, shape))
