"""Products of quantised tensors are summed as integers, exactly, from the bytes themselves.

Models say it in two ways: a contraction of dequantised floats, or of i32 from which the zero
points were subtracted. Both become a contraction of unsigned by signed bytes into i32, which leaves
the zero point of the activations to one correction per output channel:

    sum (x - z) w = sum x w - z sum w

Padding then is made of zero points. Scales, which are constants, are multiplied with each other and
applied once, behind the sums. What has several groups of channels is contracted in f32, where that
is exact. Weights are constants; products of two activations stay as they are.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-
Arithmetic-Only Inference", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from tilth.compiler.match import rebuild
from tilth.ir.graph import Node, Value, constant_of, make_constant
from tilth.ir.ops.helpers import align, as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.rewrite import P, Rule, any_, constant
from tilth.ir.types import f32, i8, i32, u8

_QUAD = 4  # bytes of the depth that are taken at once
_EXACT = 1 << 24  # sums of integers up to this are exact in f32, in any order
_LARGEST = 1 << 31
_STEPS = 255  # the most by which a byte differs from its zero point


@dataclass(frozen=True)
class _Weights:
    """Integer weights, their contracted dimensions, and where the channels go in the result."""

    array: np.ndarray
    contracted: tuple[int, ...]
    channel_axis: int

    @property
    def sums(self) -> np.ndarray:
        """Per output channel."""
        return self.array.sum(self.contracted)

    @property
    def bound(self) -> int:
        """What no sum of products with bytes exceeds."""
        return int(abs(self.array).sum(self.contracted).max(initial=0)) * _STEPS


def _weights_of(contraction: Node, array: np.ndarray) -> _Weights | None:
    """`array` as the weights of a contraction; None where its form is not one of a layer's."""
    attrs, rank = contraction.attrs, contraction.outputs[0].tensor.rank
    array = array.astype(np.int64)
    if contraction.op == "convolution":
        if attrs["layout"] != "channels_first" or set(attrs["lhs_dilation"]) > {1}:
            return None
        return _Weights(array, tuple(range(1, array.ndim)), 1)
    last = (contraction.inputs[0].tensor.rank - 1,)
    if array.ndim != 2 or attrs["lhs_batch"] or attrs["lhs_contract"] != last:
        return None
    return _Weights(array, attrs["rhs_contract"], rank - 1)


# Sums of integers


def sums_of_products(contraction: Node, x: Value, zero: Value, array: np.ndarray) -> Value | None:
    """The i32 sums of (x - zero) * weights; None where no exact and fast form is known.

    `x` has 8 bits and `zero` is a scalar of its type.
    """
    weights = _weights_of(contraction, array)
    if weights is None or weights.bound >= _LARGEST:
        return None
    if contraction.op == "convolution" and contraction.attrs["groups"] > 1:
        return _in_float(contraction, x, zero, weights)
    low, high = weights.array.min(initial=0), weights.array.max(initial=0)
    if low < -_STEPS or high > _STEPS:
        return None
    return _from_bytes(contraction, x, zero, weights)


def _in_float(contraction: Node, x: Value, zero: Value, weights: _Weights) -> Value | None:
    """The same in f32, if no sum can be too large to be exact."""
    if weights.bound > _EXACT:
        return None
    centred = op.subtract(as_dtype(x, f32), as_dtype(zero, f32))
    real = make_constant(weights.array.astype(np.float32), contraction.inputs[1].node.name)
    attrs = {**contraction.attrs, "dtype": None}
    return as_dtype(op.convolution(centred, real, **attrs), i32)


def _from_bytes(contraction: Node, x: Value, zero: Value, weights: _Weights) -> Value:
    x, zero = _unsigned(x), _unsigned(zero)
    name = contraction.inputs[1].node.name
    near = np.clip(weights.array, -128, 127)
    parts = [near, weights.array - near] if (near != weights.array).any() else [near]
    products = _convolved if contraction.op == "convolution" else _multiplied
    total = reduce(op.add, products(contraction, x, zero, [p.astype(np.int8) for p in parts], name))
    sums = make_constant(weights.sums.astype(np.int32))
    shift = op.multiply(align(sums, weights.channel_axis, total.tensor.rank), as_dtype(zero, i32))
    return op.subtract(total, shift)


def _unsigned(x: Value) -> Value:
    """A byte as u8: signed ones moved up by 128."""
    if x.tensor.dtype == u8:
        return x
    return op.bitcast_convert(op.xor(x, make_constant(np.array(-128, np.int8))), dtype=u8)


