"""Attention and MultiHeadAttention of com.microsoft.

A mask hides keys by adding `mask_filter_value` to their scores; what lies in the future is hidden
altogether.
"""

from __future__ import annotations

import math

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted, split
from tilth.ir.ops.table import op
from tilth.ir.types import DType, i32
from tilth.onnx.attention import (
    attend,
    causal_mask,
    hidden_unless,
    join_heads,
    scores_of,
    split_heads,
    sum_of_masks,
    weighted,
    weights_of,
)
from tilth.onnx.build import concatenate, expand_dims, iota, matmul, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("Attention", domain=DOMAIN)
def attention(
    cx: NodeContext,
    x: Value,
    weights: Value,
    bias: Value | None = None,
    mask: Value | None = None,
    past: Value | None = None,
    added: Value | None = None,
    past_length: Value | None = None,
) -> list[Value]:
    """Self-attention of x [B, S, D], projected by weights [D, Q + K + V]; keys and values of the
    past and the present are stacked: [2, B, N, T, H]."""
    if past_length is not None:
        raise UnsupportedError(f"{cx.label}: a past that shares its buffer with the present")
    projected = matmul(x, weights)
    if bias is not None:
        projected = op.add(projected, bias)
    return attend_projected(cx, projected, mask, past, added)


def attend_projected(
    cx: NodeContext,
    projected: Value,
    mask: Value | None,
    past: Value | None,
    added: Value | None = None,
) -> list[Value]:
    """`attention` on queries, keys and values side by side, [B, S, Q + K + V]."""
    if cx.attr("past_present_share_buffer", 0):
        raise UnsupportedError(f"{cx.label}: a past that shares its buffer with the present")
    if cx.attr("do_rotary", 0):
        raise UnsupportedError(f"{cx.label}: do_rotary inside the operator")
    third = projected.shape[2] // 3
    sizes = cx.attr("qkv_hidden_sizes", (third, third, third))
    heads = cx.attr("num_heads")
    q, k, v = (split_heads(part, heads) for part in split(projected, sizes, 2))
    if past is not None:
        old_k, old_v = (as_shape(p, past.shape[1:]) for p in split(past, (1, 1), 0))
        k, v = concatenate([old_k, k], 2), concatenate([old_v, v], 2)
    y, _ = _attended(cx, q, k, v, mask, added, 0 if past is None else past.shape[3])
    if not cx.wants(1):
        return [y]
    return [y, concatenate([expand_dims(k, (0,)), expand_dims(v, (0,))], 0)]


@onnx_op("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(
    cx: NodeContext,
    query: Value,
    key: Value | None = None,
    value: Value | None = None,
    bias: Value | None = None,
    mask: Value | None = None,
    added: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    past_length: Value | None = None,
    beams: Value | None = None,
) -> list[Value | None]:
    """Gives the result, the keys and values of past and present, and the masked scores."""
    if past_length is not None or beams is not None:
        raise UnsupportedError(f"{cx.label}: a past that shares its buffer with the present")
    q, k, v = _heads(cx, query, key, value, bias)
    if past_key is not None and past_value is not None:
        k, v = concatenate([past_key, k], 2), concatenate([past_value, v], 2)
    y, scores = _attended(cx, q, k, v, mask, added, 0 if past_key is None else past_key.shape[2])
    return [y, k, v, scores]


def _heads(
    cx: NodeContext, query: Value, key: Value | None, value: Value | None, bias: Value | None
) -> tuple[Value, ...]:
    """Queries, keys and values, which may come packed, with their bias: [B, N, S, H] each.

    Keys and values of rank 4 have their heads and bias already.
    """
    heads = cx.attr("num_heads")
    if key is None:  # [B, S, N, 3, H]
        parts = _unpacked(query)
    elif value is None:  # [B, T, N, 2, H]
        parts = query, *_unpacked(key)
    else:
        parts = query, key, value
    if bias is not None:
        sizes = [heads * x.shape[3] if len(x.shape) == 4 else x.shape[2] for x in parts]
        biases = split(bias, sizes, 0)
        parts = tuple(
            x if len(x.shape) == 4 else op.add(x, b) for x, b in zip(parts, biases, strict=True)
        )
    return tuple(x if len(x.shape) == 4 else split_heads(x, heads) for x in parts)


def _unpacked(x: Value) -> tuple[Value, ...]:
    """[B, S, N, parts, H] as `parts` tensors [B, S, N H]."""
    batch, length, heads, parts, size = x.shape
    x = permuted(x, (3, 0, 1, 2, 4))
    shape = (batch, length, heads * size)
    return tuple(as_shape(p, shape) for p in split(x, (1,) * parts, 0))


def _attended(
    cx: NodeContext,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None,
    added: Value | None,
    past: int,
) -> tuple[Value, Value | None]:
    """The result [B, S, N E], and the masked scores where the node has a fourth output."""
    dtype, (queries, keys) = q.tensor.dtype, (q.shape[2], k.shape[2])
    scale = cx.attr("scale", 0.0) or 1 / math.sqrt(q.shape[3])
    causal = None
    if cx.attr("unidirectional", 0) and queries > 1:
        causal = causal_mask(queries, keys, past, dtype)
    padding = None if mask is None else _padding(cx, mask, queries, keys, q.shape[0], dtype)
    total = sum_of_masks(added, padding, causal)
    if not cx.wants(3):
        return join_heads(attend(q, k, v, scale, total)), None
    scores = scores_of(q, k, scale, total)
    return join_heads(weighted(weights_of(scores), v)), as_dtype(scores, dtype)


def _padding(
    cx: NodeContext, mask: Value, queries: int, keys: int, batch: int, dtype: DType
) -> Value:
    """A mask [B, 1, 1 or S, T] to add, from any of the forms in which the operators take it."""
    if len(mask.shape) == 1:
        visible = _between(cx, mask, keys, batch)
    else:
        if len(mask.shape) == 4:  # [B, 1, M, M] for a longest sequence of M
            past = keys - queries
            mask = slice_axis(slice_axis(mask, 2, past, past + queries), 3, 0, keys)
        shape = mask.shape[0], 1, mask.shape[-2] if len(mask.shape) > 2 else 1, mask.shape[-1]
        visible = op.compare(as_shape(mask, shape), scalar(0, mask), direction="GT")
    return hidden_unless(visible, dtype, cx.attr("mask_filter_value", -10000.0))


def _between(cx: NodeContext, mask: Value, keys: int, batch: int) -> Value:
    """Keys before the ends [B] of the sequences and, with [2 B], from their starts on."""
    places = iota((batch, 1, 1, keys), 3, i32)
    if mask.shape[0] not in (batch, 2 * batch):
        raise UnsupportedError(f"{cx.label}: a mask {mask.type} for a batch of {batch}")
    ends, *starts = (
        as_shape(as_dtype(part, i32), (batch, 1, 1, 1))
        for part in split(mask, (batch,) * (mask.shape[0] // batch), 0)
    )
    visible = op.compare(places, ends, direction="LT")
    for start in starts:
        visible = op.and_(visible, op.compare(places, start, direction="GE"))
    return visible
