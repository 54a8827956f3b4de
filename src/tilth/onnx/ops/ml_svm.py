"""Support vector machines of ai.onnx.ml: kernels, one-against-one votes, Platt probabilities."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from tilth.ir.errors import ModelError
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.ops.helpers import as_dtype, as_shape, broadcast_to, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import bool_, f32, f64, i64
from tilth.onnx.build import concatenate, full, matmul, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.distances import squared_distances
from tilth.onnx.ops.ml_linear import rows_of_floats
from tilth.onnx.registry import onnx_op
from tilth.onnx.scores import (
    class_labels,
    first_largest,
    labels_at,
    transformed,
    two_columns,
)

_DOMAIN = "ai.onnx.ml"
_ROUNDS = 100  # of the fixed-point iteration, as in LIBSVM
_PRECISION = 0.005
_CLOSEST = 1e-7  # probabilities of pairs keep this distance from 0 and 1


@onnx_op("SVMRegressor", domain=_DOMAIN)
def svm_regressor(cx: NodeContext, x: Value) -> Value:
    x = rows_of_floats(x)
    coefficients = _list(cx, "coefficients").reshape(-1, 1)
    if cx.attr("n_supports", 0):
        x = _kernel(cx, x, _list(cx, "support_vectors").reshape(cx.attr("n_supports"), -1))
    scores = op.add(matmul(x, make_constant(coefficients)), _constant(_list(cx, "rho")[:1]))
    if cx.attr("one_class", 0):
        inside = op.compare(scores, scalar(0, scores), direction="GT")
        return op.select(inside, scalar(1, scores), scalar(-1, scores))
    return transformed(scores, cx.attr("post_transform", "NONE"))


@onnx_op("SVMClassifier", domain=_DOMAIN)
def svm_classifier(cx: NodeContext, x: Value) -> tuple[Value, Value]:
    """Labels, and scores: of each class, or where there is no `prob_a` of each pair of classes."""
    labels, x = class_labels(cx, "classlabels_ints"), rows_of_floats(x)
    classes, transform = labels.shape[0], cx.attr("post_transform", "NONE")
    counts = cx.attr("vectors_per_class", ())
    if not sum(counts):
        weights = _list(cx, "coefficients").reshape(classes, -1)
        scores = op.add(matmul(x, _constant(weights.T)), _constant(_list(cx, "rho")[:1]))
        return labels_at(labels, first_largest(scores)), transformed(scores, transform)
    if len(counts) != classes:
        raise ModelError(f"vectors of {len(counts)} classes, labels of {classes}")
    pairs = list(combinations(range(classes), 2))
    kernel = _kernel(cx, x, _list(cx, "support_vectors").reshape(sum(counts), -1))
    decisions = matmul(kernel, _constant(_pair_weights(cx, counts, pairs).T))
    decisions = op.add(decisions, _constant(_list(cx, "rho")[: len(pairs)]))
    label = labels_at(labels, first_largest(_votes(decisions, pairs, classes)))
    if cx.has("prob_a"):
        scores = transformed(_probabilities(cx, decisions, pairs, classes), transform)
    elif len(pairs) == 1:
        scores = two_columns(decisions, transform, negative=transform == "NONE")
    else:
        scores = transformed(decisions, transform)
    return label, scores


def _list(cx: NodeContext, name: str) -> np.ndarray:
    return np.array(cx.attr(name), np.float32)


def _constant(array: np.ndarray) -> Value:
    return make_constant(np.ascontiguousarray(array))


def _kernel(cx: NodeContext, x: Value, vectors: np.ndarray) -> Value:
    """The kernel of each sample with each support vector: [N, V]."""
    gamma, offset, degree = (*cx.attr("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    kind = cx.attr("kernel_type", "LINEAR")
    if kind == "RBF":
        distances = squared_distances(x, make_constant(vectors))
        return op.exponential(op.multiply(distances, scalar(-gamma, x)))
    products = matmul(x, _constant(vectors.T))
    if kind == "LINEAR":
        return products
    inner = op.add(op.multiply(products, scalar(gamma, x)), scalar(offset, x))
    if kind == "POLY":
        return op.power(inner, scalar(degree, x))
    if kind == "SIGMOID":
        return op.tanh(inner)
    raise ValueError(f"kernel_type '{kind}' is none of LINEAR, POLY, RBF, SIGMOID")


def _pair_weights(
    cx: NodeContext, counts: tuple[int, ...], pairs: list[tuple[int, int]]
) -> np.ndarray:
    """The coefficients of each pair of classes over all support vectors: [pairs, V].

    The file has [classes - 1, V]: a vector's row for another class skips its own class.
    """
    table = _list(cx, "coefficients").reshape(len(counts) - 1, -1)
    ends = np.cumsum(counts)
    weights = np.zeros((len(pairs), table.shape[1]), np.float32)
    for row, (i, j) in zip(weights, pairs, strict=True):
        for own, other in ((i, j - 1), (j, i)):
            vectors = slice(ends[own] - counts[own], ends[own])
            row[vectors] = table[other, vectors]
    return weights


def _votes(decisions: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """How many of its pairs each class wins: [N, classes]."""
    winners = np.zeros((2, len(pairs), classes), np.float32)
    for p, pair in enumerate(pairs):
        winners[0, p, pair[0]] = winners[1, p, pair[1]] = 1
    won = as_dtype(op.compare(decisions, scalar(0, decisions), direction="GT"), f32)
    lost = op.subtract(scalar(1, won), won)
    return op.add(matmul(won, _constant(winners[0])), matmul(lost, _constant(winners[1])))


def _probabilities(
    cx: NodeContext, decisions: Value, pairs: list[tuple[int, int]], classes: int
) -> Value:
    """Class probabilities out of pairs' ones (Wu, Lin, Weng: "Probability Estimates for
    Multi-class Classification by Pairwise Coupling", 2004, second approach)."""
    slope, shift = _list(cx, "prob_a"), _list(cx, "prob_b")
    logits = op.add(op.multiply(decisions, _constant(slope)), _constant(shift))
    first = as_dtype(op.logistic(op.negate(logits)), f64)
    first = op.clamp(scalar(_CLOSEST, f64), first, scalar(1 - _CLOSEST, f64))
    second = op.subtract(scalar(1, f64), first)
    # ratio[i][j] is the probability of class i against class j
    ratio: dict[tuple[int, int], Value] = {}
    for p, (i, j) in enumerate(pairs):
        ratio[i, j] = slice_axis(first, 1, p, p + 1)
        ratio[j, i] = slice_axis(second, 1, p, p + 1)
    rows = []
    for i in range(classes):
        others = [op.multiply(ratio[j, i], ratio[j, i]) for j in range(classes) if j != i]
        row = [
            op.negate(op.multiply(ratio[j, i], ratio[i, j])) if j != i else _sum(others)
            for j in range(classes)
        ]
        rows.append(as_shape(concatenate(row, 1), (decisions.shape[0], 1, classes)))
    return as_dtype(_coupled(concatenate(rows, 1)), f32)


