"""Mixtures of experts of com.microsoft.

Every expert is computed for every token, and weighed by 0 where the router did not choose it: the
shapes then do not depend on the data.

Source: ONNX Runtime, "Contrib Operators" (docs/ContribOperators.md), MoE and QMoE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i64
from tilth.onnx.build import expand_dims, iota, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.packed import dequantized_blocks, unpacked
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"
_ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "relu": op.relu,
    "gelu": lambda x: op.gelu(x, approximate="tanh"),
    "silu": op.silu,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class Layer:
    """A linear layer per expert: weights [E, outputs, inputs] and, perhaps, a bias [E, outputs]."""

    weights: Value
    bias: Value | None

    def of_tokens(self, x: Value) -> Value:
        """[T, inputs] gives [E, T, outputs]: one product for all experts."""
        y = op.dot_general(x, self.weights, lhs_contract=(1,), rhs_contract=(2,))
        return self._shifted(op.transpose(y, permutation=(1, 0, 2)))

    def of_each(self, x: Value) -> Value:
        """[E, T, inputs] gives [E, T, outputs]."""
        y = op.dot_general(
            x, self.weights, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(2,)
        )
        return self._shifted(y)

    def _shifted(self, y: Value) -> Value:
        return y if self.bias is None else op.add(y, expand_dims(as_dtype(self.bias, f32), (1,)))


@onnx_op("MoE", domain=DOMAIN)
def mixture_of_experts(
    cx: NodeContext,
    x: Value,
    router: Value,
    w1: Value,
    b1: Value | None,
    w2: Value,
    b2: Value | None = None,
    w3: Value | None = None,
    b3: Value | None = None,
) -> Value:
    third = None if w3 is None else Layer(as_dtype(w3, f32), b3)
    layers = Layer(as_dtype(w1, f32), b1), Layer(as_dtype(w2, f32), b2), third
    return _mixed(cx, x, layers, _mixing_weights(cx, router))


@onnx_op("QMoE", domain=DOMAIN)
def quantized_mixture_of_experts(
    cx: NodeContext,
    x: Value,
    router: Value,
    w1: Value,
    s1: Value | None,
    b1: Value | None,
    w2: Value,
    s2: Value | None,
    b2: Value | None = None,
    w3: Value | None = None,
    s3: Value | None = None,
    b3: Value | None = None,
    z1: Value | None = None,
    z2: Value | None = None,
    z3: Value | None = None,
    router_weights: Value | None = None,
    *others: Value | None,
) -> Value:
    """Weights are integers of few bits, scaled per output or per block of inputs."""
    if cx.attr("quant_type", "int") != "int" or any(v is not None for v in others):
        raise UnsupportedError(f"{cx.label}: quant_type other than 'int', and what belongs to it")
    if cx.attr("weights_prepacked", -1) == 1:
        raise UnsupportedError(f"{cx.label}: weights in a device's own layout (weights_prepacked)")

    def layer(
        which: int, w: Value, scales: Value | None, bias: Value | None, z: Value | None
    ) -> Layer:
        if scales is None:
            raise ValueError(f"the scales of layer {which} are required")
        bits = cx.attr(f"fc{which}_expert_weight_bits", cx.attr("expert_weight_bits", 4))
        return Layer(_real_weights(w, scales, z, bits), bias)

    third = None if w3 is None else layer(3, w3, s3, b3, z3)
    layers = layer(1, w1, s1, b1, z1), layer(2, w2, s2, b2, z2), third
    return _mixed(cx, x, layers, _mixing_weights(cx, router, router_weights))


def _real_weights(w: Value, scales: Value, zeros: Value | None, bits: int) -> Value:
    """[E, N, bytes] to [E, N, K]; without blocks a row of weights has one scale."""
    if len(scales.shape) == 3:
        return dequantized_blocks(w, scales, zeros, bits, w.shape[-1] * 8 // bits)
    scales = expand_dims(scales, (2,))
    if zeros is not None:  # packed along the rows
        experts, rows, _ = scales.shape
        zeros = as_shape(as_dtype(unpacked(zeros, bits, rows), f32), (experts, rows, 1))
    return dequantized_blocks(w, scales, zeros, bits, w.shape[-1] * 8 // bits)


def _mixing_weights(cx: NodeContext, router: Value, values: Value | None = None) -> Value:
    """[T, E]: how much each expert counts for each token, 0 where it is not among the best k."""
    k, logits = cx.attr("k", 1), as_dtype(router, f32)
    experts = logits.shape[1]
    _, best = op.top_k(logits, k=k, axis=1, largest=True)
    hits = op.compare(expand_dims(best, (2,)), iota((*best.shape, experts), 2, i64), direction="EQ")
    chosen = op.reduce(hits, kind="or", axes=(1,))
    weights = op.softmax(logits, axis=1) if values is None else as_dtype(values, f32)
    weights = op.select(chosen, weights, scalar(0, weights))
    if cx.attr("normalize_routing_weights", 0):
        weights = op.divide(weights, reduce_keepdims(weights, "sum", (1,)))
    return weights


def _mixed(
    cx: NodeContext, x: Value, layers: tuple[Layer, Layer, Layer | None], weights: Value
) -> Value:
    if cx.attr("use_sparse_mixer", 0):
        raise UnsupportedError(f"{cx.label}: use_sparse_mixer")
    first, second, third = layers
    tokens = as_dtype(as_shape(x, (math.prod(x.shape[:-1]), x.shape[-1])), f32)
    hidden = first.of_tokens(tokens)
    gate = None if third is None else third.of_tokens(tokens)
    results = second.of_each(_activated(cx, hidden, gate))
    per_expert = expand_dims(op.transpose(weights, permutation=(1, 0)), (2,))
    total = op.reduce(op.multiply(results, per_expert), kind="sum", axes=(0,))
    return as_dtype(as_shape(total, x.shape), x.tensor.dtype)


def _activated(cx: NodeContext, hidden: Value, gate: Value | None) -> Value:
    """What goes into the second layer; `gate` is the third layer's result."""
    if cx.attr("activation_type", "relu") != "swiglu":
        y = cx.choice("activation_type", _ACTIVATIONS, "relu")(hidden)
        return y if gate is None else op.multiply(y, gate)
    fusion, half = cx.attr("swiglu_fusion", 0), hidden.shape[2] // 2
    if fusion == 1:
        hidden, gate = (slice_axis(hidden, 2, i, 2 * half, 2) for i in (0, 1))
    elif fusion == 2:
        hidden, gate = (slice_axis(hidden, 2, i, i + half) for i in (0, half))
    elif gate is None:
        raise ValueError("swiglu needs the third layer where it is not fused into the first")
    return _swiglu(cx, hidden, gate)


def _swiglu(cx: NodeContext, g: Value, linear: Value) -> Value:
    """g sigmoid(alpha g) (linear + beta), g and linear clamped to the limit"""
    if cx.has("swiglu_limit"):
        limit = scalar(cx.attr("swiglu_limit"), g)
        g, linear = op.minimum(g, limit), op.clamp(op.negate(limit), linear, limit)
    slope = op.multiply(g, scalar(cx.attr("activation_alpha", 1.0), g))
    shifted = op.add(linear, scalar(cx.attr("activation_beta", 0.0), g))
    return op.multiply(op.multiply(g, op.logistic(slope)), shifted)
