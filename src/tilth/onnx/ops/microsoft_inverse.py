"""Inverse of com.microsoft: matrices inverted by elimination, largest pivot first."""

from __future__ import annotations

import math

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_shape, broadcast_to
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import concatenate, expand_dims, iota, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


@onnx_op("Inverse", domain="com.microsoft")
def inverse(cx: NodeContext, x: Value) -> Value:
    """Gauss and Jordan's elimination on [A I], which ends as [I A^-1]."""
    size, batch = x.shape[-1], math.prod(x.shape[:-2])
    rows = as_shape(x, (batch, size, size))
    diagonal = op.compare(iota((size, size), 0, i64), iota((size, size), 1, i64), direction="EQ")
    one = op.select(diagonal, scalar(1, x), scalar(0, x))
    rows = concatenate([rows, broadcast_to(one, rows.shape)], 2)
    for k in range(size):
        rows = _eliminated(rows, k)
    return as_shape(slice_axis(rows, 2, size, 2 * size), x.shape)


def _eliminated(a: Value, k: int) -> Value:
    """[B, n, 2 n] with column k made a unit vector; the best of the rows from k on comes up."""
    batch, size, _ = a.shape
    column = as_shape(slice_axis(a, 2, k, k + 1), (batch, size))
    place = iota((batch, size), 1, i64)
    below = op.compare(place, scalar(k, i64), direction="GE")
    candidates = op.select(below, op.abs(column), scalar(-1, a))
    best = expand_dims(op.arg_reduce(candidates, kind="max", axis=1), (1,))
    chosen = expand_dims(op.compare(place, best, direction="EQ"), (2,))
    row = op.reduce(op.select(chosen, a, scalar(0, a)), kind="sum", axes=(1,))
    row = expand_dims(op.divide(row, slice_axis(row, 1, k, k + 1)), (1,))
    swapped = op.select(chosen, slice_axis(a, 1, k, k + 1), a)
    cleared = op.subtract(swapped, op.multiply(slice_axis(swapped, 2, k, k + 1), row))
    own = expand_dims(op.compare(place, scalar(k, i64), direction="EQ"), (2,))
    return op.select(own, row, cleared)
