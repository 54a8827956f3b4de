"""Rotary position embedding (Su et al., "RoFormer", 2021) as com.microsoft has it."""

from __future__ import annotations

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, split, take
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.attention import join_heads, split_heads
from tilth.onnx.build import concatenate, expand_dims, iota
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


def rotated(
    x: Value, positions: Value, cosines: Value, sines: Value, interleaved: bool = False
) -> Value:
    """x [B, N, S, H] with its first 2 R elements turned, the others as they are.

    `positions` [B or 1, S] are rows of the tables `cosines` and `sines` [M, R]. What turns together
    is elements i and i + R, or, `interleaved`, 2 i and 2 i + 1.
    """
    half = cosines.shape[-1]
    cosines, sines = (expand_dims(take(t, positions, 0), (1,)) for t in (cosines, sines))
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


@onnx_op("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding(
    cx: NodeContext, x: Value, positions: Value, cosines: Value, sines: Value
) -> Value:
    """x is [B, S, N H] or [B, N, S, H]; one position is that of the first element.

    The attribute `scale` has no effect, as in ONNX Runtime.
    """
    if cx.attr("is_packed_batching", 0):
        raise UnsupportedError(f"{cx.label}: sequences of different lengths packed into one")
    size = 2 * cosines.shape[-1]
    flat = len(x.shape) == 3
    if flat:
        heads = cx.attr("num_heads", 0) if cx.attr("rotary_embedding_dim", 0) else 0
        x = split_heads(x, heads or x.shape[-1] // size)
    if len(positions.shape) == 1:
        positions = op.add(as_dtype(positions, i64), iota((1, x.shape[2]), 1, i64))
    y = rotated(x, positions, cosines, sines, bool(cx.attr("interleaved", 0)))
    return join_heads(y) if flat else y
