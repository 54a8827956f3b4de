"""Normalisations of com.microsoft: the usual ones after the additions that lead up to them."""

from __future__ import annotations

from functools import reduce

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import align, as_dtype, as_shape, permuted, take
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i32
from tilth.onnx.build import expand_dims, full, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(
    cx: NodeContext,
    x: Value,
    skip: Value,
    scale: Value,
    shift: Value | None = None,
    bias: Value | None = None,
) -> list[Value | None]:
    """Gives the layer norm of x + skip + bias, and the sum as output 3."""
    total = _sum(x, skip, bias)
    return [_layer_norm(cx, total, scale, shift), None, None, total]


@onnx_op("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_simplified_layer_normalization(
    cx: NodeContext, x: Value, skip: Value, scale: Value, bias: Value | None = None
) -> list[Value | None]:
    """Gives the root-mean-square norm of x + skip + bias, and the sum as output 3."""
    total = _sum(x, skip, bias)
    epsilon = cx.attr("epsilon", 1e-12)
    y = op.rms_norm(total, scale, axis=len(total.shape) - 1, epsilon=epsilon)
    return [y, None, None, total]


def _sum(*terms: Value | None) -> Value:
    return reduce(op.add, [t for t in terms if t is not None])


def _layer_norm(cx: NodeContext, x: Value, scale: Value, shift: Value | None) -> Value:
    """Over the last axis."""
    if shift is None:
        shift = full(0, scale.shape, x.tensor.dtype)
    epsilon = cx.attr("epsilon", 1e-12)
    return op.layer_norm(x, scale, shift, axis=len(x.shape) - 1, epsilon=epsilon)


@onnx_op("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(
    cx: NodeContext,
    words: Value,
    segments: Value | None,
    word_table: Value,
    position_table: Value,
    segment_table: Value | None,
    scale: Value,
    shift: Value,
    mask: Value | None = None,
    positions: Value | None = None,
) -> list[Value]:
    """The layer norm of word, position and segment embeddings [B, S, H], how many words the mask
    leaves [B], and the sum of the embeddings."""
    batch, length = words.shape
    if positions is None:
        position = slice_axis(position_table, 0, 0, length)
    else:
        position = take(position_table, positions, 0)
    total = op.add(take(word_table, words, 0), position)
    if segments is not None and segment_table is not None:
        total = op.add(total, take(segment_table, segments, 0))
    if mask is None:
        count = full(0, (batch,), i32)
    else:
        kept = op.compare(mask, scalar(1, mask), direction="EQ")
        count = op.reduce(as_dtype(kept, i32), kind="sum", axes=(1,))
    return [_layer_norm(cx, total, scale, shift), count, total]


@onnx_op("GroupNorm", domain=DOMAIN)
def group_norm(cx: NodeContext, x: Value, scale: Value, shift: Value) -> Value:
    """Group normalisation, with SiLU after it where `activation` is 1."""
    rank, dtype = len(x.shape), x.tensor.dtype
    last = bool(cx.attr("channels_last", 1))
    if last:
        x = permuted(x, (0, rank - 1, *range(1, rank - 1)))
    wide = scale.tensor.dtype
    y = op.group_norm(
        as_dtype(x, wide),
        scale,
        shift,
        groups=cx.attr("groups"),
        epsilon=cx.attr("epsilon", 1e-5),
    )
    y = as_dtype(op.silu(y) if cx.attr("activation") else y, dtype)
    return permuted(y, (0, *range(2, rank), 1)) if last else y


@onnx_op("SkipGroupNorm", domain=DOMAIN)
def skip_group_norm(
    cx: NodeContext,
    x: Value,
    scale: Value,
    shift: Value,
    skip: Value,
    bias: Value | None = None,
) -> list[Value]:
    """`GroupNorm` of x + skip + bias, and the sum; `skip` may be one value per channel."""
    axis = len(x.shape) - 1 if cx.attr("channels_last", 1) else 1
    if len(skip.shape) == 2:
        others = tuple(i for i in range(1, len(x.shape)) if i != axis)
        skip = expand_dims(skip, others)
    total = _sum(x, skip, None if bias is None else align(bias, axis, len(x.shape)))
    return [group_norm(cx, total, scale, shift), total]


@onnx_op("GatedRMSNorm", domain=DOMAIN)
def gated_rms_norm(cx: NodeContext, x: Value, scale: Value, gate: Value) -> Value:
    """Groups of as many elements as `scale` has, each normalised, times an activation of `gate`."""
    gates = {"silu": op.silu, "swish": op.silu, "sigmoid": op.logistic}
    opened = cx.choice("activation", gates, "silu")(as_dtype(gate, f32))
    shape = (*x.shape[:-1], x.shape[-1] // scale.shape[0], scale.shape[0])
    grouped = as_shape(as_dtype(x, f32), shape)
    epsilon = cx.attr("epsilon", 1e-5)
    y = op.rms_norm(grouped, as_dtype(scale, f32), axis=len(shape) - 1, epsilon=epsilon)
    return as_dtype(op.multiply(as_shape(y, x.shape), opened), x.tensor.dtype)
