"""The typed ends of a model and the shapes they are bound to.

A model's inputs may have symbols as dimensions, or no known rank at all; code is made for exact
shapes. Here the caller's wishes are checked against the interface and made complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tilth.ir.errors import InputError, UnsupportedError
from tilth.ir.types import Shape, TensorType
from tilth.runtime import feeds
from tilth.runtime.ports import Port, bind_exactly

Binding = Mapping[str, int | Sequence[int]]  # symbol -> extent, input -> shape


def ports_for(inputs: Sequence[Port], fed: Any) -> list[feeds.Port]:
    """The inputs as checkable ports; an unknown rank takes the rank of what is fed."""
    arrays = fed if isinstance(fed, Mapping) else {}
    return [feeds.Port(p.name, _tensor_type(p, arrays.get(p.name))) for p in inputs]


def bind_shapes(inputs: Sequence[Port], wanted: Binding) -> dict[str, Shape]:
    """The exact shape of each input. Raises InputError for contradictions and unbound symbols."""
    return {port.name: _closed(port) for port in with_extents(inputs, wanted)}


def with_extents(inputs: Sequence[Port], wanted: Binding) -> tuple[Port, ...]:
    """The inputs with what `wanted` says in place of symbols; what it leaves open stays open.

    Raises InputError for contradictions.
    """
    shapes = {name: tuple(s) for name, s in wanted.items() if not isinstance(s, int)}
    extents = {name: s for name, s in wanted.items() if isinstance(s, int)}
    _check_known(inputs, shapes, extents)
    for port in inputs:
        _learn_extents(port, shapes.get(port.name, ()), extents)
    if negative := [d for shape in (*shapes.values(), extents.values()) for d in shape if d < 0]:
        raise InputError(f"{negative[0]} is no extent of a dimension")
    given = bind_exactly([p for p in inputs if p.name in shapes], shapes)
    return tuple(replace(p, shape=given.get(p.name, _replaced(p, extents))) for p in inputs)


def exact_shapes(inputs: Sequence[Port]) -> dict[str, Shape] | None:
    """The shapes of inputs if all are tensors without symbols, else None."""
    if any(p.container or p.shape is None for p in inputs) or free_symbols(inputs):
        return None
    return {port.name: _closed(port) for port in inputs}


def free_symbols(inputs: Sequence[Port]) -> tuple[str, ...]:
    """The symbols of the interface, in order of appearance."""
    dims = (d for p in inputs for d in p.shape or ())
    return tuple(dict.fromkeys(d for d in dims if isinstance(d, str)))


def complete(inputs: Sequence[Port], wanted: Binding) -> dict[str, int | Sequence[int]]:
    """`wanted`, and the extent 1 for every symbol that it says nothing about."""
    shaped = free_symbols([p for p in inputs if p.name in wanted])
    open_symbols = [s for s in free_symbols(inputs) if s not in shaped]
    return {**dict.fromkeys(open_symbols, 1), **wanted}


def _tensor_type(port: Port, fed: Any) -> TensorType:
    if port.container or port.dtype is None:
        raise UnsupportedError(f"input {port}: only tensors can be fed so far")
    if port.shape is None:
        return TensorType(port.dtype, tuple(f"{port.name}.{i}" for i in range(_rank(fed))))
    return TensorType(port.dtype, port.shape)


def _rank(fed: Any) -> int:
    try:
        return np.ndim(fed)
    except Exception:  # no array at all: the check of the feeds says so
        return 0


def _check_known(
    inputs: Sequence[Port], shapes: Mapping[str, Shape], extents: Mapping[str, int]
) -> None:
    kinds = (
        ("input", shapes, [p.name for p in inputs]),
        ("symbol", extents, free_symbols(inputs)),
    )
    for kind, names, known in kinds:
        if unknown := [name for name in names if name not in known]:
            ends = ", ".join(map(str, inputs))
            raise InputError(f"the model has no {kind} '{unknown[0]}'; its inputs are {ends}")


def _learn_extents(port: Port, shape: Shape, extents: dict[str, int]) -> None:
    """Add what a given shape says about the symbols of its port."""
    for dim, extent in zip(port.shape or (), shape, strict=False):
        if isinstance(dim, str) and extents.setdefault(dim, extent) != extent:
            where = f"{extent} in the shape of input '{port.name}'"
            raise InputError(f"'{dim}' is {extents[dim]}, but {where}")


def _replaced(port: Port, extents: Mapping[str, int]) -> tuple[int | str, ...] | None:
    """The port's shape with these symbols replaced."""
    if port.shape is None:
        return None
    return tuple(extents.get(d, d) if isinstance(d, str) else d for d in port.shape)


def _closed(port: Port) -> Shape:
    """The port's shape, which must have no symbols."""
    if port.shape is None:
        raise InputError(f"input {port} has no known rank; give shapes={{'{port.name}': (...)}}")
    for dim in port.shape:
        if isinstance(dim, str):
            raise InputError(f"input {port}: '{dim}' is open; give it, as in shapes={{'{dim}': 1}}")
    return tuple(int(d) for d in port.shape)
