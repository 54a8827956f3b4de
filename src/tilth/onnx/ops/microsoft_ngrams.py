"""NGramRepeatBlock of com.microsoft, with which beam searches avoid repeating themselves."""

from __future__ import annotations

import math

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.ops.table import op
from tilth.ir.types import bool_, i64
from tilth.onnx.build import expand_dims, full, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


@onnx_op("NGramRepeatBlock", domain="com.microsoft")
def ngram_repeat_block(cx: NodeContext, tokens: Value, scores: Value) -> Value:
    """Scores [B, V], -inf for tokens that would repeat an n-gram of tokens [B, S]."""
    size, (batch, length) = cx.attr("ngram_size"), tokens.shape
    if length < size:
        return scores
    tokens = as_dtype(tokens, i64)
    starts = length - size + 1  # an n-gram begins at each
    repeats = full(True, (batch, starts), bool_)
    for i in range(size - 1):
        newest = slice_axis(tokens, 1, starts + i, starts + i + 1)
        same = op.compare(slice_axis(tokens, 1, i, i + starts), newest, direction="EQ")
        repeats = op.and_(repeats, same)
    followers = slice_axis(tokens, 1, size - 1, length)
    limit = op.select(repeats, scalar(-math.inf, scores), scalar(math.inf, scores))
    return op.scatter(
        scores,
        expand_dims(followers, (2,)),
        limit,
        update_window_dims=(),
        inserted_window_dims=(1,),
        scatter_dims_to_operand_dims=(1,),
        index_vector_dim=2,
        input_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
        kind="min",
    )
