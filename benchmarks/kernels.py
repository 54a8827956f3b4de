"""Single contraction kernels against the machine's FMA peak, measured in the same turns.

    python benchmarks/kernels.py [--isa NAME] [--threads N] [CASE ...]

Prints GFLOP/s, the share of the peak that a loop of register-only FMAs reaches meanwhile, the time
to compile, and the plan. One thread runs; `--threads` only changes how the plan splits the work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tilth.cpu.harness import CompiledKernel, aligned, operand
from tilth.cpu.isa import ISAS, Isa, host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import contraction
from tilth.cpu.peak import measure_peak
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32


@dataclass(frozen=True)
class Case:
    """A contraction with bias and relu: shapes of the operands and what joins them."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    hero: Callable[[Value, Value], Value]


def gemm(m: int, k: int, n: int) -> Case:
    return Case(
        (m, k), (k, n), lambda x, w: op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))
    )


def convolution(size: int, channels: int, filters: int, window: int, stride: int = 1) -> Case:
    """Square output of `size`; the input is already padded."""
    padded = (size - 1) * stride + window

    def hero(x: Value, w: Value) -> Value:
        return op.convolution(
            x,
            w,
            strides=(stride, stride),
            padding=((0, 0), (0, 0)),
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            groups=1,
            layout="channels_last",
        )

    return Case((1, padded, padded, channels), (window, window, channels, filters), hero)


CASES = {
    **{f"gemm {n}": gemm(n, n, n) for n in (512, 1024, 2048)},
    "bert 128x768x768": gemm(128, 768, 768),
    "bert 128x768x3072": gemm(128, 768, 3072),
    "bert 128x3072x768": gemm(128, 3072, 768),
    "3x3 56x56 64": convolution(56, 64, 64, 3),
    "3x3 28x28 128": convolution(28, 128, 128, 3),
    "3x3 14x14 256": convolution(14, 256, 256, 3),
    "3x3 7x7 512": convolution(7, 512, 512, 3),
    "3x3/2 28x28 128": convolution(28, 128, 128, 3, 2),
    "7x7/2 112x112 3-64": convolution(112, 3, 64, 7, 2),
    "1x1 56x56 64-64": convolution(56, 64, 64, 1),
    "1x1 56x56 64-256": convolution(56, 64, 256, 1),
    "1x1 56x56 256-64": convolution(56, 256, 64, 1),
    "1x1 28x28 128-512": convolution(28, 128, 512, 1),
    "1x1 28x28 512-128": convolution(28, 512, 128, 1),
    "1x1 14x14 256-1024": convolution(14, 256, 1024, 1),
    "1x1 14x14 1024-256": convolution(14, 1024, 256, 1),
    "1x1 7x7 512-2048": convolution(7, 512, 2048, 1),
    "1x1 7x7 2048-512": convolution(7, 2048, 512, 1),
    "1x1/2 28x28 256-512": convolution(28, 256, 512, 1, 2),
    "1x1/2 14x14 512-1024": convolution(14, 512, 1024, 1, 2),
    "1x1/2 7x7 1024-2048": convolution(7, 1024, 2048, 1, 2),
    "gemv 2048x1000": gemm(1, 2048, 1000),
    "gemv 4096x4096": gemm(1, 4096, 4096),
    "gemm 4x1024x1024": gemm(4, 1024, 1024),
}


def measure(
    case: Case, isa: Isa, threads: int, budget: float, plan=None
) -> tuple[float, float, float, str]:
    """(GFLOP/s, peak GFLOP/s, seconds to compile, algorithm)."""
    rng = np.random.default_rng(0)
    shapes = (case.x, case.w, (1,) * (len(case.x) - 1) + case.w[-1:])
    arrays = [aligned(rng.standard_normal(s, dtype=np.float32)) for s in shapes]
    x, w, bias = (
        make_input(TensorType(f32, a.shape), n) for a, n in zip(arrays, "xwb", strict=True)
    )
    zero = make_constant(np.float32(0))
    y = op.maximum(op.add(case.hero(x, w), bias), zero)
    result = aligned(np.empty(y.shape, np.float32))
    operands = tuple(operand(a, constant=i > 0) for i, a in enumerate(arrays))
    start = time.perf_counter()
    kernel = contraction.lower(
        Task(Graph((x, w, bias), (y,)), operands, (operand(result),), isa, threads), plan
    )
    compiled = CompiledKernel(kernel, isa)
    compile_seconds = time.perf_counter() - start
    best, peak, stop = float("inf"), 0.0, time.perf_counter() + budget
    while time.perf_counter() < stop:
        best = min(best, compiled.seconds(arrays, [result], budget / 8))
        peak = max(peak, measure_peak(isa, threads=1, runs=3))
    return kernel.flops / best / 1e9, peak / 1e9, compile_seconds, kernel.algorithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"any of: {', '.join(CASES)}")
    parser.add_argument("--isa", default="", help=f"host (default) or any of: {', '.join(ISAS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds per case")
    args = parser.parse_args()
    isa = ISAS[args.isa] if args.isa else host_isa()
    print(f"{isa.name}: {isa.lanes} lanes, {isa.registers} registers")
    for name in args.cases or CASES:
        rate, peak, compile_seconds, algorithm = measure(
            CASES[name], isa, args.threads, args.budget
        )
        print(
            f"{name:22s} {rate:7.1f} GFLOP/s {rate / peak:6.1%} of {peak:5.0f}"
            f"  compile {compile_seconds * 1e3:4.0f} ms  {algorithm}",
            flush=True,
        )


if __name__ == "__main__":
    main()
