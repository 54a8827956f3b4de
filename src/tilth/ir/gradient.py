"""Reverse-mode differentiation of a graph: new nodes that compute derivatives of one value.

Each op has a rule that turns the derivative by its result into the derivatives by its operands;
composites without a rule are differentiated through what they decompose into. (Griewank and
Walther, "Evaluating Derivatives", 2008, chapter 3.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Node, Value, inline, toposort
from tilth.ir.interpreter import decomposition
from tilth.ir.ops import DECOMPOSE
from tilth.ir.ops.helpers import as_dtype, as_shape, broadcast_to, permuted, scalar, split
from tilth.ir.ops.table import op

# From a node and the derivative by its (only) result to those by its operands; None for none.
Rule = Callable[[Node, Value], Sequence[Value | None]]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function for the ops `names`."""

    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return add


def gradients(y: Value, xs: Sequence[Value]) -> list[Value]:
    """The derivatives of the sum of `y` by each of `xs`, with the types of `xs`.

    Raises UnsupportedError when y depends on them through an op without a rule.
    """
    known = {x: x for x in xs}
    y = _expanded(y, known)
    active = _between(y, xs)
    found: dict[Value, Value] = {y: broadcast_to(scalar(1, y), y.shape)}
    for node in reversed([n for n in toposort([y.node]) if n in active]):
        grad = found.get(node.outputs[0])
        if grad is None or node.outputs[0] in known:
            continue
        if node.op not in _RULES or len(node.types) > 1:
            raise UnsupportedError(f"the op '{node.op}' has no derivative here")
        for x, part in zip(node.inputs, _RULES[node.op](node, grad), strict=True):
            if part is not None and (x.node in active or x in known):
                part = _summed_to(part, x)
                found[x] = op.add(found[x], part) if x in found else part
    return [found[x] if x in found else broadcast_to(scalar(0, x), x.shape) for x in xs]


def _expanded(y: Value, known: dict[Value, Value]) -> Value:
    """The value with composites that have no rule replaced by what they consist of."""
    new = dict(known)
    for node in toposort([y.node], [x.node for x in known]):
        inputs = tuple(new.get(v, v) for v in node.inputs)
        if node.op in DECOMPOSE and node.op not in _RULES:
            parts = inline(decomposition(node), inputs)
            results = [_expanded(p, {v: v for v in inputs}) for p in parts]
        else:
            moved = Node(node.op, inputs, node.attrs, node.types, node.name, node.source)
            results = list((node if inputs == node.inputs else moved).outputs)
        new.update((v, r) for v, r in zip(node.outputs, results, strict=True) if v not in known)
    return new[y]


def _between(y: Value, xs: Sequence[Value]) -> set[Node]:
    """The nodes through which y depends on xs."""
    active = {x.node for x in xs}
    for node in toposort([y.node]):
        if any(v.node in active for v in node.inputs):
            active.add(node)
    return active


def _summed_to(grad: Value, x: Value) -> Value:
    """The derivative by x itself, where x was broadcast to the shape of `grad`."""
    extra = len(grad.shape) - len(x.shape)
    axes = [i for i, d in enumerate(grad.shape) if i < extra or x.shape[i - extra] < d]
    if axes:
        grad = op.reduce(grad, kind="sum", axes=tuple(axes))
    return as_shape(grad, x.shape)


def _times(x: Value, y: Value) -> Value:
    return op.multiply(x, y)


def _less(number: float, x: Value) -> Value:
    return op.subtract(scalar(number, x), x)


