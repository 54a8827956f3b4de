"""Run a whole graph through the pipeline and the CPU target, and compare with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from kernel_check import compare

from tilth.compiler.driver import compile_graph
from tilth.ir.graph import Graph, Value, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.types import TensorType, dtype_of
from tilth.runtime.devices import parse_device
from tilth.runtime.report import Report
from tilth.runtime.target import Options


def check_program(
    build: Callable[..., Value | tuple[Value, ...]],
    *arrays: np.ndarray,
    threads: int = 2,
    tolerance: float | None = None,
) -> Report:
    """One compiled region computes what the interpreter does, twice; gives its report."""
    types = (TensorType(dtype_of(a.dtype), a.shape) for a in arrays)
    inputs = tuple(make_input(t, f"x{i}") for i, t in enumerate(types))
    results = build(*inputs)
    outputs = (results,) if isinstance(results, Value) else tuple(results)
    graph = Graph(inputs, outputs)
    expected = interpret(graph, list(arrays))
    executable = compile_graph(graph, parse_device("cpu"), Options(threads))
    assert executable.report.host_ops == ()
    for _ in range(2):
        got = executable(dict(zip(graph.input_names, arrays, strict=True)))
        _compare_all(graph, list(got.values()), expected, tolerance)
    return executable.report


def _compare_all(
    graph: Graph,
    got: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    tolerance: float | None,
) -> None:
    for value, result, wanted in zip(graph.outputs, got, expected, strict=True):
        assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape)
        compare(result, wanted, value.tensor.dtype, tolerance)
