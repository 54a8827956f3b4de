"""Element types and value types of the IR.

A `TensorType` is a dtype and a shape; a dimension is an int, or a str naming a symbol that is
bound to an int before code is made. Sequences and optionals wrap other types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Kind = Literal["bool", "int", "uint", "float", "complex", "string"]
Dim = int | str
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: its name in the text form, its NumPy dtype, width in bits, and kind."""

    name: str
    numpy: np.dtype
    bits: int
    kind: Kind

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    @property
    def nbytes(self) -> int:
        """Bytes one element takes in memory (sub-byte types are stored one per byte)."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")


def _dtype(name: str, numpy: DTypeLike, bits: int, kind: Kind) -> DType:
    return DType(name, np.dtype(numpy), bits, kind)


bool_ = _dtype("bool", np.bool_, 8, "bool")
i2 = _dtype("i2", ml_dtypes.int2, 2, "int")
i4 = _dtype("i4", ml_dtypes.int4, 4, "int")
i8 = _dtype("i8", np.int8, 8, "int")
i16 = _dtype("i16", np.int16, 16, "int")
i32 = _dtype("i32", np.int32, 32, "int")
i64 = _dtype("i64", np.int64, 64, "int")
u2 = _dtype("u2", ml_dtypes.uint2, 2, "uint")
u4 = _dtype("u4", ml_dtypes.uint4, 4, "uint")
u8 = _dtype("u8", np.uint8, 8, "uint")
u16 = _dtype("u16", np.uint16, 16, "uint")
u32 = _dtype("u32", np.uint32, 32, "uint")
u64 = _dtype("u64", np.uint64, 64, "uint")
f4e2m1fn = _dtype("f4e2m1fn", ml_dtypes.float4_e2m1fn, 4, "float")
f8e4m3fn = _dtype("f8e4m3fn", ml_dtypes.float8_e4m3fn, 8, "float")
f8e4m3fnuz = _dtype("f8e4m3fnuz", ml_dtypes.float8_e4m3fnuz, 8, "float")
f8e5m2 = _dtype("f8e5m2", ml_dtypes.float8_e5m2, 8, "float")
f8e5m2fnuz = _dtype("f8e5m2fnuz", ml_dtypes.float8_e5m2fnuz, 8, "float")
f8e8m0fnu = _dtype("f8e8m0fnu", ml_dtypes.float8_e8m0fnu, 8, "float")
bf16 = _dtype("bf16", ml_dtypes.bfloat16, 16, "float")
f16 = _dtype("f16", np.float16, 16, "float")
f32 = _dtype("f32", np.float32, 32, "float")
f64 = _dtype("f64", np.float64, 64, "float")
c64 = _dtype("c64", np.complex64, 64, "complex")
c128 = _dtype("c128", np.complex128, 128, "complex")
string = _dtype("string", np.object_, 64, "string")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        *(bool_, i2, i4, i8, i16, i32, i64, u2, u4, u8, u16, u32, u64),
        *(f4e2m1fn, f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f8e8m0fnu, bf16, f16, f32, f64),
        *(c64, c128, string),
    )
}
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}


def dtype_of(numpy_dtype: DTypeLike) -> DType:
    """The IR dtype of a NumPy dtype (str and bytes dtypes are `string`); KeyError if none."""
    d = np.dtype(numpy_dtype)
    return string if d.kind in "SU" else _BY_NUMPY[d.newbyteorder("=") if d.kind in "iufc" else d]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor: dtype and shape. Row-major unless a target says otherwise."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def dims(self) -> Shape:
        """The shape as ints; ValueError when a dimension is still a symbol."""
        if not self.is_static:
            raise ValueError(f"{self} has symbolic dimensions; bind them before this point")
        return self.shape  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.nbytes

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence of values of one type (host ops only)."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent (host ops only)."""

    element: Type

    def __str__(self) -> str:
        return f"opt<{self.element}>"

    __repr__ = __str__


Type = TensorType | SequenceType | OptionalType
