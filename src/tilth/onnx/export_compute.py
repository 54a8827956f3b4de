"""Contractions, reductions, windows, ordering and norms as ONNX."""

from __future__ import annotations

import math
from typing import Any

from tilth.ir.graph import Node, constant_of
from tilth.ir.ops.checks import dilated, without
from tilth.ir.ops.numerics import identity
from tilth.ir.types import DType, bool_, f32, f64, i8, i32, u8
from tilth.onnx.export_core import GraphExporter, Names, exports
from tilth.onnx.export_movement import padded

# Matrix products


@exports("dot_general")
def _(e: GraphExporter, node: Node, lhs: str, rhs: str) -> Names:
    """As a MatMul of [batch.., M, K] and [batch.., K, N]."""
    a, (x, w) = node.attrs, (v.shape for v in node.inputs)
    result = node.types[0].dtype  # type: ignore[union-attr]
    lhs_free = without(range(len(x)), a["lhs_batch"] + a["lhs_contract"])
    rhs_free = without(range(len(w)), a["rhs_batch"] + a["rhs_contract"])
    lhs = e.transpose(lhs, a["lhs_batch"] + lhs_free + a["lhs_contract"])
    rhs = e.transpose(rhs, a["rhs_batch"] + a["rhs_contract"] + rhs_free)
    batch = tuple(x[i] for i in a["lhs_batch"])
    m, n = tuple(x[i] for i in lhs_free), tuple(w[i] for i in rhs_free)
    k = math.prod(x[i] for i in a["lhs_contract"])
    as_it_is = len(a["lhs_contract"]) == 1 and len(n) == 1 and (len(m) == 1 or not batch) and m
    if not as_it_is:
        lhs = e.reshape(lhs, (*batch, math.prod(m), k))
        rhs = e.reshape(rhs, (*batch, k, math.prod(n)))
    product = _product(e, node, lhs, rhs, result)
    return product if as_it_is else e.reshape(product, batch + m + n)


def _product(e: GraphExporter, node: Node, lhs: str, rhs: str, result: DType) -> str:
    types = [v.tensor.dtype for v in node.inputs]
    if result == i32 and all(t in (i8, u8) for t in types):
        return e.op("MatMulInteger", lhs, rhs)
    wide = _wide(result)
    lhs, rhs = (x if t == wide else e.cast(x, wide) for x, t in zip((lhs, rhs), types, strict=True))
    product = e.op("MatMul", lhs, rhs)
    return product if wide == result else e.cast(product, result)


def _wide(dtype: DType) -> DType:
    """The dtype in which ONNX computes products and sums for this one."""
    if dtype.is_integer:
        return i32 if dtype.bits < 32 else dtype
    return f32 if dtype.is_float and dtype.bits < 16 else dtype


@exports("convolution")
def _(e: GraphExporter, node: Node, x: str, w: str) -> Names:
    a = node.attrs
    shape, dtype = node.inputs[0].shape, node.inputs[0].tensor.dtype
    rank = len(shape)
    last = a["layout"] == "channels_last"
    if last:
        x = e.transpose(x, (0, rank - 1, *range(1, rank - 1)))
        w = e.transpose(w, (rank - 1, rank - 2, *range(rank - 2)))
        shape = (shape[0], shape[-1], *shape[1:-1])
    if dtype.is_integer:
        x, w = e.cast(x, f64), e.cast(w, f64)  # exact up to 2^53
    low, high = zip((0, 0), (0, 0), *a["padding"], strict=True)
    holes = (0, 0, *(d - 1 for d in a["lhs_dilation"]))
    if any(holes) or any(n < 0 for n in (*low, *high)):
        zero = e.constant(0, f64 if dtype.is_integer else dtype)
        x = padded(e, x, zero, shape, low, high, holes)
        low = high = (0,) * rank
    result = e.op(
        "Conv", x, w, strides=a["strides"], dilations=a["rhs_dilation"], group=a["groups"],
        pads=[*low[2:], *high[2:]],
    )  # fmt: skip
    if dtype.is_integer:
        result = e.cast(result, node.outputs[0].tensor.dtype)
    return e.transpose(result, (0, *range(2, rank), 1)) if last else result


