"""LSTM, GRU and RNN layers.

The product of the inputs with their weights is taken for all steps at once, outside the recurrence.
Plain layers become the recurrence composites; anything special (peepholes, clipping, other
activations, sequences of different lengths) is a `scan` over a step built here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, Value, make_input
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted, split
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import concatenate, expand_dims, full, iota, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

Activation = Callable[[Value], Value]
Step = Callable[..., tuple[Value, ...]]


@dataclass(frozen=True)
class Layer:
    """One direction of a layer: the operands without their leading direction dimension."""

    xp: Value  # [S, B, gates H], input products with their bias
    r: Value  # [gates H, H]
    rb: Value  # [gates H], bias of the recurrent product
    peepholes: Value | None  # [3 H]
    states: tuple[Value, ...]  # [B, H] each
    lengths: Value | None  # i64 [B, 1]
    reverse: bool
    activations: tuple[str, ...]
    alphas: tuple[float | None, ...]
    betas: tuple[float | None, ...]
    clip: float | None

    @property
    def is_plain(self) -> bool:
        return self.peepholes is None and self.lengths is None and self.clip is None

    @property
    def hidden(self) -> int:
        return self.r.shape[1]

    def activation(self, index: int) -> Activation:
        """The `index`-th activation function, clipping its argument first."""
        name, alpha, beta = self.activations[index], self.alphas[index], self.betas[index]

        def apply(x: Value) -> Value:
            if self.clip is not None:
                x = op.clamp(scalar(-self.clip, x), x, scalar(self.clip, x))
            return activate(name, x, alpha, beta)

        return apply


def activate(name: str, x: Value, alpha: float | None, beta: float | None) -> Value:
    """An activation function by its ONNX name; its parameters default to those of ONNX."""
    simple = {
        "Relu": "relu", "Tanh": "tanh", "Sigmoid": "logistic", "Softsign": "softsign",
        "Softplus": "softplus", "HardSwish": "hard_swish",
    }  # fmt: skip
    if name in simple:
        return getattr(op, simple[name])(x)

    def number(value: float | None, default: float) -> float:
        return default if value is None else value

    if name == "Affine":
        scaled = op.multiply(x, scalar(number(alpha, 1.0), x))
        return op.add(scaled, scalar(number(beta, 0.0), x))
    if name == "LeakyRelu":
        return op.leaky_relu(x, alpha=number(alpha, 0.01))
    if name == "Elu":
        return op.elu(x, alpha=number(alpha, 1.0))
    if name == "Selu":
        gamma = number(beta, 1.0507009873554805)
        return op.selu(x, alpha=number(alpha, 1.6732632423543772), gamma=gamma)
    if name == "HardSigmoid":
        return op.hard_sigmoid(x, alpha=number(alpha, 0.2), beta=number(beta, 0.5))
    if name == "Clip":
        return op.clamp(scalar(number(alpha, -math.inf), x), x, scalar(number(beta, math.inf), x))
    if name == "ScaledTanh":
        inner = op.tanh(op.multiply(x, scalar(number(beta, 1.0), x)))
        return op.multiply(inner, scalar(number(alpha, 1.0), x))
    if name == "ThresholdedRelu":
        above = op.compare(x, scalar(number(alpha, 1.0), x), direction="GE")
        return op.select(above, x, scalar(0, x))
    raise UnsupportedError(f"activation function '{name}'")


def _times(x: Value, w: Value) -> Value:
    """x w^T over the last dimensions."""
    return op.dot_general(x, w, lhs_contract=(len(x.shape) - 1,), rhs_contract=(1,))


def _part(x: Value, direction: int) -> Value:
    """One direction of an operand whose dimension 0 is the direction."""
    return as_shape(slice_axis(x, 0, direction, direction + 1), x.shape[1:])


def _run(
    cx: NodeContext,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None,
    lengths: Value | None,
    states: Sequence[Value | None],
    peepholes: Value | None,
    defaults: tuple[str, ...],
    cell: Callable[[Layer], tuple[Value, ...]],
) -> list[Value]:
    """Both directions of a layer: Y [S, D, B, H], then each final state [D, B, H]."""
    batch_first = bool(cx.attr("layout", 0))
    if batch_first:
        x = permuted(x, (1, 0, 2))
        states = [None if s is None else permuted(s, (1, 0, 2)) for s in states]
    direction = cx.attr("direction", "forward")
    count, batch, hidden = w.shape[0], x.shape[1], r.shape[2]
    if count != (2 if direction == "bidirectional" else 1):
        raise ValueError(f"direction '{direction}' with weights for {count} directions")
    names = cx.attr("activations", defaults * count)
    alphas, betas = (_parameters(cx, n, names) for n in ("activation_alpha", "activation_beta"))
    per, results = len(defaults), []
    for d in range(count):
        weights = _part(w, d)
        gates = weights.shape[0]
        both = full(0, (2 * gates,), x.tensor.dtype) if bias is None else _part(bias, d)
        wb, rb = split(both, (gates, gates), 0)
        own = slice(d * per, (d + 1) * per)
        zero = full(0, (batch, hidden), x.tensor.dtype)
        layer = Layer(
            xp=op.add(_times(x, weights), wb),
            r=_part(r, d),
            rb=rb,
            peepholes=None if peepholes is None else _part(peepholes, d),
            states=tuple(zero if s is None else _part(s, d) for s in states),
            lengths=None if lengths is None else as_dtype(as_shape(lengths, (batch, 1)), i64),
            reverse=direction == "reverse" or d == 1,
            activations=tuple(names[own]),
            alphas=alphas[own],
            betas=betas[own],
            clip=cx.attr("clip", None),
        )
        results.append(cell(layer))
    y = concatenate([expand_dims(out[0], (1,)) for out in results], 1)
    final = [
        concatenate([expand_dims(out[i], (0,)) for out in results], 0)
        for i in range(1, len(results[0]))
    ]
    if batch_first:
        return [permuted(y, (2, 0, 1, 3)), *(permuted(f, (1, 0, 2)) for f in final)]
    return [y, *final]


def _parameters(cx: NodeContext, attribute: str, names: Sequence[str]) -> tuple[float | None, ...]:
    """ONNX lists parameters only for the functions that have one, in order."""
    takes = {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}
    if attribute == "activation_beta":
        takes = {"Affine", "ScaledTanh", "HardSigmoid"}
    given = cx.attr(attribute, ())
    if len(given) == len(names):
        return tuple(given)
    left = iter(given)
    return tuple(next(left, None) if n in takes else None for n in names)


def _scan(layer: Layer, step: Step, weights: Sequence[Value]) -> tuple[Value, ...]:
    """Run `step(states, xp_t, *weights)`; past its length a sequence keeps state, gives zeros."""
    steps = layer.xp.shape[0]
    carried = [*layer.states, *weights]
    sequences = [layer.xp]
    if layer.lengths is not None:
        carried.append(layer.lengths)
        sequences.append(iota((steps,), 0, i64))
    inputs = [make_input(v.type, f"carry{i}") for i, v in enumerate(carried)]
    slices = [
        make_input(v.tensor.with_shape(v.shape[1:]), f"step{i}") for i, v in enumerate(sequences)
    ]
    n = len(layer.states)
    old = inputs[:n]
    new = step(old, slices[0], *inputs[n : n + len(weights)])
    out = new[0]
    if layer.lengths is not None:
        live = op.compare(slices[1], inputs[-1], direction="LT")
        out = op.select(live, out, scalar(0, out))
        new = tuple(op.select(live, a, b) for a, b in zip(new, old, strict=True))
    body = Graph((*inputs, *slices), (*new, *inputs[n:], out))
    results = op.scan(*carried, *sequences, body=body, carries=len(carried), reverse=layer.reverse)
    return (results[len(carried)], *results[:n])


# The three kinds of cell


@onnx_op("LSTM")
def lstm(
    cx: NodeContext,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
    c0: Value | None = None,
    peepholes: Value | None = None,
) -> list[Value]:
    plain = ("Sigmoid", "Tanh", "Tanh")
    coupled = bool(cx.attr("input_forget", 0))

    def cell(layer: Layer) -> tuple[Value, ...]:
        if layer.is_plain and layer.activations == plain and not coupled:
            xp = op.add(layer.xp, layer.rb)
            return op.lstm_recurrence(xp, layer.r, *layer.states, reverse=layer.reverse)
        return _scan(layer, *_lstm_step(layer, coupled))

    return _run(cx, x, w, r, bias, lengths, (h0, c0), peepholes, plain, cell)


def _lstm_step(layer: Layer, coupled: bool) -> tuple[Step, list[Value]]:
    """Gates i o f c; peepholes are diagonal weights i o f on the cell."""
    f, g, h = (layer.activation(i) for i in range(3))
    hidden = layer.hidden

    def step(
        states: Sequence[Value], xp: Value, r: Value, rb: Value, peep: Value | None = None
    ) -> tuple[Value, ...]:
        past, cell = states
        gates = op.add(op.add(xp, _times(past, r)), rb)
        i, o, forget, new = split(gates, (hidden,) * 4, 1)
        if peep is not None:
            pi, po, pf = split(peep, (hidden,) * 3, 0)
            i = op.add(i, op.multiply(pi, cell))
            forget = op.add(forget, op.multiply(pf, cell))
        i = f(i)
        forget = op.subtract(scalar(1, i), i) if coupled else f(forget)
        after = op.add(op.multiply(forget, cell), op.multiply(i, g(new)))
        if peep is not None:
            o = op.add(o, op.multiply(po, after))
        return op.multiply(f(o), h(after)), after

    weights = [layer.r, layer.rb]
    return step, weights if layer.peepholes is None else [*weights, layer.peepholes]


@onnx_op("GRU")
def gru(
    cx: NodeContext,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
) -> list[Value]:
    plain = ("Sigmoid", "Tanh")
    linear = bool(cx.attr("linear_before_reset", 0))

    def cell(layer: Layer) -> tuple[Value, ...]:
        if layer.is_plain and layer.activations == plain:
            return op.gru_recurrence(
                layer.xp,
                layer.r,
                layer.rb,
                *layer.states,
                reverse=layer.reverse,
                linear_before_reset=linear,
            )
        return _scan(layer, _gru_step(layer, linear), [layer.r, layer.rb])

    return _run(cx, x, w, r, bias, lengths, (h0,), None, plain, cell)


def _gru_step(layer: Layer, linear_before_reset: bool) -> Step:
    """Gates z r h."""
    f, g = layer.activation(0), layer.activation(1)
    sizes = (layer.hidden,) * 3

    def step(states: Sequence[Value], xp: Value, r: Value, rb: Value) -> tuple[Value, ...]:
        (past,) = states
        xz, xr, xh = split(xp, sizes, 1)
        rz, rr, rh = split(r, sizes, 0)
        bz, br, bh = split(rb, sizes, 0)
        update = f(op.add(xz, op.add(_times(past, rz), bz)))
        reset = f(op.add(xr, op.add(_times(past, rr), br)))
        if linear_before_reset:
            memory = op.multiply(reset, op.add(_times(past, rh), bh))
        else:
            memory = op.add(_times(op.multiply(reset, past), rh), bh)
        new = g(op.add(xh, memory))
        keep = op.multiply(update, past)
        return (op.add(op.multiply(op.subtract(scalar(1, update), update), new), keep),)

    return step


@onnx_op("RNN")
def rnn(
    cx: NodeContext,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
) -> list[Value]:
    def cell(layer: Layer) -> tuple[Value, ...]:
        f = layer.activation(0)

        def step(states: Sequence[Value], xp: Value, r: Value, rb: Value) -> tuple[Value, ...]:
            return (f(op.add(op.add(xp, _times(states[0], r)), rb)),)

        return _scan(layer, step, [layer.r, layer.rb])

    return _run(cx, x, w, r, bias, lengths, (h0,), None, ("Tanh",), cell)
