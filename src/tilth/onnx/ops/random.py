"""Random tensors.

The numbers follow from the node's seed (or, without one, from its name) and the element's place, so
they do not depend on threads; like every compiled graph they are the same at each call.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32, u32
from tilth.onnx.build import scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.tensors import element_type


def _key(cx: NodeContext, stream: int) -> Value:
    if cx.has("seed"):
        (seed,) = struct.unpack("<I", struct.pack("<f", cx.attr("seed")))
    else:
        seed = zlib.crc32(cx.label.encode())
    return make_constant(np.array([seed, stream], np.uint64))


def _uniform(cx: NodeContext, shape: Sequence[int], stream: int = 0) -> Value:
    """f32 in [0, 1): the 24 high bits of random words."""
    bits = op.rng_bits(_key(cx, stream), shape=tuple(shape), bits=32)
    high = op.shift_right_logical(bits, scalar(8, u32))
    return op.multiply(as_dtype(high, f32), scalar(2.0**-24, f32))


def _random(cx: NodeContext, shape: Sequence[int], dtype: DType) -> Value:
    if cx.op_type.startswith("RandomUniform"):
        low, high = cx.attr("low", 0.0), cx.attr("high", 1.0)
        scaled = op.multiply(_uniform(cx, shape), scalar(high - low, f32))
        return as_dtype(op.add(scaled, scalar(low, f32)), dtype)
    # Box and Muller, "A note on the generation of random normal deviates", 1958.
    inside = op.subtract(scalar(1, f32), _uniform(cx, shape))  # in (0, 1]
    radius = op.sqrt(op.multiply(scalar(-2, f32), op.log(inside)))
    angle = op.multiply(_uniform(cx, shape, stream=1), scalar(2 * math.pi, f32))
    normal = op.multiply(radius, op.cosine(angle))
    spread = op.multiply(normal, scalar(cx.attr("scale", 1.0), f32))
    return as_dtype(op.add(spread, scalar(cx.attr("mean", 0.0), f32)), dtype)


@onnx_op("RandomUniform", "RandomNormal")
def random(cx: NodeContext) -> Value:
    return _random(cx, cx.attr("shape"), element_type(cx.attr("dtype", 1), "attribute 'dtype'"))


@onnx_op("RandomUniformLike", "RandomNormalLike")
def random_like(cx: NodeContext, like: Value) -> Value:
    dtype = like.tensor.dtype
    if cx.has("dtype"):
        dtype = element_type(cx.attr("dtype"), "attribute 'dtype'")
    return _random(cx, like.shape, dtype)


@onnx_op("Bernoulli")
def bernoulli(cx: NodeContext, probability: Value) -> Value:
    """1 with the probability that each element gives."""
    dtype = probability.tensor.dtype
    if cx.has("dtype"):
        dtype = element_type(cx.attr("dtype"), "attribute 'dtype'")
    draw = _uniform(cx, probability.shape)
    return as_dtype(op.compare(draw, as_dtype(probability, f32), direction="LT"), dtype)
