"""Explicit padding: convolutions and windows read a padded tensor instead of checking edges.

The padding of a convolution becomes a `pad` node with zeros (with interior zeros where it dilates
its operand), that of a window one with the reduction's neutral element. Users of the same padded
tensor share it through common subexpressions. A max window over values that cannot be negative
pads with zero too, so that it shares with convolutions.
"""

from __future__ import annotations

import numpy as np

from tilth.compiler.match import rebuild
from tilth.compiler.ranges import is_non_negative
from tilth.ir.graph import Node, Value, make_constant
from tilth.ir.ops.numerics import identity
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule


def pad_convolution(node: Node) -> Value | None:
    """convolution(x, padding, lhs_dilation) -> convolution(pad(x))"""
    x, weights = node.inputs
    spatial, dilation = node.attrs["padding"], node.attrs["lhs_dilation"]
    if not any(p for pair in spatial for p in pair) and set(dilation) <= {1}:
        return None
    first = 2 if node.attrs["layout"] == "channels_first" else 1
    padding = [(0, 0)] * x.tensor.rank
    interior = [0] * x.tensor.rank
    padding[first : first + len(spatial)] = spatial
    interior[first : first + len(spatial)] = [d - 1 for d in dilation]
    padded = _pad(x, np.zeros((), x.tensor.dtype.numpy), padding, interior)
    none = {"padding": ((0, 0),) * len(spatial), "lhs_dilation": (1,) * len(spatial)}
    return rebuild(node, (padded, weights), **none)[0]


def pad_window(node: Node) -> Value | None:
    """reduce_window(x, padding, base_dilation) -> reduce_window(pad(x))"""
    (x,), attrs = node.inputs, node.attrs
    padding, dilation = attrs["padding"], attrs["base_dilation"]
    if not any(p for pair in padding for p in pair) and set(dilation) <= {1}:
        return None
    element = identity(attrs["kind"], x.tensor.dtype.numpy)
    if attrs["kind"] == "max" and _zero_is_neutral(node):
        element = np.zeros((), element.dtype)
    padded = _pad(x, element, padding, [d - 1 for d in dilation])
    ones = (1,) * x.tensor.rank
    none = {"padding": ((0, 0),) * x.tensor.rank, "base_dilation": ones}
    return rebuild(node, (padded,), **none)[0]


def _pad(x: Value, element: np.ndarray, padding, interior) -> Value:
    low, high = zip(*padding, strict=True)
    return op.pad(x, make_constant(element), low=low, high=high, interior=tuple(interior))


def _zero_is_neutral(node: Node) -> bool:
    """No operand element is negative, and every window holds at least one of them."""
    attrs = node.attrs
    narrow = all(
        max(pair) < window and dilation == 1
        for pair, window, dilation in zip(
            attrs["padding"], attrs["window"], attrs["window_dilation"], strict=True
        )
    )
    return narrow and set(attrs["base_dilation"]) <= {1} and is_non_negative(node.inputs[0])


RULES = (
    Rule("pad convolution", ("convolution",), pad_convolution),
    Rule("pad window", ("reduce_window",), pad_window),
)
