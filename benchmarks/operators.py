"""Single operators as models: how near they come to the limit of the chip, all in one run.

usage: operators.py [--only NAME] [--threads 2] [--json FILE]

Each case is an ONNX model of one operator, compiled as any model is; its main kernel's time comes
from `Executable.profile`. The limit is a loop of fused multiply-adds, run between the cases so
that both see the same clock; what the inner loop of products reaches of it, with all operands in
L1, is told, too. All are counted as direct ones, so Winograd's and Strassen's algorithms may
pass 100 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

import tilth
from command_line import options, write_json
from tilth.cpu.isa import host_isa
from tilth.cpu.peak import measure_peak, measure_product_peak
from tilth.tools.engines import use_cores
from tilth.tools.machine import describe_machine

RUNS = 5  # profiled calls per round
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operator with a constant weight: `x` and `weight` shapes, floating-point operations."""

    name: str
    op: str
    x: Shape
    weight: Shape
    flops: int


@dataclass(frozen=True)
class Row:
    """A measured case; seconds of the main kernel, rates in FLOP/s."""

    name: str
    algorithm: str
    seconds: float
    rate: float
    share: float


def matmul(m: int, k: int, n: int) -> Case:
    return Case(f"GEMM {m}x{k}x{n}", "MatMul", (m, k), (k, n), 2 * m * k * n)


def convolution(size: int, inputs: int, outputs: int, window: int = 3) -> Case:
    """Stride 1, padded so that the image keeps its size."""
    weight = (outputs, inputs, window, window)
    flops = 2 * size * size * inputs * outputs * window * window
    name = f"convolution {window}x{window} {size}x{size}x{inputs} to {outputs}"
    return Case(name, "Conv", (1, inputs, size, size), weight, flops)


CASES = (
    matmul(128, 768, 768),
    matmul(512, 512, 512),
    matmul(1024, 1024, 1024),
    matmul(2048, 2048, 2048),
    convolution(56, 64, 64),
    convolution(28, 128, 128),
    convolution(14, 256, 256),
    convolution(7, 512, 512),
    convolution(56, 256, 256),
    convolution(56, 64, 256, window=1),
    convolution(14, 1024, 256, window=1),
)


def model_of(case: Case) -> onnx.ModelProto:
    """The case as an ONNX model: input `x`, output `y`."""
    weight = np.random.default_rng(0).standard_normal(case.weight, np.float32)
    pads = [case.weight[-1] // 2] * 4
    attributes = {"pads": pads} if case.op == "Conv" else {}
    node = helper.make_node(case.op, ["x", "w"], ["y"], name=case.name, **attributes)
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "kernel",
        [helper.make_tensor_value_info("x", float32, case.x)],
        [helper.make_tensor_value_info("y", float32, [None] * len(case.x))],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def measure(cases: Iterable[Case], threads: int, rounds: int) -> tuple[list[Row], float]:
    """Profile all cases `rounds` times, the limit before each; and the inner loop's share of it."""
    rng = np.random.default_rng(1)
    prepared = [
        (
            case,
            tilth.load(model_of(case)).compile("cpu", threads, cache=False),
            {"x": rng.standard_normal(case.x, np.float32)},
        )
        for case in cases
    ]
    seconds: dict[str, list[float]] = {case.name: [] for case, _, _ in prepared}
    peaks: dict[str, list[float]] = {case.name: [] for case, _, _ in prepared}
    algorithms: dict[str, str] = {}
    loops = []
    for _ in range(rounds):
        peak = measure_peak(host_isa(), threads, runs=3)
        loops.append(measure_product_peak(host_isa(), threads, runs=3) / peak)
        for case, executable, feeds in prepared:
            peaks[case.name].append(measure_peak(host_isa(), threads, runs=3))
            kernels = executable.profile(feeds, runs=RUNS).kernels
            main = max(kernels, key=lambda kernel: kernel.flops)
            seconds[case.name].append(main.seconds)
            algorithms[case.name] = main.algorithm
    rows = [_row(c, algorithms[c.name], seconds[c.name], peaks[c.name]) for c, _, _ in prepared]
    return rows, statistics.median(loops)


def _row(case: Case, algorithm: str, seconds: list[float], peaks: list[float]) -> Row:
    median = statistics.median(seconds)
    rate = case.flops / median
    return Row(case.name, algorithm, median, rate, rate / statistics.median(peaks))


def print_table(rows: Iterable[Row], console: Console) -> None:
    table = Table("kernel", "algorithm", "ms", "GFLOP/s", "of peak")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        numbers = (f"{row.seconds * 1e3:.3f}", f"{row.rate / 1e9:.1f}", f"{row.share:.0%}")
        table.add_row(row.name, row.algorithm, *numbers)
    console.print(table)


def main() -> None:
    parser = options("Single operators next to the FMA peak.")
    parser.add_argument("--only", default="", help="operators whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    use_cores(arguments.threads)
    cases = [case for case in CASES if arguments.only in case.name]
    rows, loop = measure(cases, arguments.threads, arguments.rounds)
    print_table(rows, Console())
    print(f"inner loop of products, operands in L1: {loop:.0%} of the peak")
    machine = describe_machine(arguments.threads)
    operators = [asdict(row) for row in rows]
    found = {"machine": machine, "inner_loop_share": loop, "operators": operators}
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()
