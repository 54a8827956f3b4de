"""Linear attention of com.microsoft and the causal convolution before it, with their states.

They are the layers of Gated DeltaNet (Yang et al., 2024) and Mamba (Gu and Dao, 2023). A step of
linear attention is written here once; `scan` runs it over the sequence.
"""

from __future__ import annotations

import math

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, Value, make_input
from tilth.ir.ops.helpers import align, as_dtype, as_shape, broadcast_to, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import concatenate, expand_dims, full, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"
# Which rules forget by a decay, and which write the difference to what the state says already.
_RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}


def _require_one_state(cx: NodeContext) -> None:
    if cx.attr("state_window", 0):
        raise UnsupportedError(f"{cx.label}: states of several steps (state_window)")


@onnx_op("CausalConvWithState", domain=DOMAIN)
def causal_conv_with_state(
    cx: NodeContext, x: Value, w: Value, bias: Value | None = None, past: Value | None = None
) -> list[Value]:
    """A depthwise convolution of x [B, C, L] with w [C, 1, k] that sees what came before, and the
    inputs [B, C, (k - 1) dilation] that the next call has to see."""
    _require_one_state(cx)
    if cx.attr("ndim", 1) != 1:
        raise UnsupportedError(f"{cx.label}: more than one spatial dimension")
    last, shape = bool(cx.attr("channels_last", 0)), x.shape
    channels, _, taps = w.shape
    dilation = cx.attr("dilation", 1)
    held = (taps - 1) * dilation
    if last:  # [B, L, C..]
        x = _channels_first(x, channels)
        past = None if past is None else _channels_first(past, channels)
    if past is None:
        past = full(0, (shape[0], channels, held), x.tensor.dtype)
    seen = concatenate([past, x], 2)
    y = op.convolution(
        seen,
        w,
        strides=(1,),
        padding=((0, 0),),
        lhs_dilation=(1,),
        rhs_dilation=(dilation,),
        groups=channels,
        layout="channels_first",
    )
    if bias is not None:
        y = op.add(y, align(bias, 1, 3))
    if cx.choice("activation", {"none": False, "silu": True, "swish": True}, "none"):
        y = op.silu(y)
    state = slice_axis(seen, 2, seen.shape[2] - held, seen.shape[2])
    if last:
        y = as_shape(permuted(y, (0, 2, 1)), shape)
        state = as_shape(permuted(state, (0, 2, 1)), (shape[0], held, *shape[2:]))
    return [y, state]


def _channels_first(x: Value, channels: int) -> Value:
    """[B, L, C..] to [B, C, L]"""
    return permuted(as_shape(x, (*x.shape[:2], channels)), (0, 2, 1))


@onnx_op("LinearAttention", domain=DOMAIN)
def linear_attention(
    cx: NodeContext,
    query: Value,
    key: Value,
    value: Value,
    past: Value | None = None,
    decay: Value | None = None,
    beta: Value | None = None,
) -> list[Value]:
    """Queries read from a matrix per head into which keys and values are written step by step.

    Operands are [B, T, heads size], the state is [B, K, key size, value size], all computed in f32.
    """
    _require_one_state(cx)
    forgets, corrects = cx.choice("update_rule", _RULES, "gated_delta")
    heads, shared = cx.attr("q_num_heads"), cx.attr("kv_num_heads")
    q, k, v = (_steps(x, n) for x, n in ((query, heads), (key, shared), (value, shared)))
    scale = cx.attr("scale", 0.0) or 1 / math.sqrt(q.shape[3])
    q = _grouped(op.multiply(q, scalar(scale, q)), shared)
    sequences = [q, k, v]
    for wanted, gate, name in ((forgets, decay, "decay"), (corrects, beta, "beta")):
        if wanted and gate is None:
            raise ValueError(f"the update rule needs '{name}'")
        if wanted and gate is not None:
            sequences.append(_steps(gate, shared if gate.shape[2] >= shared else 1))
    shape = (query.shape[0], shared, k.shape[3], v.shape[3])
    start = full(0, shape, f32) if past is None else as_dtype(past, f32)
    body = _step(start, sequences, forgets, corrects)
    state, read = op.scan(start, *sequences, body=body, carries=1)
    y = permuted(read, (1, 0, 2, 3, 4))  # [B, T, K, G, value size]
    y = as_shape(y, (*query.shape[:2], math.prod(y.shape[2:])))
    kept = query if past is None else past
    return [as_dtype(y, query.tensor.dtype), as_dtype(state, kept.tensor.dtype)]


def _steps(x: Value, heads: int) -> Value:
    """[B, T, N H] to f32 [T, B, N, H]"""
    batch, length, size = x.shape
    x = as_shape(as_dtype(x, f32), (batch, length, heads, size // heads))
    return permuted(x, (1, 0, 2, 3))


def _grouped(q: Value, shared: int) -> Value:
    """Queries [T, B, N, H] as [T, B, K, G, H]: a group per state, or one query for several."""
    length, batch, heads, size = q.shape
    if heads < shared:
        q = broadcast_to(expand_dims(q, (3,)), (length, batch, heads, shared // heads, size))
    return as_shape(q, (length, batch, shared, max(1, heads // shared), size))


def _step(start: Value, sequences: list[Value], forgets: bool, corrects: bool) -> Graph:
    """One step: state' = e^decay state + beta k (v - k e^decay state), and what q reads from it.

    Without `forgets` there is no decay, without `corrects` all of v is written.
    """
    state = make_input(start.type, "state")
    slices = [
        make_input(x.tensor.with_shape(x.shape[1:]), f"step{i}") for i, x in enumerate(sequences)
    ]
    q, k, v, *gates = slices
    kept = op.multiply(state, op.exponential(expand_dims(gates[0], (3,)))) if forgets else state
    if corrects:
        known = op.dot_general(
            k, kept, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(2,), rhs_contract=(2,)
        )
        v = op.multiply(op.subtract(v, known), gates[-1])
    written = op.multiply(expand_dims(k, (3,)), expand_dims(v, (2,)))
    new = op.add(kept, written)
    read = op.dot_general(
        q, new, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,)
    )
    return Graph((state, *slices), (new, read))
