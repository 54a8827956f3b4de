"""Time models with more than one sample a call, next to ONNX Runtime and OpenVINO.

usage: batches.py DIRECTORY [--batch 8 32] [--only NAME] [--threads 2] [--json FILE [--add]]

The models of the directory are made for one sample; of each, a copy for every batch size is written
into a temporary folder and timed in interleaved turns. A copy that an engine refuses, or on which
Tilth and ONNX Runtime differ by more than 1e-4 of the largest output, is reported as a failure
without a ratio; the exit code is then 1. Prints a table, writes it as JSON, after each model anew;
with `--add` what was measured of other models and batch sizes stays there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from command_line import chosen_models, model_options, results_file
from models import LIMIT, RIVALS, job_for
from tilth.tools.side_by_side import Timing, side_by_side

Change = Callable[[np.ndarray], np.ndarray]
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # operands [directions, batch, hidden]


@dataclass
class Result:
    """One model at one batch size; latencies are of the whole batch, in seconds."""

    model: str
    batch: int
    failures: list[str] = field(default_factory=list)
    timings: dict[str, Timing] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Tilth's median latency over the best rival's: below 1 is faster."""
        if self.failures:
            return math.nan
        return self.timings["tilth"].median / min(self.timings[r].median for r in RIVALS)

    def as_json(self) -> dict[str, Any]:
        timings = {name: timing.as_json() for name, timing in self.timings.items()}
        ratio = None if self.failures else self.ratio
        return {
            "model": self.model,
            "batch": self.batch,
            "failures": self.failures,
            "timings": timings,
            "ratio": ratio,
        }


def measure(path: Path, batch: int, arguments: argparse.Namespace) -> Result:
    """Time one model's copy for `batch` samples."""
    result = Result(path.stem, batch)
    with tempfile.TemporaryDirectory(prefix="tilth-bench-") as folder:
        copy = Path(folder, path.name)
        onnx.save(rebatched(onnx.load(path), batch), copy)
        job = job_for(copy, arguments.threads)
        engines = ("onnxruntime", "openvino", "tilth")
        timings = side_by_side(engines, job, arguments.rounds, arguments.turn)
    result.timings = {timing.engine: timing for timing in timings}
    result.failures = [f"{t.engine}: {t.problem}" for t in timings if t.problem]
    error = result.timings["tilth"].error
    if not result.failures and not error <= LIMIT:
        result.failures.append(f"differs from ONNX Runtime by {error:.1e}")
    return result


def rebatched(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model, made for one sample, for `batch` samples; the model itself is changed.

    Inputs get the batch as their first dimension. So do the constants in which exporters bake it
    in: targets of Reshape, values that are concatenated to each sample, initial states.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    for value in graph.input:
        if value.name not in tensors:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for node in graph.node:
        for place, change in _baked_in(node, tensors, batch):
            if place < len(node.input) and node.input[place] in tensors:
                array = change(numpy_helper.to_array(tensors[node.input[place]]))
                name = f"{node.input[place]}, operand {place} of {node.output[0]}"
                graph.initializer.append(numpy_helper.from_array(array, name))
                node.input[place] = name
    return model


def _baked_in(
    node: onnx.NodeProto, constants: Collection[str], batch: int
) -> Iterator[tuple[int, Change]]:
    """Operands of a node that hold the batch if they are constant, and what becomes of them."""
    if node.op_type == "Reshape" and node.input[0] not in constants:
        yield 1, lambda target: _retargeted(target, batch)
    elif node.op_type == "Concat" and node.attribute[0].i != 0:
        for place in range(len(node.input)):
            yield place, lambda array: np.repeat(array, batch, 0)
    for place in _STATES.get(node.op_type, ()):
        yield place, lambda state: np.repeat(state, batch, 1)


def _retargeted(target: np.ndarray, batch: int) -> np.ndarray:
    """The shape that a Reshape is to give: its first 1 is the batch, or else it is in the first
    dimension, where -1 computes it."""
    shape = target.tolist()
    if -1 not in shape:
        shape[shape.index(1) if 1 in shape else 0] = -1
    elif 1 in shape:
        shape[shape.index(1)] = batch
    return np.array(shape, target.dtype)


def print_table(results: Sequence[Result], console: Console) -> None:
    """All results, one row a model and batch size."""
    table = Table("model", "batch", "tilth ms", *(f"{r} ms" for r in RIVALS), "ratio", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        if result.failures:
            table.add_row(result.model, f"{result.batch}", "failed", style="red")
            continue
        times = (f"{result.timings[n].median * 1e3:.2f}" for n in ("tilth", *RIVALS))
        table.add_row(result.model, f"{result.batch}", *times, f"{result.ratio:.2f}")
    console.print(table)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The mean of the ratios at each batch size."""
    batches = sorted({row["batch"] for row in rows})
    ratios = {
        b: [r["ratio"] for r in rows if r["batch"] == b and not r["failures"]] for b in batches
    }
    means = {b: statistics.geometric_mean(found) for b, found in ratios.items() if found}
    return {"geometric_means": means}


def parse_arguments() -> argparse.Namespace:
    parser = model_options("Time models on batches of samples.")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turn", type=float, default=1.0, help="seconds per engine and round")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=120)
    file = results_file(arguments, summary=summary)
    results = []
    for path in chosen_models(arguments):
        for batch in arguments.batch:
            result = measure(path, batch, arguments)
            results.append(result)
            file.put([result.as_json()], model=path.stem, batch=batch)
            told = "; ".join(result.failures) or f"ratio {result.ratio:.2f}"
            console.print(f"{path.stem}, {batch} samples: {told}", markup=False)
    print_table(results, console)
    for batch, mean in summary(file.rows)["geometric_means"].items():
        console.print(f"geometric mean of tilth / best rival, {batch} samples: {mean:.3f}")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
