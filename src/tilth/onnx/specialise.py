"""Graphs for what is actually fed: shapes, and the values that shapes depend on.

Some models take a shape, an axis or a count as an input. Their graph holds for these values only;
which inputs are fixed that way is told, so that a caller can keep graphs and choose between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tilth.ir.graph import Graph
from tilth.ir.types import dtype_of
from tilth.onnx.context import DataDependentError
from tilth.onnx.importer import import_graph
from tilth.onnx.load import OnnxModel

# Elements that a parameter may have, by the kind of its type: shapes and axes are integers, scales
# floats, a condition one bool. What has more is data: no graph is made for its values.
_LARGEST = {"int": 64, "uint": 64, "float": 8, "bool": 1}


@dataclass(frozen=True, eq=False)
class Specialised:
    """A graph, and the values of inputs that it was made for."""

    graph: Graph
    fixed: Mapping[str, np.ndarray]

    def serves(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether the graph is right for these feeds."""
        shapes = all(feeds[v.node.name].shape == v.shape for v in self.graph.inputs)
        return shapes and all(np.array_equal(feeds[n], a) for n, a in self.fixed.items())


def specialise(model: OnnxModel, feeds: Mapping[str, np.ndarray]) -> Specialised:
    """The graph for the shapes of `feeds`, with the fewest inputs fixed to their values.

    Raises what `import_graph` raises.
    """
    shapes = {name: array.shape for name, array in feeds.items()}
    fixed: dict[str, np.ndarray] = {}
    while True:
        try:
            return Specialised(import_graph(model, shapes, fixed), fixed)
        except DataDependentError as e:
            needed = {n: feeds[n].copy() for n in e.inputs if n in feeds and n not in fixed}
            if not e.fixable or not needed or not all(map(_is_parameter, needed.values())):
                raise
            fixed |= needed


def _is_parameter(array: np.ndarray) -> bool:
    return array.size <= _LARGEST.get(dtype_of(array.dtype).kind, 0)
