"""Rotary position embedding (Su et al., "RoFormer", 2021) as com.microsoft has it."""

from __future__ import annotations

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape, split, take
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.attention import join_heads, split_heads
from tilth.onnx.build import concatenate, expand_dims, iota
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


def rotated(
    x: Value, positions: Value, cosines: Value, sines: Value, interleaved: bool = False
) -> Value:
    """x [B, N, S, H] turned by what rows `positions` [B or 1, S] of tables [M, R] say."""
    return _turned(x, take(cosines, positions, 0), take(sines, positions, 0), interleaved)


def _turned(x: Value, cosines: Value, sines: Value, interleaved: bool) -> Value:
    """x [B, N, S, H] with its first 2 R elements turned by [B, S, R], the others as they are.

    What turns together is elements i and i + R, or, `interleaved`, 2 i and 2 i + 1.
    """
    half = cosines.shape[-1]
    cosines, sines = (expand_dims(t, (1,)) for t in (cosines, sines))
    turning, rest = split(x, (2 * half, x.shape[-1] - 2 * half), 3)
    if interleaved:
        pairs = as_shape(turning, (*x.shape[:-1], half, 2))
        left, right = (as_shape(v, (*x.shape[:-1], half)) for v in split(pairs, (1, 1), 4))
    else:
        left, right = split(turning, (half, half), 3)
    real = op.subtract(op.multiply(left, cosines), op.multiply(right, sines))
    imaginary = op.add(op.multiply(left, sines), op.multiply(right, cosines))
    if interleaved:
        real, imaginary = (expand_dims(v, (4,)) for v in (real, imaginary))
        turned = as_shape(concatenate([real, imaginary], 4), turning.shape)
    else:
        turned = concatenate([real, imaginary], 3)
    return concatenate([turned, rest], 3) if rest.shape[-1] else turned


@onnx_op("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(
    cx: NodeContext, x: Value, positions: Value, cosines: Value, sines: Value
) -> Value:
    """x is [B, S, N H] or [B, N, S, H]; one position is that of the first element.

    The attribute `scale` has no effect, as in ONNX Runtime.
    """
    if len(positions.shape) == 1:
        length = x.shape[-2]
        positions = op.add(as_dtype(positions, i64), iota((1, length), 1, i64))
    return _embedded(cx, x, take(cosines, positions, 0), take(sines, positions, 0))


@onnx_op("MRotaryEmbedding", domain=DOMAIN)
def multimodal_rotary_embedding(
    cx: NodeContext, x: Value, positions: Value, cosines: Value, sines: Value
) -> Value:
    """Three positions [3, B, S] per element: in time, in height and in width.

    `mrope_section` says how many columns of the tables follow each (Wang et al., "Qwen2-VL", 2024).
    """
    counts, half = cx.attr("mrope_section"), cosines.shape[-1]
    if len(counts) != 3 or sum(counts) != half:
        raise ValueError(f"sections {list(counts)} do not add up to the {half} columns of a table")
    stream = np.repeat(np.arange(3), counts)
    if cx.attr("mrope_layout", 0):  # columns take turns for as long as height and width have some
        stream = np.zeros(half, np.int64)
        for i in (1, 2):
            stream[i : 3 * counts[i] : 3] = i
    return _embedded(cx, x, *(_by_stream(take(t, positions, 0), stream) for t in (cosines, sines)))


def _by_stream(rows: Value, stream: np.ndarray) -> Value:
    """[3, B, S, R] to [B, S, R], column r of stream[r]."""
    streams = [as_shape(p, rows.shape[1:]) for p in split(rows, (1, 1, 1), 0)]
    chosen = streams[0]
    for i in (1, 2):
        chosen = op.select(make_constant(stream == i), streams[i], chosen)
    return chosen


def _embedded(cx: NodeContext, x: Value, cosines: Value, sines: Value) -> Value:
    """x, [B, S, N H] or [B, N, S, H], turned as the node's attributes say."""
    if cx.attr("is_packed_batching", 0):
        raise UnsupportedError(f"{cx.label}: sequences of different lengths packed into one")
    interleaved = bool(cx.attr("interleaved", 0))
    if len(x.shape) == 4:
        return _turned(x, cosines, sines, interleaved)
    x = split_heads(x, cx.attr("num_heads", 0) or x.shape[-1] // (2 * cosines.shape[-1]))
    return join_heads(_turned(x, cosines, sines, interleaved))
