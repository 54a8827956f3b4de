"""What is fed to a model and comes out of it, of every kind: arrays, lists, dictionaries, None.

Tensors are checked against their ports as strictly as for compiled code; sequences are lists of
arrays, maps dictionaries, empty optionals None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.types import TensorType
from tilth.runtime import feeds as dense
from tilth.runtime.ports import Port


def check_values(ports: Sequence[Port], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What is fed, by name: tensors checked against their ports, sequences as lists of arrays.

    Raises InputError for missing or unknown names, and for values of another kind.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds must map input names to values, got {type(feeds).__name__}")
    plain = [p for p in ports if not p.container]
    others = [p for p in ports if p.container]
    if missing := [p for p in others if p.name not in feeds]:
        raise InputError(f"missing input {', '.join(map(str, missing))}")
    nested = {p.name: _nested(p, p.container.split(" of "), feeds[p.name]) for p in others}
    typed = [dense.Port(p.name, _type(p, feeds.get(p.name))) for p in plain]
    given = {name: fed for name, fed in feeds.items() if name not in nested}
    arrays = dict(zip((p.name for p in plain), dense.check_feeds(typed, given), strict=True))
    values = arrays | nested
    return {p.name: values[p.name] for p in ports}


def owned(value: Any) -> Any:
    """A result in memory of its own: it may be a feed or a weight."""
    if isinstance(value, list):
        return [owned(v) for v in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def _type(port: Port, fed: Any) -> TensorType:
    """A tensor port's type; an unknown rank takes the rank of what is fed."""
    assert port.dtype is not None, "only maps have no element type"
    shape = port.shape
    if shape is None:
        shape = tuple(f"{port.name}.{i}" for i in range(_rank(fed)))
    return TensorType(port.dtype, shape)


def _rank(fed: Any) -> int:
    try:
        return np.ndim(fed)
    except Exception:  # no array at all: the check of the feeds says so
        return 0


def _nested(port: Port, containers: Sequence[str], fed: Any) -> Any:
    """A sequence, a map or an optional, whose elements are arrays in the end."""
    kind, inner = containers[0] if containers else "", containers[1:]
    if kind == "optional":
        return None if fed is None else _nested(port, inner, fed)
    if kind == "sequence" and isinstance(fed, (list, tuple)):
        return [_nested(port, inner, item) for item in fed]
    if kind == "map" and isinstance(fed, Mapping):
        return dict(fed)
    if not kind and port.dtype is not None:
        rank = tuple(f"{port.name}.{i}" for i in range(_rank(fed)))
        typed = dense.Port(port.name, TensorType(port.dtype, rank))
        return dense.check_feeds([typed], {port.name: fed})[0]
    raise InputError(f"input {port}: cannot take a {type(fed).__name__}")
