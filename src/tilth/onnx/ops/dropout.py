"""Dropout. While training, what is dropped follows from the node's seed, or, without one, from its
name: like every compiled graph it is the same at each call.

The numbers are those of NumPy's legacy generator, as in the standard's reference implementation.
"""

from __future__ import annotations

import zlib

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.table import op
from tilth.ir.types import bool_
from tilth.onnx.build import scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


@onnx_op("Dropout", since=12)
def dropout(
    cx: NodeContext, x: Value, ratio: Value | None = None, training: Value | None = None
) -> list[Value]:
    if training is None or not cx.static(training, "training_mode").any():
        return dropout_inference(cx, x)
    rate = 0.5 if ratio is None else cx.static(ratio, "the dropout ratio").item()
    if not 0 <= rate < 1:
        raise ValueError(f"the ratio {rate} is not in [0, 1)")
    seed = cx.attr("seed", zlib.crc32(cx.label.encode()))
    draws = np.random.RandomState(seed % 2**32).uniform(0, 1, x.shape)
    mask = make_constant(np.asarray(draws >= rate))
    kept = op.select(mask, op.multiply(x, scalar(1 / (1 - rate), x)), scalar(0, x))
    return [kept, mask] if cx.wants(1) else [kept]


@onnx_op("Dropout", since=1)
def dropout_inference(cx: NodeContext, x: Value) -> list[Value]:
    """At inference nothing is dropped, and the mask keeps everything."""
    dtype = bool_ if cx.version >= 10 else x.tensor.dtype
    mask = make_constant(np.broadcast_to(np.ones((), dtype.numpy), x.shape))
    return [x, mask] if cx.wants(1) else [x]
