"""Simplifications of movement ops (reshape, transpose, slice, pad, concatenate ...), as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilth.compiler.fold import folded
from tilth.compiler.match import is_elementwise, rebuild, reshaped, splat_of, transposed
from tilth.compiler.reshapes import only_ones_differ
from tilth.ir.graph import Node, Value
from tilth.ir.ops.helpers import as_shape
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule, Uses


def no_movement(node: Node) -> Value | None:
    """A movement op that gives its operand unchanged."""
    x, attrs = node.inputs[0], node.attrs
    if x.shape != node.outputs[0].shape:
        return None
    match node.op:
        case "transpose":
            same = attrs["permutation"] == tuple(range(x.tensor.rank))
        case "reverse":
            same = all(x.shape[a] == 1 for a in attrs["axes"])
        case "pad":
            same = not any((*attrs["low"], *attrs["high"], *attrs["interior"]))
        case "broadcast_in_dim":
            same = attrs["dims"] == tuple(range(x.tensor.rank))
        case "reshape" | "slice" | "concatenate":
            same = True
        case _:
            same = False
    return x if same else None


def reshape_of_reshape(node: Node) -> Value | None:
    inner = node.inputs[0].node
    if inner.op != "reshape":
        return None
    return op.reshape(inner.inputs[0], shape=node.attrs["shape"])


def transpose_of_transpose(node: Node) -> Value | None:
    inner = node.inputs[0].node
    if inner.op != "transpose":
        return None
    first = inner.attrs["permutation"]
    return transposed(inner.inputs[0], [first[d] for d in node.attrs["permutation"]])


def transpose_of_ones(node: Node) -> Value | None:
    """A transpose that only moves dimensions of size 1 is a reshape."""
    moved = transposed(node.inputs[0], node.attrs["permutation"])
    return moved if moved.op != "transpose" else None


def reverse_of_reverse(node: Node) -> Value | None:
    inner = node.inputs[0].node
    if inner.op != "reverse":
        return None
    axes = set(node.attrs["axes"]) ^ set(inner.attrs["axes"])
    return op.reverse(inner.inputs[0], axes=tuple(sorted(axes))) if axes else inner.inputs[0]


def slice_of_slice(node: Node) -> Value | None:
    inner = node.inputs[0].node
    if inner.op != "slice":
        return None
    a, b = inner.attrs, node.attrs
    start = _each(lambda s, step, t: s + step * t, a["start"], a["strides"], b["start"])
    # the last element that is taken, plus one
    limit = _each(
        lambda s, step, low, high, u: s + step * (low + (high - 1 - low) // u * u) + 1,
        *(a["start"], a["strides"], b["start"], b["limit"], b["strides"]),
    )
    strides = _each(lambda s, t: s * t, a["strides"], b["strides"])
    if 0 in node.outputs[0].shape:
        return None
    return op.slice(inner.inputs[0], start=start, limit=limit, strides=strides)


def slice_of_concatenate(node: Node) -> Value | None:
    """A slice that lies within one operand of a concatenation is a slice of that operand."""
    inner = node.inputs[0].node
    if inner.op != "concatenate":
        return None
    axis, begin = inner.attrs["axis"], 0
    start, limit = node.attrs["start"], node.attrs["limit"]
    for part in inner.inputs:
        end = begin + part.shape[axis]
        if begin <= start[axis] and limit[axis] <= end and start[axis] < limit[axis]:
            shift = [begin if d == axis else 0 for d in range(part.tensor.rank)]
            attrs = {
                "start": _each(lambda a, b: a - b, start, shift),
                "limit": _each(lambda a, b: a - b, limit, shift),
            }
            return rebuild(node, (part,), **attrs)[0]
        begin = end
    return None


def slice_of_pad(node: Node) -> Value | None:
    """A slice that takes nothing of the padding."""
    inner = node.inputs[0].node
    if inner.op != "pad" or any(inner.attrs["interior"]):
        return None
    (x, _), low = inner.inputs, inner.attrs["low"]
    start = _each(lambda s, p: s - p, node.attrs["start"], low)
    limit = _each(lambda s, p: s - p, node.attrs["limit"], low)
    inside = all(s >= 0 and e <= n for s, e, n in zip(start, limit, x.shape, strict=True))
    return rebuild(node, (x,), start=start, limit=limit)[0] if inside else None


def pad_of_pad(node: Node) -> Value | None:
    """Padding what was padded with the same value: one pad."""
    inner, value = node.inputs[0].node, splat_of(node.inputs[1])
    if inner.op != "pad" or any((*inner.attrs["interior"], *node.attrs["interior"])):
        return None
    if value is None or (other := splat_of(inner.inputs[1])) is None:
        return None
    sides = [*inner.attrs["low"], *inner.attrs["high"], *node.attrs["low"], *node.attrs["high"]]
    if value.tobytes() != other.tobytes() or min(sides) < 0:
        return None
    attrs = {k: _each(lambda a, b: a + b, inner.attrs[k], node.attrs[k]) for k in ("low", "high")}
    return rebuild(node, inner.inputs, **attrs)[0]


def nested_concatenate(node: Node, uses: Uses) -> Value | None:
    """Concatenation along the same axis of one that nothing else reads."""
    axis = node.attrs["axis"]

    def parts(value: Value) -> tuple[Value, ...]:
        nested = value.op == "concatenate" and value.node.attrs["axis"] == axis
        return value.node.inputs if nested and uses(value) == 1 else (value,)

    flat = [p for value in node.inputs for p in parts(value) if p.shape[axis]] or node.inputs[:1]
    return rebuild(node, flat)[0] if tuple(flat) != node.inputs else None


def broadcast_of_ones(node: Node) -> Value | None:
    """A broadcast that only adds dimensions of size 1 is a reshape."""
    (x,) = node.inputs
    dims = node.attrs["dims"]
    if x.tensor.size == node.outputs[0].tensor.size and list(dims) == sorted(dims):
        return as_shape(x, node.outputs[0].shape)
    return None


def broadcast_of_broadcast(node: Node) -> Value | None:
    inner = node.inputs[0].node
    if inner.op != "broadcast_in_dim":
        return None
    dims = tuple(node.attrs["dims"][d] for d in inner.attrs["dims"])
    return rebuild(node, inner.inputs, dims=dims)[0]


def broadcast_into_elementwise(node: Node) -> Value | None:
    """Elementwise ops broadcast by themselves: an explicit broadcast becomes a reshape."""
    shape = node.outputs[0].shape
    for i, value in enumerate(node.inputs):
        aligned = _before_broadcast(value) if value.op == "broadcast_in_dim" else None
        if aligned is not None:
            inputs = (*node.inputs[:i], aligned, *node.inputs[i + 1 :])
            if np.broadcast_shapes(*(v.shape for v in inputs)) == shape:
                return rebuild(node, inputs)[0]
    return None


def _before_broadcast(value: Value) -> Value | None:
    """The operand of a broadcast_in_dim, with dimensions of size 1 where it was expanded."""
    (x,), dims = value.node.inputs, value.node.attrs["dims"]
    if x.tensor.size == 1:
        return reshaped(x, ())
    if list(dims) != sorted(dims):
        return None
    sizes = dict(zip(dims, x.shape, strict=True))
    return as_shape(x, tuple(sizes.get(d, 1) for d in range(value.tensor.rank)))


def reduce_of_ones(node: Node) -> Value | None:
    """Reducing dimensions of size 1 is a reshape."""
    (x,) = node.inputs
    if all(x.shape[a] == 1 for a in node.attrs["axes"]):
        return as_shape(x, node.outputs[0].shape)
    return None


def reduce_of_reduce(node: Node, uses: Uses) -> Value | None:
    """Two reductions of one kind, one after the other: one over the axes of both."""
    inner = node.inputs[0].node
    if inner.op != "reduce" or inner.attrs["kind"] != node.attrs["kind"]:
        return None
    if uses(node.inputs[0]) > 1:
        return None
    (x,) = inner.inputs
    kept = [d for d in range(x.tensor.rank) if d not in inner.attrs["axes"]]
    axes = {*inner.attrs["axes"], *(kept[a] for a in node.attrs["axes"])}
    return rebuild(node, (x,), axes=tuple(sorted(axes)))[0]


def reduce_of_alignment(node: Node) -> Value | None:
    """A reduction does not need dimensions of size 1 that a reshape put beside its axes."""
    inner = node.inputs[0].node
    if inner.op != "reshape":
        return None
    (x,), axes = inner.inputs, set(node.attrs["axes"])
    if not only_ones_differ(x.shape, inner.attrs["shape"]) or x.tensor.rank >= len(
        inner.attrs["shape"]
    ):
        return None
    wide = [d for d, n in enumerate(inner.attrs["shape"]) if n != 1]
    own = [d for d, n in enumerate(x.shape) if n != 1]
    moved = tuple(mine for mine, d in zip(own, wide, strict=True) if d in axes)
    (value,) = rebuild(node, (x,), axes=moved)
    return as_shape(value, node.outputs[0].shape)


def window_of_ones(node: Node) -> Value | None:
    """A window of one element and stride one, without padding."""
    attrs = node.attrs
    ones = (*attrs["window"], *attrs["strides"], *attrs["base_dilation"])
    if set(ones) <= {1} and not any(p for pair in attrs["padding"] for p in pair):
        return node.inputs[0]
    return None


def iota_is_a_line(node: Node) -> Value:
    """Coordinates along one axis are a constant vector, broadcast."""
    dtype, shape, axis = (node.attrs[name] for name in ("dtype", "shape", "axis"))
    line = folded(op.iota(dtype=dtype, shape=shape[axis : axis + 1], axis=0))
    return line if len(shape) == 1 else op.broadcast_in_dim(line, shape=shape, dims=(axis,))


def _each(fn, *columns: Sequence[int]) -> tuple[int, ...]:
    return tuple(fn(*row) for row in zip(*columns, strict=True))


_MOVEMENT = ("reshape", "transpose", "slice", "reverse", "pad", "broadcast_in_dim", "concatenate")

RULES = (
    Rule("no movement", _MOVEMENT, no_movement),
    Rule("reshape of reshape", ("reshape",), reshape_of_reshape),
    Rule("transpose of transpose", ("transpose",), transpose_of_transpose),
    Rule("transpose of ones", ("transpose",), transpose_of_ones),
    Rule("reverse of reverse", ("reverse",), reverse_of_reverse),
    Rule("slice of slice", ("slice",), slice_of_slice),
    Rule("slice of concatenate", ("slice",), slice_of_concatenate),
    Rule("slice of pad", ("slice",), slice_of_pad),
    Rule("pad of pad", ("pad",), pad_of_pad),
    Rule("nested concatenate", ("concatenate",), nested_concatenate),
    Rule("broadcast of ones", ("broadcast_in_dim",), broadcast_of_ones),
    Rule("broadcast of broadcast", ("broadcast_in_dim",), broadcast_of_broadcast),
    Rule("broadcast into elementwise", is_elementwise, broadcast_into_elementwise),
    Rule("reduce of ones", ("reduce",), reduce_of_ones),
    Rule("reduce of reduce", ("reduce",), reduce_of_reduce),
    Rule("reduce of alignment", ("reduce",), reduce_of_alignment),
    Rule("window of ones", ("reduce_window",), window_of_ones),
    Rule("iota is a line", ("iota",), iota_is_a_line),
)
