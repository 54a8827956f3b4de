"""Primitives without operands: constants and coordinates."""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import check_axis, check_ints, check_kind
from tilth.ir.ops.numerics import Array, narrow
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import DType, Shape, TensorType, dtype_of

primitive("constant", "a tensor known at compile time")


@infer("constant")
def _(*, value: Array) -> TensorType:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"the value must be a NumPy array, not {type(value).__name__}")
    return TensorType(dtype_of(value.dtype), value.shape)


@reference("constant")
def _(*, value: Array) -> Array:
    return value


primitive("iota", "each element is its coordinate along one axis")


@infer("iota")
def _(*, dtype: DType, shape: Shape, axis: int) -> TensorType:
    check_ints("shape", shape, minimum=0)
    check_axis(axis, len(shape))
    result = TensorType(dtype, shape)
    check_kind(result, "int", "uint", "float", "complex")
    return result


@reference("iota")
def _(*, dtype: DType, shape: Shape, axis: int) -> Array:
    line = narrow(np.arange(shape[axis]), dtype.numpy)
    line = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(line, shape)
