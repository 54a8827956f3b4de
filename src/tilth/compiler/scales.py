"""Folding of constant scales and shifts into the contraction before them.

Batch normalisation at inference is a multiplication and an addition per channel. Behind a
convolution or a dense layer with constant weights, the multiplication goes into the weights and
the additions become one bias. Results change by rounding only.
"""

from __future__ import annotations

from tilth.compiler.fold import folded
from tilth.compiler.match import is_constant, rebuild
from tilth.ir.graph import Node, Value
from tilth.ir.ops.helpers import as_shape, scalar
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule, Uses


def scale_into_weights(node: Node, uses: Uses) -> Value | None:
    """contract(x, w) * s -> contract(x, w * s), for s a scalar or one per output channel."""
    for y, scale in (node.inputs, node.inputs[::-1]):
        if is_constant(scale) and _has_constant_weights(y, uses) and _fits(y, scale, node):
            shape = _along_weights(y.node, scale)
            if shape is not None:
                x, weights = y.node.inputs
                scaled = folded(
                    op.multiply(weights, as_shape(scale, shape), name=weights.node.name)
                )
                return rebuild(y.node, (x, scaled))[0]
    return None


def scale_before_bias(node: Node, uses: Uses) -> Value | None:
    """(contract(x, w) + b) * s -> contract(x, w) * s + b * s"""
    for shifted, scale in (node.inputs, node.inputs[::-1]):
        if not is_constant(scale) or not _fits(shifted, scale, node) or uses(shifted) > 1:
            continue
        found = _contraction_and_bias(shifted, uses)
        if found is not None:
            y, bias = found
            if _along_weights(y.node, scale) is not None:
                scaled = op.multiply(y, scale)
                return op.add(scaled, folded(op.multiply(bias, scale)))
    return None


def one_bias(node: Node, uses: Uses) -> Value | None:
    """(contract(x, w) + b) + c -> contract(x, w) + (b + c)"""
    for shifted, other in (node.inputs, node.inputs[::-1]):
        if not is_constant(other) or not _fits(shifted, other, node) or uses(shifted) > 1:
            continue
        found = _contraction_and_bias(shifted, uses)
        if found is not None:
            y, bias = found
            return op.add(y, folded(op.add(bias, other)))
    return None


def subtraction_as_bias(node: Node, uses: Uses) -> Value | None:
    """y - c -> y + -c, for y a contraction with or without bias."""
    y, shift = node.inputs
    linear = _has_constant_weights(y, uses) or _contraction_and_bias(y, uses) is not None
    if linear and is_constant(shift) and y.tensor.dtype.is_float:
        return op.add(y, folded(op.negate(shift)))
    return None


def division_as_scale(node: Node, uses: Uses) -> Value | None:
    """y / c -> y * (1 / c), for y a contraction with or without bias."""
    y, divisor = node.inputs
    linear = _has_constant_weights(y, uses) or _contraction_and_bias(y, uses) is not None
    if linear and is_constant(divisor) and y.tensor.dtype.is_float:
        reciprocal = folded(op.divide(scalar(1, divisor), divisor))
        return op.multiply(y, reciprocal)
    return None


def _has_constant_weights(y: Value, uses: Uses) -> bool:
    """A float contraction with constant weights that nothing else reads."""
    if y.op not in ("convolution", "dot_general") or not y.tensor.dtype.is_float:
        return False
    if y.op == "dot_general" and y.node.attrs["rhs_batch"]:
        return False
    return is_constant(y.node.inputs[1]) and uses(y) == 1


def _contraction_and_bias(value: Value, uses: Uses) -> tuple[Value, Value] | None:
    if value.op != "add":
        return None
    for y, bias in (value.node.inputs, value.node.inputs[::-1]):
        if is_constant(bias) and _has_constant_weights(y, uses) and y.shape == value.shape:
            return y, bias
    return None


def _fits(y: Value, constant: Value, node: Node) -> bool:
    """Whether the constant does not broadcast `y` to something bigger."""
    return y.shape == node.outputs[0].shape and constant.tensor.rank <= y.tensor.rank


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


RULES = (
    Rule("scale into weights", ("multiply",), scale_into_weights),
    Rule("scale before bias", ("multiply",), scale_before_bias),
    Rule("one bias", ("add",), one_bias),
    Rule("subtraction as bias", ("subtract",), subtraction_as_bias),
    Rule("division as scale", ("divide",), division_as_scale),
)
