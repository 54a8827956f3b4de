"""Linear models of ai.onnx.ml: one matrix product and what follows it."""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import matmul, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.scores import (
    class_labels,
    first_largest,
    labels_at,
    second_if,
    transformed,
    two_columns,
)

_DOMAIN = "ai.onnx.ml"


def rows_of_floats(x: Value) -> Value:
    """The samples as f32 rows: a vector is one sample, more dimensions count as features."""
    shape = (
        (1, *x.shape) if len(x.shape) == 1 else (x.shape[0], x.tensor.size // max(1, x.shape[0]))
    )
    return as_shape(as_dtype(x, f32), shape)


def linear(cx: NodeContext, x: Value, count: int) -> Value:
    """x W^T + b for `count` rows of coefficients."""
    weights = np.array(cx.attr("coefficients"), np.float32).reshape(count, -1)
    scores = matmul(rows_of_floats(x), make_constant(np.ascontiguousarray(weights.T)))
    bias = cx.attr("intercepts", ())
    return op.add(scores, make_constant(np.array(bias, np.float32))) if bias else scores


@onnx_op("LinearRegressor", domain=_DOMAIN)
def linear_regressor(cx: NodeContext, x: Value) -> Value:
    scores = linear(cx, x, cx.attr("targets", 1))
    return transformed(scores, cx.attr("post_transform", "NONE"))


@onnx_op("LinearClassifier", domain=_DOMAIN)
def linear_classifier(cx: NodeContext, x: Value) -> tuple[Value, Value]:
    """Labels and scores; one row of coefficients is the second of two classes."""
    labels = class_labels(cx, "classlabels_ints")
    transform = cx.attr("post_transform", "NONE")
    features = rows_of_floats(x).shape[1]
    scores = linear(cx, x, len(cx.attr("coefficients")) // features)
    if scores.shape[1] == 1:
        if labels.shape != (2,):
            raise ValueError(f"one row of coefficients, but {labels.shape[0]} classes")
        positive = op.compare(scores, scalar(0, scores), direction="GT")
        return labels_at(labels, second_if(positive)), two_columns(scores, transform)
    return labels_at(labels, first_largest(scores)), transformed(scores, transform)
