"""Reductions, index reductions, running sums and orderings."""

from __future__ import annotations

import math
from collections.abc import Callable

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import expand_dims, flatten, normal_axes, normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


def _mean(x: Value, axes: tuple[int, ...]) -> Value:
    """The mean over `axes`, which are dropped."""
    count = math.prod(x.shape[axis] for axis in axes)
    return op.divide(op.reduce(x, kind="sum", axes=axes), scalar(count, x))


def _plain(kind: str) -> Callable[[Value, tuple[int, ...]], Value]:
    return lambda x, axes: op.reduce(x, kind=kind, axes=axes)


def _l2(x: Value, axes: tuple[int, ...]) -> Value:
    dtype = x.tensor.dtype
    wide = x if dtype.is_float else as_dtype(x, f32)
    return as_dtype(op.sqrt(op.reduce(op.multiply(wide, wide), kind="sum", axes=axes)), dtype)


def _log_sum(x: Value, axes: tuple[int, ...]) -> Value:
    dtype = x.tensor.dtype
    wide = x if dtype.is_float else as_dtype(x, f32)
    return as_dtype(op.log(op.reduce(wide, kind="sum", axes=axes)), dtype)


def _log_sum_exp(x: Value, axes: tuple[int, ...]) -> Value:
    """log(sum(exp(x))), shifted by the maximum so that nothing overflows."""
    dtype = x.tensor.dtype
    wide = x if dtype.is_float else as_dtype(x, f32)
    peak = reduce_keepdims(wide, "max", axes)
    peak = op.select(op.is_finite(peak), peak, scalar(0, peak))
    total = op.reduce(op.exponential(op.subtract(wide, peak)), kind="sum", axes=axes)
    return as_dtype(op.add(op.log(total), as_shape(peak, total.shape)), dtype)


REDUCTIONS: dict[str, Callable[[Value, tuple[int, ...]], Value]] = {
    "ReduceL1": lambda x, axes: op.reduce(op.abs(x), kind="sum", axes=axes),
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _plain("max"),
    "ReduceMean": _mean,
    "ReduceMin": _plain("min"),
    "ReduceProd": _plain("product"),
    "ReduceSum": _plain("sum"),
    "ReduceSumSquare": lambda x, axes: op.reduce(op.multiply(x, x), kind="sum", axes=axes),
}
_SINCE_18 = [name for name in REDUCTIONS if name != "ReduceSum"]


def _reduce(cx: NodeContext, x: Value, axes: tuple[int, ...]) -> Value:
    axes = normal_axes(axes, len(x.shape))
    result = REDUCTIONS[cx.op_type](x, axes)
    return expand_dims(result, axes) if cx.attr("keepdims", 1) else result


@onnx_op(*REDUCTIONS)
def reduce_attributes(cx: NodeContext, x: Value) -> Value:
    return _reduce(cx, x, cx.attr("axes", tuple(range(len(x.shape)))))


@onnx_op("ReduceSum", since=13)
@onnx_op(*_SINCE_18, since=18)
def reduce_operands(cx: NodeContext, x: Value, axes: Value | None = None) -> Value:
    """No axes reduce everything, or nothing with `noop_with_empty_axes`."""
    chosen = () if axes is None else cx.ints(axes, "the axes")
    if not chosen and not cx.attr("noop_with_empty_axes", 0):
        chosen = tuple(range(len(x.shape)))
    return _reduce(cx, x, chosen)


@onnx_op("ArgMax", "ArgMin")
def arg_reduce(cx: NodeContext, x: Value) -> Value:
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    last = bool(cx.attr("select_last_index", 0))
    kind = "max" if cx.op_type == "ArgMax" else "min"
    result = op.arg_reduce(x, kind=kind, axis=axis, last=last)
    return expand_dims(result, (axis,)) if cx.attr("keepdims", 1) else result


@onnx_op("Hardmax", since=13)
def hardmax(cx: NodeContext, x: Value) -> Value:
    axis = normal_axis(cx.attr("axis", -1), len(x.shape))
    return _hardmax(x, axis)


@onnx_op("Hardmax", since=1)
def hardmax_flat(cx: NodeContext, x: Value) -> Value:
    axis = normal_axis(cx.attr("axis", 1), len(x.shape))
    return as_shape(_hardmax(flatten(x, axis), 1), x.shape)


def _hardmax(x: Value, axis: int) -> Value:
    """1 at the first maximum along `axis`, 0 elsewhere."""
    first = op.arg_reduce(x, kind="max", axis=axis, last=False)
    places = op.iota(dtype=first.tensor.dtype, shape=x.shape, axis=axis)
    hit = op.compare(places, expand_dims(first, (axis,)), direction="EQ")
    return as_dtype(hit, x.tensor.dtype)


@onnx_op("CumSum", "CumProd")
def cumulative(cx: NodeContext, x: Value, axis: Value) -> Value:
    (along,) = cx.ints(axis, "the axis")
    return op.cumulative(
        x,
        kind="sum" if cx.op_type == "CumSum" else "product",
        axis=normal_axis(along, len(x.shape)),
        exclusive=bool(cx.attr("exclusive", 0)),
        reverse=bool(cx.attr("reverse", 0)),
    )


@onnx_op("TopK", since=10)
def top_k(cx: NodeContext, x: Value, k: Value) -> tuple[Value, Value]:
    (count,) = cx.ints(k, "k")
    return _top_k(cx, x, count)


@onnx_op("TopK", since=1)
def top_k_attribute(cx: NodeContext, x: Value) -> tuple[Value, Value]:
    return _top_k(cx, x, cx.attr("k"))


def _top_k(cx: NodeContext, x: Value, k: int) -> tuple[Value, Value]:
    axis = normal_axis(cx.attr("axis", -1), len(x.shape))
    return op.top_k(x, k=k, axis=axis, largest=bool(cx.attr("largest", 1)))


@onnx_op("LpNormalization")
def lp_normalization(cx: NodeContext, x: Value) -> Value:
    """x / ||x||_p along `axis`, and 0 where the norm is 0."""
    axis, p = normal_axis(cx.attr("axis", -1), len(x.shape)), cx.attr("p", 2)
    if p == 1:
        norm = reduce_keepdims(op.abs(x), "sum", (axis,))
    else:
        norm = op.sqrt(reduce_keepdims(op.multiply(x, x), "sum", (axis,)))
    zero = op.compare(norm, scalar(0, x), direction="EQ")
    return op.divide(x, op.select(zero, scalar(1, x), norm))
