"""How far answers are from those of double precision: Tilth's, its exact mode's, ONNX Runtime's.

usage: numerics.py DIRECTORY [--only NAME] [--samples 3] [--threads 2] [--json FILE [--add]]

For every .onnx file of the directory the reference interpreter computes the outputs on random
inputs with all 32-bit floats, weights included, as 64-bit ones. An error is max |a - b| / max |b|,
the worst of all outputs and samples: one sample says little, as a softmax passes on the error of a
single number, which is luck. A model fails when Tilth's is above 1e-4 with Winograd's convolutions,
or above twice ONNX Runtime's without any, be that because none pays or as `precision="exact"`
forbids them. Prints a table, writes it as JSON; the exit code is 1 when a model failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

import tilth
from command_line import chosen_models, model_options, results_file
from tilth.interface import bind_shapes, complete
from tilth.ir.graph import Graph, Node, Value, constant_of, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import make
from tilth.ir.types import TensorType, Type, f32, f64
from tilth.tools.difference import relative_error
from tilth.tools.engines import Job, run_once
from tilth.tools.inputs import random_feeds

LIMIT = 1e-4
FACTOR = 2  # what is allowed without Winograd's transforms, as a multiple of ONNX Runtime's error
FLOOR = 1e-7  # a unit in the last place of the largest output: nobody need be nearer


@dataclass(frozen=True)
class Result:
    """The errors of one model against double precision, and how long that took, in seconds."""

    model: str
    default: float
    exact: float
    onnxruntime: float
    winograd: bool  # does the default take such kernels?
    reference_seconds: float

    @property
    def failures(self) -> Iterator[str]:
        allowed = FACTOR * max(self.onnxruntime, FLOOR)
        limit = LIMIT if self.winograd else allowed
        if not self.default <= limit:
            yield f"{self.default:.1e} off, more than {limit:.1e}"
        if not self.exact <= allowed:
            yield f"exact is {self.exact:.1e} off, more than {allowed:.1e}"


def measure(path: Path, samples: int, threads: int) -> Result:
    """One model, all engines one after the other in this process."""
    model = tilth.load(path)
    shapes = bind_shapes(model.inputs, complete(model.inputs, {}))
    feeds = [random_feeds(model.inputs, shapes, seed) for seed in range(samples)]
    start = time.perf_counter()
    reference = widened(model.graph(shapes))
    expected = [interpret(reference, {n: wide(a) for n, a in fed.items()}) for fed in feeds]
    seconds = time.perf_counter() - start
    del reference  # twice the weights

    def worst(found: Iterable[Sequence[np.ndarray]]) -> float:
        return max(map(relative_error, found, expected))

    def ours(precision: Literal["default", "exact"]) -> tuple[float, bool]:
        executable = model.compile("cpu", threads, shapes, precision=precision)
        winograd = any("winograd" in kernel.algorithm for kernel in executable.report.kernels)
        return worst(list(executable(fed).values()) for fed in feeds), winograd

    rival = worst(run_once("onnxruntime", Job(path, fed, threads)) for fed in feeds)
    (default, winograd), (exact, _) = ours("default"), ours("exact")
    return Result(path.stem, default, exact, rival, winograd, seconds)


def widened(graph: Graph) -> Graph:
    """The same computation with f64 wherever the graph has f32, in sub-graphs too."""
    new: dict[Value, Value] = {v: make_input(_wide_type(v.type), v.node.name) for v in graph.inputs}

    def visit(node: Node) -> Sequence[Value]:
        array = constant_of(node.outputs[0])
        if array is not None:
            return (make_constant(wide(array)),)
        attrs = {name: _wide_attribute(value) for name, value in node.attrs.items()}
        return make(node.op, *(new[v] for v in node.inputs), **attrs).outputs

    for node in graph.nodes:
        new.update(zip(node.outputs, visit(node), strict=True))
    inputs, outputs = (tuple(new[v] for v in values) for values in (graph.inputs, graph.outputs))
    return Graph(inputs, outputs, graph.output_names, graph.name)


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _wide_type(type_: Type) -> Type:
    if isinstance(type_, TensorType) and type_.dtype == f32:
        return TensorType(f64, type_.shape)
    return type_


def _wide_attribute(value: Any) -> Any:
    if isinstance(value, Graph):
        return widened(value)
    return f64 if value is f32 else value


def print_table(results: Sequence[Result], console: Console) -> None:
    table = Table("model", "tilth", "winograd", "exact", "onnxruntime", "reference s", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for r in results:
        default, *errors = (f"{e:.1e}" for e in (r.default, r.exact, r.onnxruntime))
        style = "red" if any(r.failures) else ""
        cells = (default, "yes" if r.winograd else "no", *errors)
        table.add_row(r.model, *cells, f"{r.reference_seconds:.1f}", style=style)
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = model_options("Errors of whole models against f64.")
    parser.add_argument("--samples", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=120)
    file = results_file(arguments)
    results = []
    for path in chosen_models(arguments):
        result = measure(path, arguments.samples, arguments.threads)
        results.append(result)
        file.put([asdict(result)], model=path.stem)
        told = "; ".join(result.failures) or "within the limits"
        console.print(f"{path.stem}: {told}", markup=False)
    print_table(results, console)
    return 1 if any(failure for result in results for failure in result.failures) else 0


if __name__ == "__main__":
    sys.exit(main())
