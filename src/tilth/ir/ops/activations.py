"""Elementwise composites: activation functions.

Small floats are computed in f32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tilth.ir.graph import Value
from tilth.ir.ops.checks import check_choice, check_kind
from tilth.ir.ops.helpers import in_float32, scalar
from tilth.ir.ops.table import composite, decompose, infer, op
from tilth.ir.types import TensorType


def _float(x: TensorType) -> TensorType:
    check_kind(x, "float")
    return x


composite("relu", "max(x, 0)", "elementwise")


@infer("relu")
def _(x: TensorType) -> TensorType:
    check_kind(x, "int", "uint", "float")
    return x


@decompose("relu")
def _(x: Value) -> Value:
    return op.maximum(x, scalar(0, x))


def _negative_part(x: Value, negative: Value) -> Value:
    """x where it is at least 0, else `negative`."""
    return op.select(op.compare(x, scalar(0, x), direction="GE"), x, negative)


composite("leaky_relu", "x if x >= 0 else alpha x", "elementwise")


@infer("leaky_relu")
def _(x: TensorType, *, alpha: float = 0.01) -> TensorType:
    return _float(x)


@decompose("leaky_relu")
@in_float32
def _(x: Value, *, alpha: float) -> Value:
    return _negative_part(x, op.multiply(x, scalar(alpha, x)))


composite("elu", "x if x >= 0 else alpha (e^x - 1)", "elementwise")


@infer("elu")
def _(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    return _float(x)


@decompose("elu")
@in_float32
def _(x: Value, *, alpha: float) -> Value:
    return _negative_part(x, op.multiply(op.exponential_minus_one(x), scalar(alpha, x)))


composite("selu", "gamma (x if x >= 0 else alpha (e^x - 1))", "elementwise")


@infer("selu")
def _(
    x: TensorType, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805
) -> TensorType:
    return _float(x)


@decompose("selu")
@in_float32
def _(x: Value, *, alpha: float, gamma: float) -> Value:
    return op.multiply(op.elu(x, alpha=alpha), scalar(gamma, x))


composite("hard_sigmoid", "alpha x + beta, clamped to [0, 1]", "elementwise")


@infer("hard_sigmoid")
def _(x: TensorType, *, alpha: float = 0.2, beta: float = 0.5) -> TensorType:
    return _float(x)


@decompose("hard_sigmoid")
@in_float32
def _(x: Value, *, alpha: float, beta: float) -> Value:
    line = op.add(op.multiply(x, scalar(alpha, x)), scalar(beta, x))
    return op.clamp(scalar(0, x), line, scalar(1, x))


composite("gelu", "x times the normal distribution function of x, exact or by tanh", "elementwise")


@infer("gelu")
def _(x: TensorType, *, approximate: str = "none") -> TensorType:
    check_choice("approximate", approximate, ("none", "tanh"))
    return _float(x)


@decompose("gelu")
@in_float32
def _(x: Value, *, approximate: str) -> Value:
    """Hendrycks and Gimpel, "Gaussian error linear units", 2016."""
    if approximate == "none":
        curve = op.erf(op.multiply(x, scalar(math.sqrt(1 / 2), x)))
    else:
        cube = op.multiply(op.multiply(x, x), x)
        inner = op.add(x, op.multiply(cube, scalar(0.044715, x)))
        curve = op.tanh(op.multiply(inner, scalar(math.sqrt(2 / math.pi), x)))
    return op.multiply(op.multiply(x, scalar(0.5, x)), op.add(curve, scalar(1, x)))


def _softplus(x: Value) -> Value:
    """ln(1 + e^x) as max(x, 0) + ln(1 + e^-|x|), which cannot overflow."""
    tail = op.log_plus_one(op.exponential(op.negate(op.abs(x))))
    return op.add(op.maximum(x, scalar(0, x)), tail)


def _softsign(x: Value) -> Value:
    return op.divide(x, op.add(op.abs(x), scalar(1, x)))


def _silu(x: Value) -> Value:
    return op.multiply(x, op.logistic(x))


def _hard_swish(x: Value) -> Value:
    return op.multiply(x, op.hard_sigmoid(x, alpha=1 / 6, beta=0.5))


def _mish(x: Value) -> Value:
    return op.multiply(x, op.tanh(op.softplus(x)))


_PLAIN: dict[str, tuple[Callable[[Value], Value], str]] = {
    "softplus": (_softplus, "ln(1 + e^x)"),
    "softsign": (_softsign, "x / (1 + |x|)"),
    "silu": (_silu, "x logistic(x)"),
    "hard_swish": (_hard_swish, "x clamp(x / 6 + 1 / 2, 0, 1)"),
    "mish": (_mish, "x tanh(softplus(x))"),
}

for _name, (_meaning, _doc) in _PLAIN.items():
    composite(_name, _doc, "elementwise")
    infer(_name)(_float)
    decompose(_name)(in_float32(_meaning))
