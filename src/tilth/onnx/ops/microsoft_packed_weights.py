"""Operators of com.microsoft on weights of few bits: matrix products and embeddings.

Weights are taken as floats; activations are not quantised, whatever `accuracy_level` allows.

Source: ONNX Runtime, "Contrib Operators" (docs/ContribOperators.md); for the four-bit floats,
Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape, take
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i32, u8
from tilth.onnx.build import expand_dims, normal_axis, scalar, wrap_negative
from tilth.onnx.context import NodeContext
from tilth.onnx.packed import dequantized_blocks, nibbles, unpacked, zero_points
from tilth.onnx.quantized import repeated
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("MatMulNBits", domain=DOMAIN)
def matmul_nbits(
    cx: NodeContext,
    a: Value,
    packed: Value,
    scales: Value,
    zeros: Value | None = None,
    group: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """`packed` is [N, blocks, bytes of a block]; `group` names the block of each row of K."""
    n, k, block = (cx.attr(name) for name in ("N", "K", "block_size"))
    bits = cx.attr("bits", 4)
    blocks = -(-k // block)
    packed = as_shape(packed, (n, blocks * block * bits // 8))
    scales = as_shape(scales, (n, blocks))
    if group is None:
        w = dequantized_blocks(packed, scales, zeros, bits, k)
    else:
        w = _grouped(packed, scales, zero_points(zeros, bits, scales.shape), group, bits, k)
    y = _times_transposed(a, w)
    y = y if bias is None else op.add(y, as_dtype(bias, f32))
    return as_dtype(y, a.tensor.dtype)


def _grouped(
    packed: Value, scales: Value, centre: Value, group: Value, bits: int, size: int
) -> Value:
    """Dequantised weights where each row of K has the scale that `group` says."""
    q = as_dtype(unpacked(packed, bits, size), f32)
    places = op.slice(group, start=(0,), limit=(size,))
    scale = take(as_dtype(scales, f32), places, 1)
    centre = take(centre, places, 1) if centre.shape else centre
    return op.multiply(op.subtract(q, centre), scale)


def _times_transposed(a: Value, w: Value) -> Value:
    """a w^T in f32"""
    wide = as_dtype(a, f32)
    return op.dot_general(wide, w, lhs_contract=(len(a.shape) - 1,), rhs_contract=(1,))


# Four-bit floats of bitsandbytes, by code: FP4 and NF4 (quantiles of the normal distribution).
_FP4 = (0, 0.00520833, 2 / 3, 1, 1 / 3, 0.5, 1 / 6, 0.25)
_CODES = {
    0: (*_FP4, *(-x for x in _FP4)),
    1: (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
}


@onnx_op("MatMulBnb4", domain=DOMAIN)
def matmul_bnb4(cx: NodeContext, a: Value, packed: Value, largest: Value) -> Value:
    """Blocks of the flattened [N, K] weights, each with the magnitude of its largest element."""
    n, k, block = (cx.attr(name) for name in ("N", "K", "block_size"))
    codes = make_constant(np.array(_CODES[cx.attr("quant_type")], np.float32))
    unit = take(codes, as_dtype(nibbles(packed, n * k), i32), 0)
    w = op.multiply(unit, repeated(as_dtype(largest, f32), 0, block, n * k))
    w = as_shape(w, (n, k))
    if not cx.attr("transB", 1):
        w = op.transpose(w, permutation=(1, 0))
    return as_dtype(_times_transposed(a, w), a.tensor.dtype)


@onnx_op("GatherBlockQuantized", domain=DOMAIN)
def gather_block_quantized(
    cx: NodeContext, data: Value, indices: Value, scales: Value, zeros: Value | None = None
) -> Value:
    """Slices are taken first, then dequantised; those out of range are zeros."""
    rank, more = len(data.shape), len(indices.shape) - 1
    axis = normal_axis(cx.attr("gather_axis", 0), rank)
    along = normal_axis(cx.attr("quantize_axis", 1), rank)
    is_packed = data.tensor.dtype == u8
    bits = cx.attr("bits", 4) if is_packed else 8
    sizes = (*data.shape[:-1], data.shape[-1] * 8 // bits)
    block = cx.attr("block_size", 128) or sizes[along]
    if is_packed:
        centre = zero_points(zeros, bits, scales.shape)
    else:
        centre = scalar(0, f32) if zeros is None else as_dtype(zeros, f32)
    places = wrap_negative(indices, sizes[axis])
    moved = along + more if along > axis else along

    def parameter(value: Value) -> Value:
        """A value for each gathered element, or one that broadcasts."""
        if not value.shape:
            return value
        value = as_dtype(value, f32)
        if axis == along:
            return take(value, op.divide(places, scalar(block, places)), axis)
        if value.shape[axis] == 1:
            value = expand_dims(value, tuple(range(axis, axis + more))) if more > 0 else value
        else:
            value = take(value, places, axis)
        return repeated(value, moved, block, sizes[along])

    q = take(data, places, axis)
    q = unpacked(q, bits, sizes[-1]) if is_packed else q
    real = op.multiply(op.subtract(as_dtype(q, f32), parameter(centre)), parameter(scales))
    known = as_shape(
        op.and_(
            op.compare(places, scalar(0, places), direction="GE"),
            op.compare(places, scalar(sizes[axis], places), direction="LT"),
        ),
        (*indices.shape, *(1,) * (rank - axis - 1)),
    )
    return as_dtype(op.select(known, real, scalar(0, real)), scales.tensor.dtype)
