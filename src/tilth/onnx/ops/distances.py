"""Distances between all rows of two matrices."""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.table import op
from tilth.onnx.build import expand_dims
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


def squared_distances(x: Value, y: Value) -> Value:
    """[N, F] and [M, F] give [N, M].

    By differences: the way over products cancels where rows are close to each other.
    """
    difference = op.subtract(expand_dims(x, (1,)), y)
    return op.reduce(op.multiply(difference, difference), kind="sum", axes=(2,))


@onnx_op("CDist", domain="com.microsoft")
def cdist(cx: NodeContext, x: Value, y: Value) -> Value:
    metrics = {"sqeuclidean": False, "euclidean": True}
    rooted = cx.choice("metric", metrics, "sqeuclidean")
    distances = squared_distances(x, y)
    return op.sqrt(distances) if rooted else distances