def _multiplied(
    dot: Node, x: Value, zero: Value, parts: list[np.ndarray], name: str
) -> list[Value]:
    """x times each of the weights, the depth padded to whole quads."""
    missing = -x.shape[-1] % _QUAD
    (along,) = dot.attrs["rhs_contract"]
    if missing:
        last = (0,) * (x.tensor.rank - 1)
        still = (*last, 0)
        x = op.pad(x, zero, low=still, high=(*last, missing), interior=still)
        parts = [np.pad(p, [(0, missing * (axis == along)) for axis in (0, 1)]) for p in parts]
    attrs = {**dot.attrs, "dtype": i32}
    return [op.dot_general(x, make_constant(part, name), **attrs) for part in parts]


def _convolved(
    convolution: Node, x: Value, zero: Value, parts: list[np.ndarray], name: str
) -> list[Value]:
    """x convolved with each of the weights: padded with zero points, and to whole quads of
    channels, which must then lie next to each other."""
    spatial = list(range(2, x.tensor.rank))
    missing = -x.shape[1] % _QUAD
    low, high = zip((0, 0), *convolution.attrs["padding"], (0, missing), strict=True)
    x = op.transpose(x, permutation=(0, *spatial, 1))
    if any((*low, *high)):
        x = op.pad(x, zero, low=low, high=high, interior=(0,) * len(low))
    attrs = {
        **convolution.attrs,
        "padding": ((0, 0),) * len(spatial),
        "layout": "channels_last",
        "dtype": i32,
    }
    results = []
    for part in parts:
        w = np.pad(part, [(0, missing * (axis == 1)) for axis in range(part.ndim)])
        w = np.ascontiguousarray(w.transpose(*spatial, 1, 0))
        y = op.convolution(x, make_constant(w, name), **attrs)
        back = (0, len(spatial) + 1, *range(1, len(spatial) + 1))
        results.append(op.transpose(y, permutation=back))
    return results


# Contractions of i32


def centred_operands(node: Node, x: Value, w: Value) -> Value | None:
    """contract(convert(x) - z, w) of i32 -> from the bytes of x"""
    if node.types[0].dtype != i32 or w.tensor.dtype != i32:  # type: ignore[union-attr]
        return None
    found, array = _bytes_of(x), constant_of(w)
    if found is None or array is None:
        return None
    return sums_of_products(node, *found, array)


def _bytes_of(x: Value) -> tuple[Value, Value] | None:
    """The bytes and the zero point that i32 values, perhaps moved around, were made from."""
    if x.op in ("reshape", "transpose"):
        found = _bytes_of(x.node.inputs[0])
        return found and (rebuild(x.node, (found[0],))[0], found[1])
    wide, zero = x, None
    if x.op == "subtract":
        wide, shift = x.node.inputs
        zero = _narrow_zero(shift, wide)
        if zero is None:
            return None
    if wide.op != "convert" or wide.shape != x.shape:
        return None
    (narrow,) = wide.node.inputs
    if narrow.tensor.dtype not in (u8, i8):
        return None
    return narrow, zero or make_constant(np.zeros((), narrow.tensor.dtype.numpy))


def _narrow_zero(shift: Value, x: Value) -> Value | None:
    """A zero point of i32 as a scalar of what `x` was converted from; None if it is none."""
    if shift.tensor.size != 1 or x.op != "convert":
        return None
    dtype = x.node.inputs[0].tensor.dtype
    array = constant_of(shift)
    if array is not None:
        number = int(array.reshape(()))
        limits = np.iinfo(dtype.numpy) if dtype in (u8, i8) else None
        if limits is None or not limits.min <= number <= limits.max:
            return None
        return make_constant(np.array(number, dtype.numpy))
    while shift.op == "reshape":
        (shift,) = shift.node.inputs
    if shift.op != "convert" or shift.node.inputs[0].tensor.dtype != dtype:
        return None
    return as_shape(shift.node.inputs[0], ())


# Contractions of dequantised floats


