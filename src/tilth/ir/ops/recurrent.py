"""Recurrent layers as composites over `scan`.

The part of the gates that depends on the input alone is one big matmul over all steps, which the
importer places outside; what is left is the recurrence. Gate orders are ONNX's.
"""

from __future__ import annotations

from collections.abc import Callable

from tilth.ir.graph import Graph, Value, make_input
from tilth.ir.ops.checks import check_kind, check_same_dtype
from tilth.ir.ops.helpers import in_float32, scalar, split
from tilth.ir.ops.table import composite, decompose, infer, op
from tilth.ir.types import TensorType


def _check_shapes(gates: int, xp: TensorType, r: TensorType, *states: TensorType) -> int:
    """xp [S, B, gates H], r [gates H, H], states [B, H]; gives H."""
    check_kind(xp, "float")
    check_same_dtype(xp, r, *states)
    if xp.rank != 3 or r.rank != 2:
        raise ValueError(f"{xp} and {r} must have ranks 3 and 2")
    hidden = r.dims[1]
    if r.dims[0] != gates * hidden or xp.dims[2] != gates * hidden:
        raise ValueError(f"{xp} and {r} have not {gates} gates of {hidden}")
    for state in states:
        if state.shape != (xp.shape[1], hidden):
            raise ValueError(f"the state {state} must be [{xp.shape[1]},{hidden}]")
    return hidden


def _times_transposed(x: Value, w: Value) -> Value:
    """x w^T."""
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(1,))


def _scan(
    step: Callable[..., tuple[Value, ...]],
    states: tuple[Value, ...],
    weights: tuple[Value, ...],
    xp: Value,
    reverse: bool,
) -> tuple[Value, ...]:
    """Scan `step(*states, *weights, xp_t) -> states`; gives y (the first state stacked), states."""
    operands = (*states, *weights)
    inputs = [make_input(v.type, f"carry{i}") for i, v in enumerate(operands)]
    slice_ = make_input(xp.tensor.with_shape(xp.shape[1:]), "slice")
    after = step(*inputs, slice_)
    kept = inputs[len(states) :]
    body = Graph((*inputs, slice_), (*after, *kept, after[0]), name="step")
    *results, y = op.scan(*operands, xp, body=body, carries=len(operands), reverse=reverse)
    return (y, *results[: len(states)])


composite("lstm_recurrence", "the steps of an LSTM over gates computed from the input")


@infer("lstm_recurrence")
def _(
    xp: TensorType, r: TensorType, h0: TensorType, c0: TensorType, *, reverse: bool = False
) -> tuple[TensorType, TensorType, TensorType]:
    """xp [S, B, 4H] = x W^T + bias, r [4H, H], h0 and c0 [B, H], gates i o f c.

    Gives y [S, B, H] and the last h and c.
    """
    hidden = _check_shapes(4, xp, r, h0, c0)
    return xp.with_shape((*xp.dims[:2], hidden)), h0, c0


@decompose("lstm_recurrence")
@in_float32
def _(xp: Value, r: Value, h0: Value, c0: Value, *, reverse: bool) -> tuple[Value, ...]:
    def step(h: Value, c: Value, r: Value, xt: Value) -> tuple[Value, Value]:
        gates = op.add(xt, _times_transposed(h, r))
        i, o, f, new = split(gates, [h.shape[1]] * 4, axis=1)
        kept = op.multiply(op.logistic(f), c)
        c = op.add(kept, op.multiply(op.logistic(i), op.tanh(new)))
        return op.multiply(op.logistic(o), op.tanh(c)), c

    return _scan(step, (h0, c0), (r,), xp, reverse)


composite("gru_recurrence", "the steps of a GRU over gates computed from the input")


@infer("gru_recurrence")
def _(
    xp: TensorType,
    r: TensorType,
    rb: TensorType,
    h0: TensorType,
    *,
    reverse: bool = False,
    linear_before_reset: bool = False,
) -> tuple[TensorType, TensorType]:
    """xp [S, B, 3H] = x W^T + bias, r [3H, H], rb [3H], h0 [B, H], gates z r h.

    Gives y [S, B, H] and the last h.
    """
    check_same_dtype(xp, rb)
    hidden = _check_shapes(3, xp, r, h0)
    if rb.shape != (3 * hidden,):
        raise ValueError(f"the recurrent bias {rb} must be [{3 * hidden}]")
    return xp.with_shape((*xp.dims[:2], hidden)), h0


@decompose("gru_recurrence")
@in_float32
def _(
    xp: Value, r: Value, rb: Value, h0: Value, *, reverse: bool, linear_before_reset: bool
) -> tuple[Value, ...]:
    def step(h: Value, r: Value, rb: Value, xt: Value) -> tuple[Value]:
        sizes = [h.shape[1]] * 3
        x_update, x_reset, x_new = split(xt, sizes, axis=1)
        r_update, r_reset, r_new = split(r, sizes, axis=0)
        b_update, b_reset, b_new = split(rb, sizes, axis=0)

        def recurrent(state: Value, weight: Value, bias: Value) -> Value:
            return op.add(_times_transposed(state, weight), bias)

        update = op.logistic(op.add(x_update, recurrent(h, r_update, b_update)))
        reset = op.logistic(op.add(x_reset, recurrent(h, r_reset, b_reset)))
        if linear_before_reset:
            memory = op.multiply(reset, recurrent(h, r_new, b_new))
        else:
            memory = recurrent(op.multiply(reset, h), r_new, b_new)
        new = op.tanh(op.add(x_new, memory))
        kept = op.multiply(update, h)
        return (op.add(op.multiply(op.subtract(scalar(1, h), update), new), kept),)

    return _scan(step, (h0,), (r, rb), xp, reverse)
