"""From raw scores to classes and probabilities: what the classifiers of ai.onnx.ml share.

`post_transform` is the operators' attribute of that name; a classifier with one score for two
classes widens it to two columns. Where the standard is silent, ONNX Runtime's reading is taken.
"""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_shape, reduce_keepdims, take
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import concatenate, scalar
from tilth.onnx.context import NodeContext

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def class_labels(cx: NodeContext, integers: str) -> Value:
    """The class labels of a classifier: strings, or else the integers in that attribute."""
    names = cx.attr("classlabels_strings", ())
    if names:
        return make_constant(np.array(names, object))
    return make_constant(np.array(cx.attr(integers), np.int64))


def first_largest(scores: Value) -> Value:
    """The position of each row's largest score, the first of equals: [N, C] -> i64[N]."""
    return op.arg_reduce(scores, kind="max", axis=1, last=False)


def labels_at(labels: Value, positions: Value) -> Value:
    """The labels at these positions."""
    return take(labels, positions, 0)


def second_if(positive: Value) -> Value:
    """Position 1 where the predicate [N, 1] holds, else 0: i64[N]."""
    return as_shape(op.convert(positive, dtype=i64), (positive.shape[0],))


def transformed(scores: Value, transform: str) -> Value:
    """Scores [N, C] after a `post_transform`."""
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return op.logistic(scores)
    if transform == "SOFTMAX":
        return op.softmax(scores, axis=1)
    if transform == "SOFTMAX_ZERO":
        return _softmax_of_nonzero(scores)
    if transform == "PROBIT":
        return _probit(scores)
    raise ValueError(f"post_transform '{transform}' is none of {', '.join(TRANSFORMS)}")


def two_columns(score: Value, transform: str, negative: bool = False) -> Value:
    """Two classes from the second one's score [N, 1]: the first gets 1 - s, or if `negative` -s.

    Of a logistic transform both are probabilities, whatever `negative` says.
    """
    if transform == "LOGISTIC":
        score, negative = op.logistic(score), False
    elif transform == "PROBIT":
        score = _probit(score)
    other = op.negate(score) if negative else op.subtract(scalar(1, score), score)
    return concatenate([other, score], 1)


def _softmax_of_nonzero(scores: Value) -> Value:
    """Softmax over the scores that are not zero; zeros stay."""
    live = op.compare(op.abs(scores), scalar(1e-7, scores), direction="GT")
    shifted = op.subtract(scores, reduce_keepdims(scores, "max", (1,)))
    powers = op.select(live, op.exponential(shifted), scalar(0, scores))
    return op.divide(powers, reduce_keepdims(powers, "sum", (1,)))


def _probit(x: Value) -> Value:
    """The inverse of the normal distribution function, as sqrt(2) erfinv(2x - 1).

    With Winitzki's approximation of erfinv ("A handy approximation for the error function and its
    inverse", 2008; relative error below 2e-3), as the known implementations of the operators have.
    """
    a = 0.147
    z = op.subtract(op.multiply(x, scalar(2, x)), scalar(1, x))
    log = op.log(op.subtract(scalar(1, x), op.multiply(z, z)))
    half = op.add(scalar(2 / (math.pi * a), x), op.multiply(log, scalar(0.5, x)))
    root = op.sqrt(op.subtract(op.multiply(half, half), op.divide(log, scalar(a, x))))
    size = op.sqrt(op.subtract(root, half))
    return op.multiply(op.multiply(op.sign(z), size), scalar(math.sqrt(2), x))
