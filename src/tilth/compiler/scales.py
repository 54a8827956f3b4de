"""Folding of constant scales and shifts into the linear op before them.

Batch normalisation at inference is a multiplication and an addition per channel. Behind a
convolution or a dense layer with constant weights, the multiplication goes into the weights and
the additions become one bias; chains of constant scales and shifts elsewhere become one of each.
Results change by rounding only.
"""

from __future__ import annotations

import math

from tilth.compiler.fold import folded
from tilth.compiler.match import is_constant, rebuild
from tilth.ir.graph import Node, Value
from tilth.ir.ops.checks import broadcast_shapes
from tilth.ir.ops.helpers import as_shape, scalar
from tilth.ir.ops.table import op
from tilth.ir.rewrite import P, Rule, constant, once


def scale_into_linear(node: Node, y: Value, scale: Value) -> Value | None:
    """contract(x, w) * s -> contract(x, w * s), and (x * a) * s -> x * (a * s)"""
    if y.shape != node.outputs[0].shape:
        return None
    x, factor = y.node.inputs
    if y.op == "multiply":
        x, factor = (x, factor) if is_constant(factor) else (factor, x)
        return op.multiply(x, folded(op.multiply(factor, scale))) if _fits(factor, scale) else None
    shape = _along_weights(y.node, scale)
    if shape is None:
        return None
    scaled = op.multiply(factor, as_shape(scale, shape), name=factor.node.name)
    return rebuild(y.node, (x, folded(scaled)))[0]


def scale_before_bias(node: Node, y: Value, bias: Value, scale: Value) -> Value | None:
    """(y + b) * s -> y * s + b * s, where the scale can go further into y"""
    if y.shape != node.outputs[0].shape or not _fits(bias, scale):
        return None
    if y.op != "multiply" and _along_weights(y.node, scale) is None:
        return None
    return op.add(op.multiply(y, scale), folded(op.multiply(bias, scale)))


def one_bias(node: Node, y: Value, bias: Value, other: Value) -> Value | None:
    """(y + b) + c -> y + (b + c)"""
    if y.shape != node.outputs[0].shape or not _fits(bias, other):
        return None
    return op.add(y, folded(op.add(bias, other)))


def subtraction_as_bias(y: Value, shift: Value) -> Value:
    """y - c -> y + -c"""
    return op.add(y, folded(op.negate(shift)))


def division_as_scale(y: Value, divisor: Value) -> Value:
    """y / c -> y * (1 / c)"""
    return op.multiply(y, folded(op.divide(scalar(1, divisor), divisor)))


def _is_linear(y: Value) -> bool:
    """Whether y is a float contraction with constant weights, or a product with a constant."""
    if not y.tensor.dtype.is_float:
        return False
    if y.op == "multiply":
        return any(is_constant(v) for v in y.node.inputs)
    if y.op == "dot_general" and y.node.attrs["rhs_batch"]:
        return False
    return y.op in ("convolution", "dot_general") and is_constant(y.node.inputs[1])


def _is_affine(y: Value) -> bool:
    return _is_linear(y) or (y.op == "add" and any(_is_linear(v) for v in y.node.inputs))


def _fits(a: Value, b: Value) -> bool:
    """Whether combining two constants gives nothing bigger than the bigger of them."""
    return math.prod(broadcast_shapes(a.shape, b.shape)) <= max(a.tensor.size, b.tensor.size)


def _along_weights(contraction: Node, scale: Value) -> tuple[int, ...] | None:
    """The shape in which a per-output-channel constant multiplies the weights; None if it is not.

    Output channels are the free dimensions of the weights, in order, in the result.
    """
    weights, result = contraction.inputs[1], contraction.outputs[0]
    if contraction.op == "dot_general":
        contracted = contraction.attrs["rhs_contract"]
        channels = [d for d in range(weights.tensor.rank) if d not in contracted]
        axes = list(range(result.tensor.rank - len(channels), result.tensor.rank))
    elif contraction.attrs["layout"] == "channels_first":
        channels, axes = [0], [1]
    else:
        channels, axes = [weights.tensor.rank - 1], [result.tensor.rank - 1]
    sizes = (1,) * (result.tensor.rank - scale.tensor.rank) + scale.shape
    if any(n != 1 for d, n in enumerate(sizes) if d not in axes):
        return None
    size_of = dict(zip(channels, (sizes[a] for a in axes), strict=True))
    return tuple(size_of.get(d, 1) for d in range(weights.tensor.rank))


_ANY = P["multiply", "add", "convolution", "dot_general"]
_LINEAR = once(_ANY.where(_is_linear).named("y"))
_AFFINE = _ANY.where(_is_affine).named("y")
_SHIFTED = once(P.add(_LINEAR, constant("bias")))

RULES = (
    Rule("scale into linear op", P.multiply(_LINEAR, constant("scale")), scale_into_linear),
    Rule("scale before bias", P.multiply(_SHIFTED, constant("scale")), scale_before_bias),
    Rule("one bias", P.add(_SHIFTED, constant("other")), one_bias),
    Rule("subtraction as bias", P.subtract(_AFFINE, constant("shift")), subtraction_as_bias),
    Rule("division as scale", P.divide(_AFFINE, constant("divisor")), division_as_scale),
)
