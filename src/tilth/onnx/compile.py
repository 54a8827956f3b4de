"""From a model to executables for exact shapes, on one device, through the on-disk cache.

Everything that compiles an ONNX model goes through a `Compiler`: a model whose shapes are known,
the variants of one whose shapes come with the feeds, and the segments of one that runs in stages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.ir.types import Shape
from tilth.onnx.origin import Origin
from tilth.runtime.cache import Cache
from tilth.runtime.cached import through_cache
from tilth.runtime.executable import Executable
from tilth.runtime.stages import Progress, Stages
from tilth.runtime.target import Device, Options

if TYPE_CHECKING:
    from tilth.ir.graph import Graph

# What imports, compiles or prints graphs is imported on use: what the cache holds needs none of it.


@dataclass(frozen=True, eq=False)
class Compiler:
    """Compiles one model for `device`. `store` None: without the cache.

    `progress` is called with the name of each stage of a compilation.
    """

    origin: Origin
    device: Device
    options: Options
    store: Cache | None = None
    progress: Progress | None = None

    def exact(self, shapes: Mapping[str, Shape]) -> Executable:
        """For these shapes of all inputs and any values. Raises what `import_graph` raises."""

        def make(options: Options) -> Executable:
            from tilth.onnx.importer import import_graph

            stages = Stages(self.progress)
            with stages("import"):
                graph = import_graph(self.origin.model, shapes)
            return self._compiled(graph, stages, options)

        def key() -> dict[str, Any]:
            return {"model": self.origin.digest, "shapes": dict(shapes)}

        return self._cached(make, key, self._weight_bytes)

    def special(
        self, feeds: Mapping[str, np.ndarray]
    ) -> tuple[Executable, Mapping[str, np.ndarray]]:
        """For the shapes of `feeds`, and the values of those inputs that shapes depend on.

        Gives these values, too. Raises what `import_graph` raises.
        """
        from tilth.onnx.specialise import specialise

        stages = Stages(self.progress)
        with stages("import"):
            special = specialise(self.origin.model, feeds)

        def key() -> dict[str, Any]:
            shapes = {name: array.shape for name, array in feeds.items()}
            values = {n: [a.dtype.name, a.tolist()] for n, a in special.fixed.items()}
            return {"model": self.origin.digest, "shapes": shapes, "values": values}

        def make(options: Options) -> Executable:
            return self._compiled(special.graph, stages, options)

        return self._cached(make, key, self._weight_bytes), special.fixed

    def segment(self, graph: Graph) -> Executable:
        """For a part of the model; equal parts of any models are one entry of the cache."""

        def key() -> dict[str, Any]:
            from tilth.ir.text import to_text

            return {"graph": hashlib.sha256(to_text(graph).encode()).hexdigest()}

        def make(options: Options) -> Executable:
            return self._compiled(graph, Stages(self.progress), options)

        def weight_bytes() -> int:
            return sum(n.attrs["value"].nbytes for n in graph.nodes if n.op == "constant")

        return self._cached(make, key, weight_bytes)

    def interpreted(self, graph: Graph) -> Executable:
        """The same, by the reference interpreter: slow to run, but ready at once."""
        from tilth.compiler.driver import FALLBACK, compile_graph
        from tilth.runtime.devices import parse_device

        return compile_graph(graph, parse_device(FALLBACK), self.options, name=self.origin.name)

    def _compiled(self, graph: Graph, stages: Stages, options: Options) -> Executable:
        from tilth.compiler.driver import compile_graph

        return compile_graph(graph, self.device, options, stages, self.origin.name)

    def _cached(
        self,
        make: Callable[[Options], Executable],
        key: Callable[[], dict[str, Any]],
        weight_bytes: Callable[[], int],
    ) -> Executable:
        if self.store is None:
            return make(self.options)
        place = (self.device, self.options, self.origin.name)
        executable = through_cache(self.store, make, *place, key(), weight_bytes)
        self.origin.remember(self.store)
        return executable

    def _weight_bytes(self) -> int:
        from tilth.onnx.importer import weight_bytes

        return weight_bytes(self.origin.model)
