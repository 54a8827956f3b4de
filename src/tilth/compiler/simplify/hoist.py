"""Elementwise ops move before the movement of their operand, as a table.

There they meet the op that computes the operand, and can become its epilogue; a scale can go
into its weights. Only bijections are crossed, and only when nothing else reads what is moved,
except for reshapes that add dimensions of size 1, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilth.compiler.match import is_constant, is_elementwise, is_scalar_constant, rebuild, reshaped
from tilth.compiler.reshapes import only_ones_differ
from tilth.ir.graph import Node, Value
from tilth.ir.ops.helpers import as_shape
from tilth.ir.rewrite import Rule, Uses


def elementwise_before_movement(node: Node, uses: Uses) -> Value | None:
    """f(move(x), scalar) -> move(f(x, scalar)), so that f meets the op that computes x."""
    moving = [v for v in node.inputs if not is_scalar_constant(v)]
    if len(moving) != 1 or moving[0].op not in ("reshape", "transpose") or uses(moving[0]) > 1:
        return None
    (moved,) = moving
    (x,) = moved.node.inputs
    if x.op in ("constant", "input") or moved.shape != node.outputs[0].shape:
        return None
    inputs = [x if v == moved else reshaped(v, ()) for v in node.inputs]
    return rebuild(moved.node, rebuild(node, inputs))[0]


def elementwise_before_alignment(node: Node, uses: Uses) -> Value | None:
    """f(reshape(x), y) -> reshape(f(x, reshape(y))) where the reshape only adds or drops ones."""
    shape = node.outputs[0].shape
    for i, value in enumerate(node.inputs):
        if value.op != "reshape" or value.shape != shape:
            continue
        (x,) = value.node.inputs
        if x.op in ("constant", "input") or not only_ones_differ(x.shape, shape):
            continue
        if x.tensor.rank >= len(shape) and (uses(value) > 1 or _has_other(node, value)):
            continue  # so that two operands never send each other back and forth
        others = [
            x if j == i else reshaped(v, _realigned(v.shape, shape, x.shape))
            for j, v in enumerate(node.inputs)
        ]
        return as_shape(rebuild(node, others)[0], shape)
    return None


def _has_other(node: Node, value: Value) -> bool:
    """Whether another operand is as big as this one."""
    return any(v != value and v.tensor.size == value.tensor.size for v in node.inputs)


def _realigned(shape: Sequence[int], full: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """The shape for an operand that broadcast to `full`, so that it broadcasts to `target`."""
    if not shape:
        return ()
    padded = (1,) * (len(full) - len(shape)) + tuple(shape)
    sizes = iter([n for n, f in zip(padded, full, strict=True) if f != 1])
    return tuple(1 if t == 1 else next(sizes) for t in target)


def channelwise_before_shuffle(node: Node, uses: Uses) -> Value | None:
    """f(shuffle(y), one per channel) -> shuffle(f(y, one per channel)), to fuse f with y's op."""
    moving = [v for v in node.inputs if not is_constant(v)]
    if len(moving) != 1 or moving[0].op != "reshape" or uses(moving[0]) > 1:
        return None
    (result,) = moving
    moved = result.node.inputs[0]
    if moved.op != "transpose" or uses(moved) > 1 or result.shape != node.outputs[0].shape:
        return None
    (y,) = moved.node.inputs
    last = y.tensor.rank - 1
    if moved.node.attrs["permutation"][-1] != last or y.shape[-1] != result.shape[-1]:
        return None
    if any(v.tensor.size not in (1, v.shape[-1]) for v in node.inputs if is_constant(v)):
        return None
    inputs = [
        y if v == result else reshaped(v, v.shape[-1:] if v.tensor.rank else ())
        for v in node.inputs
    ]
    inner = rebuild(node, inputs)[0]
    return rebuild(result.node, rebuild(moved.node, (inner,)))[0]


def elementwise_before_concatenate(node: Node, uses: Uses) -> Value | None:
    """f(concatenate(xs), scalar) -> concatenate(f(x, scalar) for each x)"""
    moving = [v for v in node.inputs if not is_scalar_constant(v)]
    if len(moving) != 1 or moving[0].op != "concatenate" or uses(moving[0]) > 1:
        return None
    (joined,) = moving
    if joined.shape != node.outputs[0].shape:
        return None
    parts = [
        rebuild(node, [x if v == joined else reshaped(v, ()) for v in node.inputs])[0]
        for x in joined.node.inputs
    ]
    return rebuild(joined.node, parts)[0]


RULES = (
    Rule("elementwise before movement", is_elementwise, elementwise_before_movement),
    Rule("elementwise before alignment", is_elementwise, elementwise_before_alignment),
    Rule("elementwise before concatenate", is_elementwise, elementwise_before_concatenate),
    Rule("elementwise before shuffle", is_elementwise, channelwise_before_shuffle),
)
