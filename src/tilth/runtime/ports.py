"""The ends of a model as its file declares them, and the shapes they are bound to.

A declared end may have symbols as dimensions, or no known rank at all, where those of an executable
(`feeds.Port`) are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilth.ir.errors import InputError
from tilth.ir.types import DTYPES, Dim, DType, Shape


@dataclass(frozen=True, slots=True)
class Port:
    """One named input or output of a model.

    A dimension is an int, or a str: the model's own symbol, or `NAME.AXIS` where it gives none.
    `shape` is None when not even the rank is known. `container` is "" for a tensor, else what
    wraps it ("sequence", "optional", "map", "sparse"); `dtype` is then None for a map.
    """

    name: str
    dtype: DType | None
    shape: tuple[Dim, ...] | None
    container: str = ""

    def __str__(self) -> str:
        dims = "[?]" if self.shape is None else f"[{','.join(map(str, self.shape))}]"
        tensor = f"{self.dtype}{dims}"
        return (
            f"{self.name}: {self.container}<{tensor}>"
            if self.container
            else f"{self.name}: {tensor}"
        )

    def state(self) -> list[Any]:
        """JSON-able values; `port_from_state` is the inverse."""
        return [self.name, self.dtype.name if self.dtype else None, self.shape, self.container]


def port_from_state(state: Sequence[Any]) -> Port:
    name, dtype, shape, container = state
    dims = None if shape is None else tuple(shape)
    return Port(name, None if dtype is None else DTYPES[dtype], dims, container)


def bind_exactly(ports: Sequence[Port], shapes: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """The exact shape of each input. Raises InputError naming the input and the dimension."""
    names = [p.name for p in ports]
    if unknown := [n for n in shapes if n not in names]:
        raise InputError(f"the model has no input {unknown[0]!r}; its inputs are {names}")
    symbols: dict[str, tuple[int, str]] = {}
    bound: dict[str, Shape] = {}
    for port in ports:
        declared = port.shape
        wanted = shapes.get(port.name, declared)
        if wanted is None or any(isinstance(d, str) for d in wanted):
            raise InputError(f"input {port} has open dimensions; give its shape")
        given = tuple(int(d) for d in wanted)
        if declared is None:
            declared = given
        if len(declared) != len(given):
            raise InputError(f"input {port} has rank {len(declared)}, got shape {list(given)}")
        for axis, (dim, size) in enumerate(zip(declared, given, strict=True)):
            where = f"input '{port.name}', dimension {axis}"
            if isinstance(dim, int):
                if dim != size:
                    raise InputError(f"{where}: the model says {dim}, got {size}")
            elif symbols.setdefault(dim, (size, where))[0] != size:
                first, place = symbols[dim]
                raise InputError(f"{where}: got {size}, but '{dim}' is {first} at {place}")
        bound[port.name] = given
    return bound
