"""Sequence operators on sequences of known length; positions must be known while importing."""

from __future__ import annotations

from collections.abc import Sequence

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_shape, split
from tilth.ir.types import bool_, i64
from tilth.onnx.build import concatenate, expand_dims, normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.sequences import SequenceValue


@onnx_op("SequenceEmpty")
def sequence_empty(cx: NodeContext) -> list[SequenceValue]:
    return [SequenceValue()]


@onnx_op("SequenceConstruct")
def sequence_construct(cx: NodeContext, *items: Value) -> list[SequenceValue]:
    return [_sequence(items)]


def _sequence(items: Sequence[Value]) -> SequenceValue:
    if not all(isinstance(item, Value) for item in items):
        raise ValueError("a sequence holds tensors")
    return SequenceValue(tuple(items))


def _position(cx: NodeContext, position: Value, length: int) -> int:
    return normal_axis(cx.ints(position, "the position")[0], length)


@onnx_op("SequenceInsert")
def sequence_insert(
    cx: NodeContext, sequence: SequenceValue, item: Value, position: Value | None = None
) -> list[SequenceValue]:
    items = list(sequence.items)
    count = len(items)
    place = cx.ints(position, "the position")[0] if position is not None else count
    if not -count <= place <= count:
        raise ValueError(f"position {place} in a sequence of {count}")
    items.insert(place, item)
    return [_sequence(items)]


@onnx_op("SequenceErase")
def sequence_erase(
    cx: NodeContext, sequence: SequenceValue, position: Value | None = None
) -> list[SequenceValue]:
    items = list(sequence.items)
    del items[-1 if position is None else _position(cx, position, len(items))]
    return [SequenceValue(tuple(items))]


@onnx_op("SequenceAt")
def sequence_at(cx: NodeContext, sequence: SequenceValue, position: Value) -> Value:
    return sequence.items[_position(cx, position, len(sequence.items))]


@onnx_op("SequenceLength")
def sequence_length(cx: NodeContext, sequence: SequenceValue) -> Value:
    return scalar(len(sequence.items), i64)


@onnx_op("ConcatFromSequence")
def concat_from_sequence(cx: NodeContext, sequence: SequenceValue) -> Value:
    items = sequence.items
    new_axis = bool(cx.attr("new_axis", 0))
    axis = normal_axis(cx.attr("axis"), len(items[0].shape) + new_axis)
    return concatenate([expand_dims(v, (axis,)) for v in items] if new_axis else items, axis)


@onnx_op("SplitToSequence")
def split_to_sequence(cx: NodeContext, x: Value, sizes: Value | None = None) -> list[SequenceValue]:
    """Parts of given sizes, of one size (the last may be smaller), or of size 1."""
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    total = x.shape[axis]
    if sizes is not None and sizes.shape:
        parts = cx.ints(sizes, "the sizes")
    else:
        step = 1 if sizes is None else cx.ints(sizes, "the size")[0]
        parts = tuple(min(step, total - start) for start in range(0, total, step))
    items = split(x, parts, axis)
    if sizes is None and not cx.attr("keepdims", 1):
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        items = tuple(as_shape(v, shape) for v in items)
    return [SequenceValue(items)]


@onnx_op("OptionalHasElement")
def optional_has_element(cx: NodeContext, x: Value | SequenceValue | None = None) -> Value:
    return scalar(x is not None, bool_)


@onnx_op("Optional", "OptionalGetElement")
def optional_element(
    cx: NodeContext, x: Value | SequenceValue | None = None
) -> list[Value | SequenceValue]:
    """An optional that is present is its element."""
    if x is None:
        raise UnsupportedError(f"{cx.label}: an empty optional")
    return [x]
