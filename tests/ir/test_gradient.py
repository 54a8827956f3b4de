"""Derivatives against central differences in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilth.ir.errors import UnsupportedError
from tilth.ir.gradient import gradients
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops.table import op
from tilth.ir.types import TensorType, f64

UNARY = [
    *("negate", "abs", "exponential", "exponential_minus_one", "log", "log_plus_one", "sqrt"),
    *("rsqrt", "sine", "cosine", "tan", "tanh", "sinh", "cosh", "atan", "asin", "acos"),
    *("logistic", "erf", "softplus", "silu", "mish", "relu"),
]
BINARY = ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]


def check(function: Callable[..., Value], *shapes: tuple[int, ...]) -> None:
    """The derivatives of `function` at random points in (0.1, 0.9)."""
    random = np.random.default_rng(0)
    points = [random.uniform(0.1, 0.9, s) for s in shapes]
    inputs = [make_input(TensorType(f64, s), f"x{i}") for i, s in enumerate(shapes)]
    y = function(*inputs)
    graph = Graph(tuple(inputs), (y,))
    derived = interpret(Graph(tuple(inputs), tuple(gradients(y, inputs))), points)
    for i, (point, got) in enumerate(zip(points, derived, strict=True)):
        assert got.shape == point.shape
        want = np.empty_like(point)
        for at in np.ndindex(point.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [p.copy() for p in points]
                moved[i][at] += step
                sides.append(interpret(graph, moved)[0].sum())
            want[at] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_ops_of_one_operand(name: str):
    check(lambda x: getattr(op, name)(x), (3, 2))


@pytest.mark.parametrize("name", BINARY)
def test_elementwise_ops_of_two_operands_that_broadcast(name: str):
    check(lambda x, y: getattr(op, name)(x, y), (3, 1, 2), (4, 1))


def test_products_with_batches_and_contractions_in_any_order():
    attributes = {"lhs_batch": (1,), "rhs_batch": (2,), "lhs_contract": (3, 0)}
    check(
        lambda x, y: op.dot_general(x, y, **attributes, rhs_contract=(0, 3)),
        *((2, 3, 4, 5), (5, 6, 3, 2)),
    )


def test_softmax_is_derived_through_its_parts():
    weights = make_constant(np.random.default_rng(1).normal(size=(2, 5)))
    check(lambda x: op.multiply(op.softmax(x, axis=1), weights), (2, 5))


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
def test_reductions(kind: str):
    check(lambda x: op.exponential(op.reduce(x, kind=kind, axes=(0, 2))), (2, 3, 4))


def test_movement():
    def function(x: Value) -> Value:
        part = op.slice(x, start=(0, 1), limit=(3, 6), strides=(2, 3))
        turned = op.reverse(op.transpose(part, permutation=(1, 0)), axes=(0,))
        wide = op.broadcast_in_dim(op.reshape(turned, shape=(4,)), shape=(3, 4), dims=(1,))
        joined = op.concatenate(wide, op.multiply(wide, wide), axis=0)
        return op.multiply(joined, joined)

    check(function, (3, 7))


def test_what_has_no_derivative_is_refused():
    x = make_input(TensorType(f64, (3,)), "x")
    with pytest.raises(UnsupportedError, match="sort"):
        gradients(op.sort(x, axis=0, descending=False), [x])
