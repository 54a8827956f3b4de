"""Matrix products: Gemm, MatMul, their integer forms, Einsum."""

from __future__ import annotations

import string

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i32, i64
from tilth.onnx.build import flatten, iota, matmul, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


@onnx_op("MatMul")
def matmul_(cx: NodeContext, a: Value, b: Value) -> Value:
    """Of small floats, a softmax on the left (attention) is taken before it is rounded."""
    dtype = a.tensor.dtype
    weights = _unrounded(a) if dtype.is_float and dtype.bits == 16 else None
    if weights is None:
        return matmul(a, b)
    return as_dtype(matmul(weights, as_dtype(b, f32)), dtype)


def _unrounded(x: Value) -> Value | None:
    """A softmax, perhaps with rows replaced, in f32; None for anything else."""
    if x.op == "softmax":
        return op.softmax(as_dtype(x.node.inputs[0], f32), axis=x.node.attrs["axis"])
    if x.op == "convert":
        (wide,) = x.node.inputs
        known = wide.op in ("softmax", "constant") and wide.tensor.dtype == f32
        return wide if known else None
    if x.op != "select":
        return None
    chosen, left, right = x.node.inputs
    parts = [as_dtype(v, f32) if v.op == "constant" else _unrounded(v) for v in (left, right)]
    return None if None in parts else op.select(chosen, *parts)


@onnx_op("Gemm")
def gemm(cx: NodeContext, a: Value, b: Value, c: Value | None = None) -> Value:
    """alpha a' b' + beta c"""
    if len(a.shape) > 2:  # opset 1 models flatten silently
        a = flatten(a, 1)
    product = op.dot_general(
        a,
        b,
        lhs_contract=(0 if cx.attr("transA", 0) else 1,),
        rhs_contract=(1 if cx.attr("transB", 0) else 0,),
    )
    product = _scaled(product, cx.attr("alpha", 1.0))
    beta = cx.attr("beta", 1.0)
    return product if c is None or beta == 0 else op.add(product, _scaled(c, beta))


def _scaled(x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    if x.tensor.dtype.is_integer and factor != int(factor):
        raise ValueError(f"factor {factor} on integers")
    return op.multiply(x, scalar(factor, x))


@onnx_op("MatMulInteger")
def matmul_integer(
    cx: NodeContext, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None
) -> Value:
    """Zero points are per tensor, per row of `a`, or per column of `b`."""
    left, right = as_dtype(a, i32), as_dtype(b, i32)
    if a_zero is not None:
        zero = as_dtype(a_zero, i32)
        column = len(zero.shape) == 1 and zero.shape != (1,)
        left = op.subtract(left, as_shape(zero, (*zero.shape, 1)) if column else zero)
    if b_zero is not None:
        right = op.subtract(right, as_dtype(b_zero, i32))
    return matmul(left, right)


# Einsum


@onnx_op("Einsum")
def einsum(cx: NodeContext, *xs: Value) -> Value:
    """Operands are multiplied from left to right; a label is summed when it occurs no more."""
    terms, result = _parse(cx.attr("equation"), xs)
    acc, labels = _without_repeats(xs[0], terms[0])
    for i, x in enumerate(xs[1:], 1):
        later = set(result).union(*terms[i + 1 :])
        right, right_labels = _without_repeats(x, terms[i])
        acc, labels = _contract(acc, labels, right, right_labels, later)
    gone = tuple(i for i, label in enumerate(labels) if label not in result)
    if gone:
        acc = op.reduce(acc, kind="sum", axes=gone)
        labels = "".join(label for label in labels if label in result)
    return permuted(acc, [labels.index(label) for label in result])


def _parse(equation: str, xs: tuple[Value, ...]) -> tuple[list[str], str]:
    """Labels of each operand and of the result, with letters in place of the ellipsis."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(xs):
        raise ValueError(f"equation '{equation}' has {len(terms)} terms for {len(xs)} operands")
    spare = [c for c in string.ascii_letters if c not in equation]
    hidden = [
        len(x.shape) - len(t.replace("...", "")) if "..." in t else 0
        for t, x in zip(terms, xs, strict=True)
    ]
    wild = "".join(spare[: max(hidden)])
    if not arrow:
        once = [c for c in sorted(set(inputs) - set(",.")) if inputs.count(c) == 1]
        result = ("..." if wild else "") + "".join(once)
    terms = [t.replace("...", wild[len(wild) - n :]) for t, n in zip(terms, hidden, strict=True)]
    for t, x in zip(terms, xs, strict=True):
        if len(t) != len(x.shape):
            raise ValueError(f"equation '{equation}' does not fit {x.type}")
    return terms, result.replace("...", wild)


def _without_repeats(x: Value, labels: str) -> tuple[Value, str]:
    """A label that occurs twice in one operand means its diagonal: mask, then sum one away."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first, second = labels.index(label), labels.rindex(label)
            hit = op.compare(iota(x.shape, first, i64), iota(x.shape, second, i64), direction="EQ")
            x = op.reduce(op.select(hit, x, scalar(0, x)), kind="sum", axes=(second,))
            labels = labels[:second] + labels[second + 1 :]
    return x, labels


def _contract(
    a: Value, a_labels: str, b: Value, b_labels: str, later: set[str]
) -> tuple[Value, str]:
    """One product: shared labels are batch dimensions if needed later, else summed."""
    a, a_labels, b, b_labels = _drop_ones(a, a_labels, b, b_labels)
    shared = [c for c in a_labels if c in b_labels]
    batch = [c for c in shared if c in later]
    summed = [c for c in shared if c not in later]
    out = op.dot_general(
        a,
        b,
        lhs_batch=tuple(a_labels.index(c) for c in batch),
        rhs_batch=tuple(b_labels.index(c) for c in batch),
        lhs_contract=tuple(a_labels.index(c) for c in summed),
        rhs_contract=tuple(b_labels.index(c) for c in summed),
    )
    free = [c for labels in (a_labels, b_labels) for c in labels if c not in shared]
    return out, "".join([*batch, *free])


def _drop_ones(a: Value, a_labels: str, b: Value, b_labels: str) -> tuple[Value, str, Value, str]:
    """A shared label that is 1 on one side only broadcasts: that side simply lacks it."""
    for label in set(a_labels) & set(b_labels):
        i, j = a_labels.index(label), b_labels.index(label)
        if a.shape[i] == 1 != b.shape[j]:
            a, a_labels = _dropped(a, a_labels, i)
        elif b.shape[j] == 1 != a.shape[i]:
            b, b_labels = _dropped(b, b_labels, j)
    return a, a_labels, b, b_labels


def _dropped(x: Value, labels: str, axis: int) -> tuple[Value, str]:
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return as_shape(x, shape), labels[:axis] + labels[axis + 1 :]
