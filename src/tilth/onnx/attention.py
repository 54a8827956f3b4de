"""Scaled dot-product attention over heads: what the attention operators share.

Queries are [B, N, S, H], keys [B, N, T, H], values [B, N, T, E]. Masks are added to the scores
[B, N, S, T], to which they broadcast.
"""

from __future__ import annotations

import math
from functools import reduce

import ml_dtypes

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, matmul, permuted, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32, i32
from tilth.onnx.build import iota, scalar


def split_heads(x: Value, heads: int) -> Value:
    """[B, S, N H] to [B, N, S, H]"""
    batch, length, size = x.shape
    return permuted(as_shape(x, (batch, length, heads, size // heads)), (0, 2, 1, 3))


def join_heads(x: Value) -> Value:
    """[B, N, S, H] to [B, S, N H]"""
    batch, heads, length, size = x.shape
    return as_shape(permuted(x, (0, 2, 1, 3)), (batch, length, heads * size))


def hidden_unless(visible: Value, dtype: DType, penalty: float = -math.inf) -> Value:
    """A mask to add: 0 where a key is visible, else `penalty`."""
    return op.select(visible, scalar(0.0, dtype), scalar(penalty, dtype))


def causal_mask(queries: int, keys: int, past: int, dtype: DType) -> Value:
    """[S, T]: query i sees the keys up to `past` + i; to others the lowest number is added."""
    rows, columns = (iota((queries, keys), axis, i32) for axis in (0, 1))
    last = op.add(rows, scalar(past, i32))
    visible = op.compare(columns, last, direction="LE")
    return hidden_unless(visible, dtype, float(ml_dtypes.finfo(dtype.numpy).min))


def sum_of_masks(*masks: Value | None) -> Value | None:
    """The masks that there are, added up."""
    given = [m for m in masks if m is not None]
    return reduce(op.add, given) if given else None


def attend(q: Value, k: Value, v: Value, scale: float, mask: Value | None = None) -> Value:
    """softmax(scale q k^T + mask) v, as the composite that targets know."""
    return op.attention(q, k, v, *(() if mask is None else (mask,)), scale=scale)


def scores_of(
    q: Value, k: Value, scale: float, mask: Value | None = None, cap: float = 0.0
) -> Value:
    """The scores in f32; with `cap`, scores are bent to lie within +-cap before they are masked."""
    q, k = (as_dtype(x, f32) for x in (q, k))
    scores = matmul(op.multiply(q, scalar(scale, q)), permuted(k, (0, 1, 3, 2)))
    if cap:
        scores = op.multiply(op.tanh(op.divide(scores, scalar(cap, scores))), scalar(cap, scores))
    return scores if mask is None else op.add(scores, as_dtype(mask, f32))


def weights_of(scores: Value, sink: Value | None = None) -> Value:
    """Softmax over the keys; a `sink` [N, 1, 1] is a score whose share goes to no key."""
    if sink is None:
        return op.softmax(scores, axis=3)
    sink = as_dtype(sink, f32)
    top = op.maximum(reduce_keepdims(scores, "max", (3,)), sink)
    powers = op.exponential(op.subtract(scores, top))
    total = op.add(reduce_keepdims(powers, "sum", (3,)), op.exponential(op.subtract(sink, top)))
    return op.divide(powers, total)


def weighted(weights: Value, v: Value) -> Value:
    """The values under weights [B, N, S, T], in the values' type."""
    return as_dtype(matmul(weights, as_dtype(v, f32)), v.tensor.dtype)