@exports("add")
def _(e: GraphExporter, node: Node, x: str, y: str) -> Names:
    """An Add; on the result of a convolution, a constant per channel is its bias."""
    for value, other in (node.inputs, reversed(node.inputs)):
        bias = constant_of(other)
        if value.op == "convolution" and bias is not None:
            channels = value.shape[1]
            aligned = (1,) * (len(value.shape) - 2)
            if bias.size == channels and bias.shape[-len(aligned) - 1 :] == (channels, *aligned):
                name = e.add_operand("Conv", value, e.constant(bias.reshape(-1)))
                if name is not None:
                    return name
    return e.op("Add", x, y)


# Reductions

_REDUCE = {"sum": "ReduceSum", "product": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}


@exports("reduce")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    kind, axes, dtype = node.attrs["kind"], node.attrs["axes"], node.inputs[0].tensor.dtype
    if not axes:
        return e.op("Identity", x)
    if dtype == bool_:
        kind = {"and": "min", "or": "max"}.get(kind, kind)
    if kind not in _REDUCE:
        return None
    wide = i32 if dtype == bool_ else _wide(dtype)
    x = x if wide == dtype else e.cast(x, wide)
    result = e.op(_REDUCE[kind], x, e.ints(axes), keepdims=0)
    return result if wide == dtype else e.cast(result, dtype)


@exports("arg_reduce")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    name = "ArgMax" if node.attrs["kind"] == "max" else "ArgMin"
    if node.inputs[0].tensor.dtype == bool_:
        x = e.cast(x, i32)
    axis, last = node.attrs["axis"], int(node.attrs["last"])
    return e.op(name, x, axis=axis, keepdims=0, select_last_index=last)


@exports("cumulative")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    a = node.attrs
    names = {"sum": "CumSum"} | ({"product": "CumProd"} if e.target.opset >= 26 else {})
    dtype = node.inputs[0].tensor.dtype
    if a["kind"] not in names or _wide(dtype) != dtype:
        return None
    axis = e.constant(a["axis"], i32)
    flags = {"exclusive": int(a["exclusive"]), "reverse": int(a["reverse"])}
    return e.op(names[a["kind"]], x, axis, **flags)


@exports("sort")
def _(e: GraphExporter, node: Node, keys: str, *more: str) -> Names:
    axis = node.attrs["axis"]
    count = e.ints([node.inputs[0].shape[axis]])
    largest = int(node.attrs["descending"])
    found, order = e.op("TopK", keys, count, results=2, axis=axis, largest=largest)
    return (found, *(e.op("GatherElements", x, order, axis=axis) for x in more))


@exports("top_k")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    a = node.attrs
    largest = int(a["largest"])
    return e.op("TopK", x, e.ints([a["k"]]), results=2, axis=a["axis"], largest=largest)


# Windows

_COMBINE = {"sum": "Add", "product": "Mul", "max": "Max", "min": "Min"}


@exports("reduce_window")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    """A pooling operator over spatial axes, else shifted slices, one axis after the other."""
    a, value = node.attrs, node.inputs[0]
    kind, dtype = a["kind"], value.tensor.dtype
    if kind not in _COMBINE or dtype == bool_:
        return None
    if kind == "max" and _is_pooling(node) and dtype.is_float:
        return e.op("MaxPool", x, **_pooling(node))
    low, high = zip(*a["padding"], strict=True) if a["padding"] else ((), ())
    holes = tuple(d - 1 for d in a["base_dilation"])
    neutral = e.constant(identity(kind, dtype.numpy))
    x = padded(e, x, neutral, value.shape, low, high, holes)
    shape = [
        dilated(n, hole + 1) + before + after
        for n, hole, before, after in zip(value.shape, holes, low, high, strict=True)
    ]
    for axis, (window, stride, dilation) in enumerate(
        zip(a["window"], a["strides"], a["window_dilation"], strict=True)
    ):
        extent = node.types[0].dims[axis]  # type: ignore[union-attr]
        if (window, stride) != (1, 1):
            x = _slid(e, x, kind, axis, window, stride, dilation, extent)
        elif extent != shape[axis]:
            x = e.op("Slice", x, *map(e.ints, ([0], [extent], [axis])))
    return x