# Elementwise ops of one operand: the factor by which the derivative is multiplied, from x and y.
_FACTORS: dict[str, Callable[[Value, Value], Value]] = {
    "negate": lambda x, y: scalar(-1, x),
    "abs": lambda x, y: op.sign(x),
    "exponential": lambda x, y: y,
    "exponential_minus_one": lambda x, y: op.add(y, scalar(1, y)),
    "log": lambda x, y: op.divide(scalar(1, x), x),
    "log_plus_one": lambda x, y: op.divide(scalar(1, x), op.add(x, scalar(1, x))),
    "sqrt": lambda x, y: op.divide(scalar(0.5, y), y),
    "rsqrt": lambda x, y: op.divide(_times(scalar(-0.5, y), y), x),
    "sine": lambda x, y: op.cosine(x),
    "cosine": lambda x, y: op.negate(op.sine(x)),
    "tan": lambda x, y: op.add(_times(y, y), scalar(1, y)),
    "tanh": lambda x, y: _less(1, _times(y, y)),
    "sinh": lambda x, y: op.cosh(x),
    "cosh": lambda x, y: op.sinh(x),
    "atan": lambda x, y: op.divide(scalar(1, x), op.add(_times(x, x), scalar(1, x))),
    "asin": lambda x, y: op.rsqrt(_less(1, _times(x, x))),
    "acos": lambda x, y: op.negate(op.rsqrt(_less(1, _times(x, x)))),
    "logistic": lambda x, y: _times(y, _less(1, y)),
    "erf": lambda x, y: _times(
        scalar(2 / math.sqrt(math.pi), x), op.exponential(op.negate(_times(x, x)))
    ),
}


@rule(*_FACTORS)
def _(node: Node, grad: Value) -> list[Value]:
    return [_times(grad, _FACTORS[node.op](node.inputs[0], node.outputs[0]))]


@rule("sign", "floor", "ceil", "round_nearest_even", "compare", "is_nan", "is_inf", "is_finite")
def _(node: Node, grad: Value) -> list[None]:
    """Flat wherever it is smooth."""
    return [None] * len(node.inputs)


@rule("add")
def _(node: Node, grad: Value) -> list[Value]:
    return [grad, grad]


@rule("subtract")
def _(node: Node, grad: Value) -> list[Value]:
    return [grad, op.negate(grad)]


@rule("multiply")
def _(node: Node, grad: Value) -> list[Value]:
    x, y = node.inputs
    return [_times(grad, y), _times(grad, x)]


@rule("divide")
def _(node: Node, grad: Value) -> list[Value]:
    _, y = node.inputs
    by_x = op.divide(grad, y)
    return [by_x, op.negate(_times(by_x, node.outputs[0]))]


@rule("power")
def _(node: Node, grad: Value) -> list[Value]:
    x, y = node.inputs
    by_x = _times(y, op.power(x, op.subtract(y, scalar(1, y))))
    return [_times(grad, by_x), _times(grad, _times(node.outputs[0], op.log(x)))]


@rule("maximum", "minimum")
def _(node: Node, grad: Value) -> list[Value]:
    """The operand that was chosen gets it; where both are equal, each gets half."""
    x, y = node.inputs
    chosen = "GT" if node.op == "maximum" else "LT"
    tie = op.compare(x, y, direction="EQ")
    half, none = _times(scalar(0.5, grad), grad), scalar(0, grad)

    def part(a: Value, b: Value) -> Value:
        return op.select(tie, half, op.select(op.compare(a, b, direction=chosen), grad, none))

    return [part(x, y), part(y, x)]


@rule("select")
def _(node: Node, grad: Value) -> list[Value | None]:
    chosen, none = node.inputs[0], scalar(0, grad)
    return [None, op.select(chosen, grad, none), op.select(chosen, none, grad)]


@rule("clamp")
def _(node: Node, grad: Value) -> list[Value | None]:
    low, x, high = node.inputs
    below, above = op.compare(x, low, direction="LT"), op.compare(x, high, direction="GT")
    none = scalar(0, grad)
    inside = op.select(op.or_(below, above), none, grad)
    return [op.select(below, grad, none), inside, op.select(above, grad, none)]


@rule("convert")
def _(node: Node, grad: Value) -> list[Value | None]:
    dtype = node.inputs[0].tensor.dtype
    return [as_dtype(grad, dtype) if dtype.is_float else None]


@rule("reshape")
def _(node: Node, grad: Value) -> list[Value]:
    return [as_shape(grad, node.inputs[0].shape)]


@rule("transpose")
def _(node: Node, grad: Value) -> list[Value]:
    return [permuted(grad, np.argsort(node.attrs["permutation"]).tolist())]


