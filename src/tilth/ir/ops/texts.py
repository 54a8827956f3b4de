"""Numbers as text and back: what `convert` does for strings, as ONNX's Cast asks.

Floats are written with eight significant digits, as ONNX Runtime writes them.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.ops.numerics import Array, convert, widen
from tilth.ir.types import DType, dtype_of


def as_text(x: Array) -> Array:
    """Each number as a string: 0.1, 1e+10, NaN, INF; bools as 1 and 0."""
    is_float = dtype_of(x.dtype).is_float
    write = _float_text if is_float else lambda number: str(int(number))
    texts = np.empty(x.size, object)
    texts[:] = [write(number) for number in widen(x).reshape(-1).tolist()]
    return texts.reshape(x.shape)


def from_text(x: Array, dtype: DType) -> Array:
    """The number that each string says. InputError for what is no number."""
    read = _float_of if dtype.is_float or dtype.kind == "complex" else _integer_of
    numbers = np.array([read(text) for text in x.reshape(-1).tolist()])
    return convert(numbers.reshape(x.shape), dtype.numpy)


def _float_text(number: float) -> str:
    if number != number:
        return "NaN"
    return f"{number:.8g}" if abs(number) != float("inf") else f"{number:g}".upper()


def _float_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} is no number") from None


def _integer_of(text: str) -> int:
    """Whole numbers exactly, others without their fraction."""
    try:
        return int(text)
    except ValueError:
        number = _float_of(text)
    if abs(number) < float("inf"):
        return int(number)
    raise InputError(f"{text!r} is no integer")
