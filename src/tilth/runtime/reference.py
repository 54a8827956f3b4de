"""The reference interpreter as a target: slow, simple, and right by definition.

It proves that the target interface is enough for a second kind of device, and runs what no faster
device can.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.ir.cost import flops, traffic
from tilth.ir.graph import Graph, Node
from tilth.ir.interpreter import evaluate, interpret
from tilth.ir.text import parse, to_text
from tilth.runtime.target import KernelInfo, KernelRecord, Options, Traits


class ReferenceRegion:
    """A region that is interpreted on every call."""

    arena_bytes = 0

    def __init__(self, graph: Graph):
        self.graph = graph
        self._steps = [n for n in graph.nodes if n.op != "constant"]
        constants = [n for n in graph.nodes if n.op == "constant"]
        self.weight_bytes = sum(n.attrs["value"].nbytes for n in constants)
        self.kernels = tuple(_kernel(n) for n in self._steps)

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        # copies: the interpreter may give back an input or a constant
        return [np.array(a, order="C") for a in interpret(self.graph, inputs)]

    def profile(self, inputs: Sequence[np.ndarray]) -> list[KernelRecord]:
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        records = []
        begin = time.perf_counter()
        for node in self.graph.nodes:
            start = time.perf_counter()
            results = evaluate(node, [values[v] for v in node.inputs])
            values.update(zip(node.outputs, results, strict=True))
            if node.op != "constant":
                times = (start - begin, time.perf_counter() - start)
                k = _kernel(node)
                names = (k.name, node.name, k.algorithm)
                records.append(KernelRecord(*names, 0, *times, k.flops, k.bytes))
        return records

    def state(self) -> Mapping[str, Any]:
        constants: dict[str, np.ndarray] = {}
        return {"graph": to_text(self.graph, constants), "constants": constants}


class ReferenceTarget:
    """Implements `runtime.target.Target` with the interpreter; wants nothing of the pipeline."""

    kind = "reference"
    traits = Traits()

    def fingerprint(self, options: Options) -> str:
        return f"reference numpy={np.__version__}"

    def unsupported(self, node: Node) -> str | None:
        return None

    def compile(self, region: Graph, options: Options) -> ReferenceRegion:
        return ReferenceRegion(region)

    def restore(self, state: Mapping[str, Any]) -> ReferenceRegion:
        return ReferenceRegion(parse(state["graph"], state["constants"]))


def _kernel(node: Node) -> KernelInfo:
    return KernelInfo(node.op, (node.name or node.op,), "reference", flops(node), traffic(node))
