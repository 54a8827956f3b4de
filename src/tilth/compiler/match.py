"""Small questions about values, and small ways to build them, that several passes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilth.ir.graph import Node, Value, constant_of, make_constant
from tilth.ir.ops.helpers import as_shape
from tilth.ir.ops.table import has_tag, make, op

_SPLAT_LIMIT = 1 << 20  # elements looked at to find out whether a constant is all the same


def is_constant(value: Value) -> bool:
    return value.op == "constant"


def is_elementwise(node: Node) -> bool:
    return has_tag(node.op, "elementwise")


def is_scalar_constant(value: Value) -> bool:
    """Whether a value is a constant of one element (of any rank)."""
    return is_constant(value) and value.tensor.size == 1


def splat_of(value: Value) -> np.ndarray | None:
    """The one element (rank 0) of a constant whose elements have all the same bits."""
    array = constant_of(value)
    if array is None or array.size == 0 or array.size > _SPLAT_LIMIT or array.dtype == object:
        return None
    flat = array.reshape(-1)
    if flat.tobytes() != flat[:1].tobytes() * flat.size:
        return None
    return flat[:1].reshape(())


def rebuild(node: Node, inputs: Sequence[Value], **attrs: Any) -> tuple[Value, ...]:
    """The node's results with other inputs and attributes; types are inferred anew."""
    if not attrs and tuple(inputs) == node.inputs:
        return node.outputs
    merged = {**node.attrs, **attrs}
    return make(node.op, *inputs, name=node.name, source=node.source, **merged).outputs


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """`value` with another shape; a constant stays one."""
    array, shape = constant_of(value), tuple(shape)
    if array is None or value.shape == shape:
        return as_shape(value, shape)
    return make_constant(array.reshape(shape), value.node.name)


def transposed(value: Value, permutation: Sequence[int]) -> Value:
    """`value` with permuted dimensions, as a reshape when only dimensions of size 1 move."""
    permutation = tuple(permutation)
    if permutation == tuple(range(len(permutation))):
        return value
    shape = tuple(value.shape[d] for d in permutation)
    kept = [d for d in permutation if value.shape[d] != 1]
    if kept == sorted(kept):
        return as_shape(value, shape)
    return op.transpose(value, permutation=permutation)