def dequantised_operands(node: Node, x: Value, w: Value) -> Value | None:
    """contract(dequantize(x), dequantize(w)) -> sums of integers, scaled once"""
    moves = []
    while x.op in ("reshape", "transpose"):
        moves.append(x.node)
        (x,) = x.node.inputs
    if x.op != "uniform_dequantize":
        return None
    q, x_scale, x_zero = x.node.inputs
    for move in reversed(moves):
        (q,) = rebuild(move, (q,))
    qw, w_scale, w_zero = (constant_of(v) for v in w.node.inputs)
    scale = constant_of(x_scale)
    if qw is None or w_scale is None or w_zero is None or scale is None:
        return None
    axis = w.node.attrs["axis"]
    if node.types[0].dtype != f32:  # type: ignore[union-attr]
        return None
    if x.node.attrs["axis"] is not None or q.tensor.dtype not in (u8, i8):
        return None
    if axis is not None:
        form = [-1 if d == axis else 1 for d in range(qw.ndim)]
        w_zero = w_zero.reshape(form)
    centred = qw.astype(np.int64) - w_zero.astype(np.int64)
    weights = _weights_of(node, centred)
    if weights is None or (axis is not None and axis in weights.contracted):
        return None
    total = sums_of_products(node, q, x_zero, centred)
    if total is None:
        return None
    factor = make_constant(scale * w_scale)
    if axis is not None:
        factor = _aligned(factor, weights.channel_axis, total.tensor.rank)
    return op.multiply(as_dtype(total, f32), factor)


def _aligned(vector: Value, axis: int, rank: int) -> Value:
    array = constant_of(vector)
    assert array is not None
    return make_constant(array.reshape([-1 if d == axis else 1 for d in range(rank)]))


def integer_bias(node: Node, total: Value, factor: Value, bias: Value) -> Value | None:
    """convert(n) * s + b * s -> convert(n + b) * s"""
    shape = bias.shape
    while bias.op == "reshape":
        (bias,) = bias.node.inputs
    if bias.op != "uniform_dequantize" or total.shape != node.outputs[0].shape:
        return None
    b, scale, zero = (constant_of(v) for v in bias.node.inputs)
    if b is None or scale is None or zero is None or b.dtype != np.int32 or zero.any():
        return None
    s = constant_of(factor)
    assert s is not None
    same = s.size in (1, scale.size) or scale.size == 1
    if not same or not (s.reshape(-1) == scale.reshape(-1)).all():
        return None
    whole = op.add(total, make_constant(b.reshape(shape)))
    return op.multiply(as_dtype(whole, f32), factor)


def requantisation(node: Node, x: Value, scale: Value) -> Value | None:
    """quantize(convert(n) * s, t) -> quantize(convert(n) * (s / t), 1), perhaps with a relu"""
    t = constant_of(scale)
    if t is None or node.attrs["axis"] is not None or t == 1:
        return None
    inner = x.node.inputs[0] if x.op == "relu" else x
    if inner.op != "multiply":
        return None
    total, factor = inner.node.inputs
    s = constant_of(factor)
    if s is None or total.op != "convert" or total.node.inputs[0].tensor.dtype != i32:
        return None
    real = op.multiply(total, make_constant(s / t))
    real = op.relu(real) if x.op == "relu" else real
    one, zero = make_constant(np.ones((), t.dtype)), node.inputs[2]
    return op.uniform_quantize(real, one, zero, dtype=node.attrs["dtype"], axis=None)


def same_quantisation(node: Node, x: Value) -> Value | None:
    """quantize(dequantize(x, s, z), s, z) -> x"""
    old, new = x.node.inputs[1:], node.inputs[1:]
    q = x.node.inputs[0]
    if q.type != node.types[0] or x.node.attrs["axis"] != node.attrs["axis"]:
        return None
    if q.tensor.dtype.bits > 8 or not all(map(_equal, old, new)):
        return None
    return q


def _equal(a: Value, b: Value) -> bool:
    """Are they one value, or constants with equal elements?"""
    first, second = constant_of(a), constant_of(b)
    return a == b or (first is not None and second is not None and np.array_equal(first, second))


_PRODUCTS = P["convolution", "dot_general"]
_QUANTISED = any_("x").where(lambda v: v.op == "uniform_dequantize")
_SCALED = P.multiply(
    P.convert(any_("total").where(lambda v: v.tensor.dtype == i32)), constant("factor")
)

RULES = (
    Rule("centred products", _PRODUCTS(any_("x"), constant("w")), centred_operands),
    Rule(
        "dequantised products",
        _PRODUCTS(any_("x"), any_("w").where(lambda v: v.op == "uniform_dequantize")),
        dequantised_operands,
    ),
    Rule("integer bias", P.add(_SCALED, any_("bias")), integer_bias),
    Rule(
        "requantisation", P.uniform_quantize(any_("x"), constant("scale"), any_()), requantisation
    ),
    Rule("same quantisation", P.uniform_quantize(_QUANTISED, any_(), any_()), same_quantisation),
)