def _sum(values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = op.add(total, value)
    return total


def _coupled(q: Value) -> Value:
    """The p [N, C] of sum 1 that minimises p^T q p for each sample, by fixed-point iteration.

    It stops where LIBSVM stops, sample by sample, so that the probabilities are the same.
    """
    rows, classes, _ = q.shape
    start = (
        scalar(0, i64),
        full(1 / classes, (rows, classes), f64),
        full(True, (rows, 1), bool_),
        q,
    )
    inputs = [make_input(v.type, f"state{i}") for i, v in enumerate(start)]
    going = as_shape(op.reduce(inputs[2], kind="or", axes=(0, 1)), ())
    more = op.and_(op.compare(inputs[0], scalar(_ROUNDS, i64), direction="LT"), going)
    condition = Graph(tuple(inputs), (more,), name="cond")

    inputs = [make_input(v.type, f"state{i}") for i, v in enumerate(start)]
    step, p, active, own = inputs
    product = as_shape(matmul(own, as_shape(p, (rows, classes, 1))), (rows, classes))
    energy = reduce_keepdims(op.multiply(p, product), "sum", (1,))
    error = reduce_keepdims(op.abs(op.subtract(product, energy)), "max", (1,))
    wrong = op.compare(error, scalar(_PRECISION / classes, f64), direction="GE")
    active = op.and_(active, wrong)
    moved = op.select(broadcast_to(active, p.shape), _swept(own, p, product, energy), p)
    body = Graph(tuple(inputs), (op.add(step, scalar(1, i64)), moved, active, own), name="body")
    return op.while_(*start, cond=condition, body=body)[1]


def _swept(q: Value, p: Value, product: Value, energy: Value) -> Value:
    """p after one sweep over its entries; `product` is q p and `energy` p^T q p."""
    rows, classes, _ = q.shape
    one = scalar(1, f64)
    for i in range(classes):
        row = as_shape(slice_axis(q, 1, i, i + 1), (rows, classes))
        diagonal, own = slice_axis(row, 1, i, i + 1), slice_axis(product, 1, i, i + 1)
        change = op.divide(op.subtract(energy, own), diagonal)
        growth = op.add(one, change)
        rise = op.multiply(diagonal, change)
        rise = op.multiply(change, op.add(rise, op.multiply(own, scalar(2, f64))))
        energy = op.divide(op.add(energy, rise), op.multiply(growth, growth))
        product = op.divide(op.add(product, op.multiply(row, change)), growth)
        unit = make_constant(np.eye(1, classes, i))
        p = op.divide(op.add(p, op.multiply(unit, change)), growth)
    return p
