"""Buckets: a few sizes that inputs are padded to, so that few variants serve many sizes.

Whoever declares a bucket for a symbol says that what stands in the places added at the end changes
nothing before them: rows of a batch that do not see each other, or a sequence whose mask is an
input with that symbol, too (padded with zeros unless `padding` says otherwise). Tilth cannot know
that; it only makes sure that every result can be cut back to its true size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tilth.ir.errors import InputError, UnsupportedError
from tilth.ir.types import Shape
from tilth.runtime.ports import Port

if TYPE_CHECKING:
    from tilth.onnx.load import OnnxModel

Extents = Mapping[str, int]  # of bucketed symbols
Cuts = Mapping[str, Mapping[int, str]]  # output -> axis -> the symbol it follows


@dataclass(frozen=True)
class Buckets:
    """Sizes by symbol, and what to pad inputs with (0, or the empty string, where nothing is said).

    Raises InputError for symbols and inputs that the model does not have, and for sizes below 1.
    """

    inputs: Sequence[Port]
    sizes: Mapping[str, Sequence[int]]
    padding: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        symbols = [d for p in self.inputs for d in p.shape or () if isinstance(d, str)]
        for known, named in ((symbols, self.sizes), ([p.name for p in self.inputs], self.padding)):
            if unknown := [name for name in named if name not in known]:
                ends = ", ".join(map(str, self.inputs))
                raise InputError(f"no '{unknown[0]}' to pad; the inputs are {ends}")
        for symbol, sizes in self.sizes.items():
            if not sizes or min(sizes) < 1:
                raise InputError(f"buckets of '{symbol}' must be sizes of 1 or more, not {sizes}")

    def pad(self, feeds: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Extents]:
        """The feeds in the smallest buckets that hold them, and true extents of what was padded.

        What is larger than the largest bucket stays as it is.
        """
        true, wanted = {}, {}
        for port in self.inputs:
            for dim, extent in zip(port.shape or (), feeds[port.name].shape, strict=False):
                if isinstance(dim, str) and (size := self._size(dim, extent)) != extent:
                    true[dim], wanted[dim] = extent, size
        return {p.name: self._padded(p, feeds[p.name], wanted) for p in self.inputs}, true

    def cuts(self, source: OnnxModel, shapes: Mapping[str, Shape]) -> Cuts:
        """Which axes of the outputs have to be cut back, seen from these input shapes.

        A dimension that the model leaves open may follow a symbol without having its name: the
        model is imported for the largest buckets and for one place more, and what grows by just
        one follows the symbol. Raises UnsupportedError for what depends on it in another way.
        """
        found: dict[str, dict[int, str]] = {p.name: {} for p in source.outputs}
        largest = {symbol: max(sizes) for symbol, sizes in self.sizes.items()}
        before = self._output_shapes(source, shapes, largest)
        for symbol, extent in largest.items():
            more = self._output_shapes(source, shapes, {**largest, symbol: extent + 1})
            for name, shape in more.items():
                for axis, (old, new) in enumerate(zip(before[name], shape, strict=True)):
                    if old == new:
                        continue
                    if (old, new) != (extent, extent + 1):
                        raise UnsupportedError(
                            f"output '{name}', dimension {axis} is {old} where '{symbol}' is "
                            f"{extent}, and {new} where it is {extent + 1}: it cannot be cut back, "
                            f"so '{symbol}' cannot have buckets"
                        )
                    found[name][axis] = symbol
        return found

    def cut(
        self, results: Mapping[str, np.ndarray], cuts: Cuts, true: Extents
    ) -> dict[str, np.ndarray]:
        """The results without the places that were added."""
        return {name: _cut(array, cuts[name], true) for name, array in results.items()}

    def _size(self, symbol: str, extent: int) -> int:
        fitting = [size for size in self.sizes.get(symbol, ()) if size >= extent]
        return min(fitting, default=extent)

    def _padded(self, port: Port, array: np.ndarray, wanted: Extents) -> np.ndarray:
        shape = _resized(port, array.shape, wanted)
        if shape == array.shape:
            return array
        empty = "" if array.dtype == object else 0
        larger = np.full(shape, self.padding.get(port.name, empty), array.dtype)
        larger[tuple(map(slice, array.shape))] = array
        return larger

    def _output_shapes(
        self, source: OnnxModel, shapes: Mapping[str, Shape], extents: Extents
    ) -> dict[str, Shape]:
        from tilth.onnx.importer import import_graph  # slow to import: on first use

        resized = {p.name: _resized(p, shapes[p.name], extents) for p in self.inputs}
        graph = import_graph(source, resized)
        return dict(zip(graph.output_names, (v.shape for v in graph.outputs), strict=True))


def _resized(port: Port, shape: Shape, extents: Extents) -> Shape:
    """A port's shape with other extents for some of its symbols."""
    if port.shape is None:
        return shape
    dims = zip(port.shape, shape, strict=True)
    return tuple(extents.get(d, n) if isinstance(d, str) else n for d, n in dims)


def _cut(array: np.ndarray, axes: Mapping[int, str], true: Extents) -> np.ndarray:
    limits = [slice(true.get(axes.get(axis, ""))) for axis in range(array.ndim)]
    return array if all(s.stop is None for s in limits) else array[tuple(limits)].copy()
