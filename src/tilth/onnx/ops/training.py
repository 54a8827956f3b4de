"""The optimisers of ai.onnx.preview.training, one step over any number of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.onnx.build import scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

_DOMAIN = "ai.onnx.preview.training"


def _each(
    operands: tuple[Value, ...], states: int, step: Callable[..., tuple[Value, ...]]
) -> list[Value]:
    """Operands are all tensors, then all gradients, then each kind of state; so are the results."""
    count = len(operands) // (2 + states)
    columns = [operands[i * count : (i + 1) * count] for i in range(2 + states)]
    results = [step(*row) for row in zip(*columns, strict=True)]
    return [value for column in zip(*results, strict=True) for value in column]


def _regularised(cx: NodeContext, x: Value, gradient: Value) -> Value:
    decay = scalar(cx.attr("norm_coefficient", 0.0), x)
    return op.add(op.multiply(decay, x), gradient)


def _mix(keep: float, old: Value, new: Value) -> Value:
    return op.add(op.multiply(scalar(keep, old), old), op.multiply(scalar(1 - keep, new), new))


@onnx_op("Adagrad", domain=_DOMAIN)
def adagrad(cx: NodeContext, rate: Value, steps: Value, *operands: Value) -> list[Value]:
    def step(x: Value, gradient: Value, squares: Value) -> tuple[Value, ...]:
        decay = op.multiply(
            as_dtype(steps, x.tensor.dtype), scalar(cx.attr("decay_factor", 0.0), x)
        )
        r = op.divide(as_dtype(rate, x.tensor.dtype), op.add(scalar(1, x), decay))
        g = _regularised(cx, x, gradient)
        total = op.add(squares, op.multiply(g, g))
        size = op.add(op.sqrt(total), scalar(cx.attr("epsilon", 1e-6), x))
        return op.subtract(x, op.multiply(as_shape(r, ()), op.divide(g, size))), total

    return _each(operands, 1, step)


@onnx_op("Adam", domain=_DOMAIN)
def adam(cx: NodeContext, rate: Value, steps: Value, *operands: Value) -> list[Value]:
    alpha, beta = cx.attr("alpha", 0.9), cx.attr("beta", 0.999)

    def step(x: Value, gradient: Value, mean: Value, square: Value) -> tuple[Value, ...]:
        g = _regularised(cx, x, gradient)
        mean = _mix(alpha, mean, g)
        square = _mix(beta, square, op.multiply(g, g))
        size = op.add(op.sqrt(square), scalar(cx.attr("epsilon", 1e-6), x))
        r = _adam_rate(as_dtype(rate, x.tensor.dtype), steps, alpha, beta)
        new = op.subtract(x, op.multiply(as_shape(r, ()), op.divide(mean, size)))
        kept = scalar(1 - cx.attr("norm_coefficient_post", 0.0), x)
        return op.multiply(kept, new), mean, square

    return _each(operands, 2, step)


def _adam_rate(rate: Value, steps: Value, alpha: float, beta: float) -> Value:
    """The rate with the bias of the running means corrected, from the first step on."""
    count = as_dtype(steps, rate.tensor.dtype)
    one = scalar(1, rate)
    bias_mean = op.subtract(one, op.power(scalar(alpha, rate), count))
    bias_square = op.subtract(one, op.power(scalar(beta, rate), count))
    corrected = op.multiply(rate, op.divide(op.sqrt(bias_square), bias_mean))
    return op.select(op.compare(steps, scalar(0, steps), direction="GT"), corrected, rate)


@onnx_op("Momentum", domain=_DOMAIN)
def momentum(cx: NodeContext, rate: Value, steps: Value, *operands: Value) -> list[Value]:
    alpha, nesterov = cx.attr("alpha"), cx.attr("mode") == "nesterov"

    def step(x: Value, gradient: Value, velocity: Value) -> tuple[Value, ...]:
        g = _regularised(cx, x, gradient)
        first = op.compare(steps, scalar(0, steps), direction="EQ")
        share: Any = op.select(first, scalar(1, x), scalar(cx.attr("beta"), x))
        new = op.add(op.multiply(scalar(alpha, x), velocity), op.multiply(as_shape(share, ()), g))
        move = op.add(g, op.multiply(scalar(alpha, x), new)) if nesterov else new
        scaled = op.multiply(as_shape(as_dtype(rate, x.tensor.dtype), ()), move)
        return op.subtract(x, scaled), new

    return _each(operands, 1, step)