def _slid(
    e: GraphExporter,
    x: str,
    kind: str,
    axis: int,
    window: int,
    stride: int,
    dilation: int,
    extent: int,
) -> str:
    """A reduction over windows along one axis, as a chain over their elements."""
    total = ""
    for k in range(window):
        start = k * dilation
        end = start + max(0, (extent - 1) * stride + 1)
        part = e.op("Slice", x, *map(e.ints, ([start], [end], [axis], [stride])))
        total = e.op(_COMBINE[kind], total, part) if total else part
    return total


def _is_pooling(node: Node) -> bool:
    """Whether the window is over spatial axes of [N, C, S..], with padding smaller than it."""
    a, rank = node.attrs, len(node.inputs[0].shape)
    flat = a["window"][:2] == a["strides"][:2] == (1, 1) and not any(map(any, a["padding"][:2]))
    undilated = all(d == 1 for d in a.get("base_dilation", ()))
    reach = [d * (w - 1) + 1 for w, d in zip(a["window"], a["window_dilation"], strict=True)]
    small = all(
        0 <= n < r or n == 0 for pair, r in zip(a["padding"], reach, strict=True) for n in pair
    )
    return 3 <= rank <= 5 and flat and undilated and small


def _pooling(node: Node) -> dict[str, Any]:
    a = node.attrs
    low, high = zip(*a["padding"][2:], strict=True)
    return {
        "kernel_shape": a["window"][2:],
        "strides": a["strides"][2:],
        "dilations": a["window_dilation"][2:],
        "pads": [*low, *high],
    }


@exports("average_pool")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    if not _is_pooling(node):
        return None
    include = int(node.attrs["count_include_pad"])
    return e.op("AveragePool", x, count_include_pad=include, **_pooling(node))


# Norms


@exports("softmax", "log_softmax")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op("Softmax" if node.op == "softmax" else "LogSoftmax", x, axis=node.attrs["axis"])


@exports("layer_norm")
def _(e: GraphExporter, node: Node, x: str, scale: str, bias: str) -> Names:
    a = node.attrs
    return e.op("LayerNormalization", x, scale, bias, axis=a["axis"], epsilon=a["epsilon"])


@exports("rms_norm")
def _(e: GraphExporter, node: Node, x: str, scale: str) -> Names | None:
    if e.target.opset < 23:
        return None
    return e.op("RMSNormalization", x, scale, **node.attrs)


@exports("batch_norm")
def _(e: GraphExporter, node: Node, *xs: str) -> Names | None:
    if node.attrs["axis"] != 1:
        return None
    return e.op("BatchNormalization", *xs, epsilon=node.attrs["epsilon"])


@exports("instance_norm")
def _(e: GraphExporter, node: Node, *xs: str) -> Names:
    return e.op("InstanceNormalization", *xs, epsilon=node.attrs["epsilon"])


@exports("group_norm")
def _(e: GraphExporter, node: Node, *xs: str) -> Names:
    a = node.attrs
    return e.op("GroupNormalization", *xs, num_groups=a["groups"], epsilon=a["epsilon"])


@exports("lrn")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    if node.attrs["axis"] != 1:
        return None
    return e.op("LRN", x, **{k: v for k, v in node.attrs.items() if k != "axis"})
