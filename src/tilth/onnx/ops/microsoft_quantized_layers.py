"""Whole layers of com.microsoft with quantised weights: attention, embeddings, LSTM.

They are the float layers on dequantised values; where activations come quantised, the projection
is summed in integers. The LSTM's activations stay floats: quantising each step's state anew would
only add errors.
"""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.microsoft_attention import attend_projected
from tilth.onnx.ops.microsoft_normalization import embed_layer_normalization
from tilth.onnx.ops.microsoft_quantized_matrix import matmul_integer_to_float
from tilth.onnx.ops.recurrent import lstm
from tilth.onnx.quantized import dequantized
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("QAttention", domain=DOMAIN)
def qattention(
    cx: NodeContext,
    x: Value,
    weights: Value,
    bias: Value,
    x_scale: Value,
    w_scale: Value,
    mask: Value | None = None,
    x_zero: Value | None = None,
    w_zero: Value | None = None,
    past: Value | None = None,
) -> list[Value]:
    """Self-attention of x [B, S, D], projected by weights [D, 3 D'], whose columns may have scales
    of their own."""
    projected = matmul_integer_to_float(cx, x, weights, x_scale, w_scale, x_zero, w_zero, bias)
    return attend_projected(cx, projected, mask, past)


@onnx_op("QEmbedLayerNormalization", domain=DOMAIN)
def qembed_layer_normalization(
    cx: NodeContext,
    words: Value,
    segments: Value | None,
    word_table: Value,
    position_table: Value,
    segment_table: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None,
    word_scale: Value,
    position_scale: Value,
    segment_scale: Value | None,
    gamma_scale: Value,
    beta_scale: Value,
    word_zero: Value,
    position_zero: Value,
    segment_zero: Value | None,
    gamma_zero: Value,
    beta_zero: Value,
) -> list[Value]:
    """Gives the layer norm of the sum of embeddings [B, S, H], and the words that the mask keeps
    [B]."""
    third = None
    if segment_table is not None and segment_scale is not None:
        third = dequantized(segment_table, segment_scale, segment_zero)
    y, count, _ = embed_layer_normalization(
        cx,
        words,
        segments,
        dequantized(word_table, word_scale, word_zero),
        dequantized(position_table, position_scale, position_zero),
        third,
        dequantized(gamma, gamma_scale, gamma_zero),
        dequantized(beta, beta_scale, beta_zero),
        mask,
    )
    return [y, count]


@onnx_op("DynamicQuantizeLSTM", domain=DOMAIN)
def dynamic_quantize_lstm(
    cx: NodeContext,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None,
    lengths: Value | None,
    h0: Value | None,
    c0: Value | None,
    peepholes: Value | None,
    w_scale: Value,
    w_zero: Value,
    r_scale: Value,
    r_zero: Value,
) -> list[Value]:
    """Weights lie [directions, inputs, gates], with scales per direction or per gate."""
    w, r = _gates_first(w, w_scale, w_zero), _gates_first(r, r_scale, r_zero)
    return lstm(cx, x, w, r, bias, lengths, h0, c0, peepholes)


def _gates_first(w: Value, scale: Value, zero: Value) -> Value:
    """Dequantised weights [directions, gates, inputs]."""
    shape = (w.shape[0], 1, scale.tensor.size // w.shape[0])
    centred = op.subtract(as_dtype(w, f32), as_dtype(as_shape(zero, shape), f32))
    return permuted(op.multiply(centred, as_shape(scale, shape)), (0, 2, 1))
