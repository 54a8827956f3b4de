"""Operators whose operands say how large the result is, where these are computed by the model."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.limits import require_tensor
from tilth.ir.types import Shape, TensorType, dtype_of
from tilth.onnx.build import normal_axis
from tilth.onnx.host.registry import HostContext, host_op

_WHY = "how large its result is depends on data"


@host_op("Range", why=_WHY, folds=False)
def range_(cx: HostContext, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    first, end, step = (x.reshape(()).item() for x in (start, limit, delta))
    count = max(0, math.ceil((end - first) / step))
    _require_room(cx, start, (count,))
    return (first + np.arange(count) * step).astype(start.dtype)


@host_op("Reshape", why=_WHY, folds=False)
def reshape(cx: HostContext, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """A 0 in the shape stands for the size of x there, unless `allowzero`."""
    wanted = [int(n) for n in shape]
    if not cx.attr("allowzero", 0):
        wanted = [n or x.shape[i] for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@host_op("Expand", why=_WHY, folds=False)
def expand(cx: HostContext, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    wanted = np.broadcast_shapes(x.shape, tuple(map(int, shape)))
    _require_room(cx, x, wanted)
    return np.broadcast_to(x, wanted)


@host_op("ConstantOfShape", why=_WHY, folds=False)
def constant_of_shape(cx: HostContext, shape: np.ndarray) -> np.ndarray:
    value = cx.attr("value") if cx.has("value") else np.zeros(1, np.float32)
    wanted = tuple(map(int, shape))
    _require_room(cx, value, wanted)
    return np.full(wanted, value.reshape(()), value.dtype)


@host_op("Slice", why=_WHY, folds=False)
def slice_(
    cx: HostContext,
    x: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    places = range(len(starts)) if axes is None else [normal_axis(int(a), x.ndim) for a in axes]
    strides = np.ones_like(starts) if steps is None else steps
    parts = [slice(None)] * x.ndim
    for axis, *part in zip(places, starts, ends, strides, strict=True):
        parts[axis] = slice(*map(int, part))
    return x[tuple(parts)]


def _require_room(cx: HostContext, like: np.ndarray, shape: Shape) -> None:
    """LimitError for a result of this shape and an array's type that is too large to be meant."""
    require_tensor(TensorType(dtype_of(like.dtype), shape), cx.memory)
