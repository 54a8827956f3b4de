"""Tree ensembles of ai.onnx.ml: what becomes of the leaves that a sample reaches."""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.ops.table import op
from tilth.ir.types import f32, f64
from tilth.onnx.build import scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.ml_linear import rows_of_floats
from tilth.onnx.registry import onnx_op
from tilth.onnx.scores import (
    TRANSFORMS,
    class_labels,
    first_largest,
    labels_at,
    second_if,
    transformed,
    two_columns,
)
from tilth.onnx.tree_attributes import floats, forest_by_names, forest_by_position
from tilth.onnx.trees import Forest, leaf_weights

_DOMAIN = "ai.onnx.ml"
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
# What stands for a target that a leaf does not vote for.
_ABSENT = {"AVERAGE": 0.0, "SUM": 0.0, "MIN": np.inf, "MAX": -np.inf}


@onnx_op("TreeEnsembleRegressor", domain=_DOMAIN)
def tree_ensemble_regressor(cx: NodeContext, x: Value) -> Value:
    forest = forest_by_names(cx, "target", cx.attr("n_targets"))
    scores = _aggregate(forest, _samples(x), cx.attr("aggregate_function", "SUM"))
    return as_dtype(transformed(_with_base(cx, scores), cx.attr("post_transform", "NONE")), f32)


@onnx_op("TreeEnsembleClassifier", domain=_DOMAIN)
def tree_ensemble_classifier(cx: NodeContext, x: Value) -> tuple[Value, Value]:
    """Labels and scores. Of two classes the file may score only one."""
    labels = class_labels(cx, "classlabels_int64s")
    transform = cx.attr("post_transform", "NONE")
    classes, scored = labels.shape[0], set(cx.attr("class_ids"))
    columns = 1 if classes <= 2 and scored == {0} else classes
    scores = _aggregate(forest_by_names(cx, "class", columns), _samples(x), "SUM")
    scores = as_dtype(_with_base(cx, scores), f32)
    if len(scored) > 1 or classes > 2:
        return labels_at(labels, first_largest(scores)), transformed(scores, transform)
    like_probabilities = classes == 2 and bool((floats(cx, "class_weights") >= 0).all())
    second = slice_axis(scores, 1, columns - 1, columns)
    middle = scalar(0.5 if like_probabilities else 0.0, scores)
    place = second_if(op.compare(second, middle, direction="GT"))
    if classes == 1:
        return place, scores
    if columns == 1:
        scores = two_columns(scores, transform, negative=not like_probabilities)
        return labels_at(labels, place), scores
    return labels_at(labels, place), transformed(scores, transform)


@onnx_op("TreeEnsemble", domain=_DOMAIN, since=5)
def tree_ensemble(cx: NodeContext, x: Value) -> Value:
    how = _AGGREGATES[cx.attr("aggregate_function", 1)]
    scores = _aggregate(forest_by_position(cx), _samples(x), how)
    return as_dtype(transformed(scores, TRANSFORMS[cx.attr("post_transform", 0)]), x.tensor.dtype)


def _samples(x: Value) -> Value:
    """Rows of f64 if the input has it, else of f32."""
    return x if x.tensor.dtype == f64 and len(x.shape) == 2 else rows_of_floats(x)


def _aggregate(forest: Forest, x: Value, how: str) -> Value:
    """What the trees say for each target, put together: [N, targets]."""
    if how not in _ABSENT:
        raise ValueError(f"aggregate_function '{how}' is none of {', '.join(_AGGREGATES)}")
    weights = leaf_weights(forest, x, _ABSENT[how])
    if how in ("MIN", "MAX"):
        result = op.reduce(weights, kind=how.lower(), axes=(1,))
        return op.select(op.is_inf(result), scalar(0, result), result)
    result = op.reduce(weights, kind="sum", axes=(1,))
    return op.divide(result, scalar(len(forest.roots), result)) if how == "AVERAGE" else result


def _with_base(cx: NodeContext, scores: Value) -> Value:
    base = floats(cx, "base_values")
    if not base.size:
        return scores
    if base.size != scores.shape[1]:
        raise ValueError(f"{base.size} base values for {scores.shape[1]} scores")
    return op.add(scores, make_constant(base.astype(scores.tensor.dtype.numpy)))