@rule("broadcast_in_dim")
def _(node: Node, grad: Value) -> list[Value]:
    (x,), dims = node.inputs, node.attrs["dims"]
    added = tuple(
        i for i, size in enumerate(grad.shape) if i not in dims or x.shape[dims.index(i)] < size
    )
    return [as_shape(op.reduce(grad, kind="sum", axes=added) if added else grad, x.shape)]


@rule("slice")
def _(node: Node, grad: Value) -> list[Value]:
    start, strides, shape = node.attrs["start"], node.attrs["strides"], node.inputs[0].shape
    spread = [(n - 1) * s + 1 if n else 0 for n, s in zip(grad.shape, strides, strict=True)]
    high = [d - a - n for d, a, n in zip(shape, start, spread, strict=True)]
    interior = tuple(s - 1 for s in strides)
    pads = {"low": tuple(start), "high": tuple(high), "interior": interior}
    return [op.pad(grad, scalar(0, grad), **pads)]


@rule("reverse")
def _(node: Node, grad: Value) -> list[Value]:
    return [op.reverse(grad, axes=node.attrs["axes"])]


@rule("concatenate")
def _(node: Node, grad: Value) -> list[Value]:
    axis = node.attrs["axis"]
    return list(split(grad, [x.shape[axis] for x in node.inputs], axis))


@rule("reduce")
def _(node: Node, grad: Value) -> list[Value]:
    (x,), axes, kind = node.inputs, node.attrs["axes"], node.attrs["kind"]
    kept = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    grad = broadcast_to(as_shape(grad, kept), x.shape)
    if kind == "sum":
        return [grad]
    if kind not in ("max", "min"):
        raise UnsupportedError(f"a reduction by {kind} has no derivative here")
    hit = op.compare(x, broadcast_to(as_shape(node.outputs[0], kept), x.shape), direction="EQ")
    hits = as_dtype(hit, x.tensor.dtype)
    count = as_shape(op.reduce(hits, kind="sum", axes=axes), kept)
    return [_times(grad, op.divide(hits, count))]


@rule("dot_general")
def _(node: Node, grad: Value) -> list[Value]:
    x, y = node.inputs
    x_batch, x_contract = tuple(node.attrs["lhs_batch"]), tuple(node.attrs["lhs_contract"])
    y_batch, y_contract = tuple(node.attrs["rhs_batch"]), tuple(node.attrs["rhs_contract"])
    count = len(x_batch)
    x_free = _others(x, x_batch, x_contract)
    y_free = _others(y, y_batch, y_contract)
    free_of_y = tuple(range(count + len(x_free), len(grad.shape)))
    free_of_x = tuple(range(count, count + len(x_free)))
    by_x = _product(grad, y, y_batch, free_of_y, y_free)
    by_y = _product(grad, x, x_batch, free_of_x, x_free)
    # Both come as (batch, what was free, what was contracted, in the other operand's order).
    order_x = [*x_batch, *x_free, *_matching(x_contract, y_contract)]
    order_y = [*y_batch, *y_free, *_matching(y_contract, x_contract)]
    by_x = permuted(by_x, np.argsort(order_x).tolist())
    by_y = permuted(by_y, np.argsort(order_y).tolist())
    return [as_dtype(by_x, x.tensor.dtype), as_dtype(by_y, y.tensor.dtype)]


def _others(x: Value, *used: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in range(len(x.shape)) if not any(i in axes for axes in used))


def _product(
    grad: Value,
    other: Value,
    batch: tuple[int, ...],
    summed: tuple[int, ...],
    free: tuple[int, ...],
) -> Value:
    """The derivative times the other operand, over what is free in that one."""
    other = as_dtype(other, grad.tensor.dtype)
    return op.dot_general(
        grad,
        other,
        lhs_batch=tuple(range(len(batch))),
        rhs_batch=batch,
        lhs_contract=summed,
        rhs_contract=free,
    )


def _matching(own: tuple[int, ...], others: tuple[int, ...]) -> list[int]:
    """Contracted axes in the order in which the other operand has theirs."""
    return [own[i] for i in np.argsort(others)]
