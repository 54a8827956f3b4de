"""What the `infer` rules have in common: small checks that raise ValueError with a clear message.

The op table turns these into VerifyError with the op, its operand types and its attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tilth.ir.ops.table import Default
from tilth.ir.types import DType, Shape, TensorType, bool_

# defaults with one entry per axis of the first operand (typed Any: they stand in for tuples)
ONE_EACH: Any = Default(lambda x, *_: (1,) * x.rank)
ZERO_EACH: Any = Default(lambda x, *_: (0,) * x.rank)
NO_PADDING: Any = Default(lambda x, *_: ((0, 0),) * x.rank)


def check_kind(x: TensorType, *kinds: str) -> None:
    """The element type is one of these kinds ("bool", "int", "uint", "float", "complex")."""
    if x.dtype.kind not in kinds:
        raise ValueError(f"{x} is not {' or '.join(kinds)}")


def check_same_dtype(*xs: TensorType) -> DType:
    """All operands have one element type, which is returned."""
    first = xs[0].dtype
    for x in xs:
        if x.dtype is not first and x.dtype != first:
            raise ValueError(f"operands differ in dtype: {first} and {x.dtype}")
    return first


def check_same_type(*xs: TensorType) -> TensorType:
    """All operands have one type, which is returned."""
    for x in xs:
        if x != xs[0]:
            raise ValueError(f"operands differ in type: {xs[0]} and {x}")
    return xs[0]


def check_scalar(x: TensorType, *kinds: str) -> None:
    if x.shape != ():
        raise ValueError(f"expected a scalar, got {x}")
    check_kind(x, *kinds)


def check_predicate(x: TensorType) -> None:
    if x.dtype != bool_:
        raise ValueError(f"the predicate must be bool, got {x}")


def check_axis(axis: Any, rank: int) -> int:
    """`axis` counts from the front: 0 <= axis < rank."""
    if type(axis) is not int or not 0 <= axis < rank:
        raise ValueError(f"axis {axis!r} is not an int in [0, {rank})")
    return axis


def check_axes(axes: Any, rank: int) -> Shape:
    """Distinct axes, each as in `check_axis`."""
    check_ints("axes", axes)
    for axis in axes:
        check_axis(axis, rank)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes {axes} repeat")
    return axes


def check_ints(
    what: str, xs: Any, length: int | None = None, minimum: int | None = None
) -> tuple[int, ...]:
    """A tuple of ints, of this length and with no entry below `minimum`."""
    if not isinstance(xs, tuple) or any(type(x) is not int for x in xs):
        raise ValueError(f"{what} {xs!r} is not a tuple of ints")
    if length is not None and len(xs) != length:
        raise ValueError(f"{what} {xs} needs {length} entries")
    if minimum is not None and any(x < minimum for x in xs):
        raise ValueError(f"{what} {xs} has an entry below {minimum}")
    return xs


def check_pairs(what: str, xs: Any, length: int) -> tuple[tuple[int, int], ...]:
    """A tuple of `length` pairs of ints."""
    if not isinstance(xs, tuple) or len(xs) != length:
        raise ValueError(f"{what} {xs!r} needs {length} (low, high) pairs")
    for pair in xs:
        check_ints(what, pair, 2)
    return xs


def check_choice(what: str, x: Any, choices: Iterable[str]) -> None:
    if x not in choices:
        raise ValueError(f"{what} {x!r} is not one of {', '.join(choices)}")


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The NumPy broadcast of static shapes."""
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    rank = max(map(len, shapes))
    result = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if result[i] == 1:
                result[i] = size
            elif size != 1 and size != result[i]:
                raise ValueError(f"shapes do not broadcast: {' and '.join(map(str, shapes))}")
    return tuple(result)


def check_broadcasts_to(x: TensorType, shape: Shape) -> None:
    if broadcast_shapes(x.dims, shape) != shape:
        raise ValueError(f"{x} does not broadcast to {shape}")


def window_extent(size: int, window: int, stride: int, low: int, high: int, dilation: int) -> int:
    """Positions of a dilated window over a padded dimension; at least 0."""
    return max(0, (size + low + high - (dilation * (window - 1) + 1)) // stride + 1)


def dilated(size: int, dilation: int) -> int:
    """A dimension's size with `dilation - 1` holes between elements."""
    return (size - 1) * dilation + 1 if size else 0


def without(xs: Sequence[Any], axes: Sequence[int]) -> tuple[Any, ...]:
    """The entries at all other positions."""
    return tuple(x for i, x in enumerate(xs) if i not in axes)
