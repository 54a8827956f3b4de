"""Run one kernel on random strided arrays and compare it with the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Lower, Task
from tilth.ir.graph import Graph, Node, Value, clone, inline, make_input
from tilth.ir.interpreter import decomposition, interpret
from tilth.ir.ops.table import DECOMPOSE
from tilth.ir.types import DType, TensorType, f32

BOTH_ISAS = [host_isa(), ISAS["avx2"]] if host_isa().triple.startswith("x86") else [host_isa()]
TOLERANCE = {"f16": 4e-3, "bf16": 3e-2, "f32": 2e-5, "f64": 1e-12}


def body_of(build: Callable[..., Value | tuple[Value, ...]], *types: TensorType | tuple) -> Graph:
    """The graph of a function over values, composites replaced by primitives.

    An input is a TensorType, or a shape standing for f32.
    """
    tensors = [t if isinstance(t, TensorType) else TensorType(f32, t) for t in types]
    inputs = tuple(make_input(t, f"x{i}") for i, t in enumerate(tensors))
    results = build(*inputs)
    body = Graph(inputs, (results,) if isinstance(results, Value) else tuple(results))
    while any(n.op in DECOMPOSE for n in body.nodes):
        body = body.map(_decomposed)
    return body


def _decomposed(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    return inline(decomposition(node), inputs) if node.op in DECOMPOSE else clone(node, inputs)


def random_array(rng: np.random.Generator, dtype: DType, shape: Sequence[int]) -> np.ndarray:
    """Values of moderate size, with some of every sign."""
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5
    if dtype.is_float:
        return (rng.standard_normal(shape) * 2).astype(dtype.numpy)
    low = -100 if dtype.kind == "int" else 0
    return rng.integers(low, 100, shape).astype(dtype.numpy)


def strided_like(array: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """A view with the array's values in another memory layout, and the memory around it."""
    shape = array.shape
    if not shape:
        room = view = np.zeros(shape, array.dtype)
    elif layout == "pitched":
        room = np.zeros(tuple(d + 3 for d in shape), array.dtype)
        view = room[tuple(slice(1, d + 1) for d in shape)]
    elif layout == "strided":
        room = np.zeros(tuple(2 * d for d in shape), array.dtype)
        view = room[tuple(slice(0, 2 * d, 2) for d in shape)]
    elif layout == "reversed":
        room = np.zeros(shape, array.dtype)
        view = room[tuple(slice(None, None, -1) for _ in shape)]
    elif layout == "fortran":
        room = np.zeros(shape, array.dtype, order="F")
        view = room
    elif layout == "swapped" and len(shape) > 1:
        room = np.zeros((*shape[:-2], shape[-1], shape[-2]), array.dtype)
        view = room.swapaxes(-1, -2)
    elif layout == "channels_first" and len(shape) > 2:
        room = np.zeros((shape[0], shape[-1], *shape[1:-1]), array.dtype)
        view = np.moveaxis(room, 1, -1)
    else:
        room = view = np.zeros(shape, array.dtype)
    view[...] = array
    return view, room


LAYOUTS = ("dense", "pitched", "strided", "reversed", "fortran", "swapped", "channels_first")
layouts = st.sampled_from(LAYOUTS)


def compare(
    actual: np.ndarray, expected: np.ndarray, dtype: DType, tolerance: float | None
) -> None:
    """Exactly equal for integers and bool, close relative to the largest value for floats."""
    if not dtype.is_float:
        np.testing.assert_array_equal(actual, expected)
        return
    finite = expected[np.isfinite(expected)].astype(np.float64)
    scale = max(1.0, float(np.abs(finite).max(initial=0)))
    limit = tolerance or TOLERANCE.get(dtype.name, 0)
    np.testing.assert_allclose(
        actual.astype(np.float64), expected.astype(np.float64), rtol=limit, atol=limit * scale
    )


def check(
    lower: Lower,
    body: Graph,
    inputs: Sequence[np.ndarray],
    layout: Sequence[str] = (),
    result_layout: str = "dense",
    tolerance: float | None = None,
    isas=BOTH_ISAS,
    constants: Sequence[int] = (),
    compiled: Callable[..., Any] = CompiledKernel,
) -> None:
    """Every element right, nothing written outside, for whole and for cut ranges of items.

    `compiled` makes a kernel callable on arrays.
    """
    expected = interpret(body, list(inputs))
    layout = layout or ["dense"] * len(inputs)
    views = [strided_like(a, lay)[0] for a, lay in zip(inputs, layout, strict=True)]
    for isa in isas:
        placed = [strided_like(_unset(e), result_layout) for e in expected]
        results, rooms = [p[0] for p in placed], [p[1] for p in placed]
        before = [room.copy() for room in rooms]
        operands = tuple(operand(v, constant=i in constants) for i, v in enumerate(views))
        kernel = lower(Task(body, operands, tuple(map(operand, results)), isa, 2))
        items = kernel.items
        compiled(kernel, isa)(views, results, [items // 3, items // 2, items // 2])
        for value, result, wanted in zip(body.outputs, results, expected, strict=True):
            compare(result, wanted, value.tensor.dtype, tolerance)
        for result, room, old in zip(results, rooms, before, strict=True):
            result[...] = _unset(result)
            np.testing.assert_array_equal(room, old)


def _unset(array: np.ndarray) -> np.ndarray:
    return np.full(array.shape, True if array.dtype == bool else 77, array.dtype)
