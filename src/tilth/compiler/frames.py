"""Convolutions over three dimensions as convolutions of frames, each with its neighbours' channels.

The frames that a window covers are put side by side as channels, and all result frames become a
batch: [D, H, W, C] becomes [D', H, W, window * C]. Every algorithm for images then computes
volumes; to Winograd's and a matrix unit's the copies are a small price. Windows that cover one
pixel of each frame would pay it for little work and stay as they are.
"""

from __future__ import annotations

import math

from tilth.compiler.match import rebuild, transposed
from tilth.ir.graph import Node, Value
from tilth.ir.ops.helpers import scalar
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule


def frames_as_batch(node: Node) -> Value | None:
    """convolution(x [1, D, H, W, C], w) -> convolution(windows of frames [D', H, W, d * C], w)"""
    if not _is_of_frames(node):
        return None
    x, w = node.inputs
    depth, height, width, channels, outputs = w.shape
    frames = _windows_of_frames(op.reshape(x, shape=x.shape[1:]), node)
    weights = op.reshape(
        transposed(w, (1, 2, 0, 3, 4)), shape=(height, width, depth * channels, outputs)
    )
    flat = {name: node.attrs[name][1:] for name in ("strides", "padding")}
    dilations = {name: node.attrs[name][1:] for name in ("lhs_dilation", "rhs_dilation")}
    (result,) = rebuild(node, (frames, weights), **flat, **dilations)
    return op.reshape(result, shape=node.outputs[0].shape)


def _is_of_frames(node: Node) -> bool:
    """Whether one volume is convolved over rank 3, and there is enough to do for each copy."""
    attrs, x = node.attrs, node.inputs[0]
    return (
        attrs["layout"] == "channels_last"
        and attrs["groups"] == 1
        and x.tensor.rank == 5
        and x.shape[0] == 1
        and attrs["lhs_dilation"][0] == 1
        and math.prod(node.inputs[1].shape[1:3]) > 1
    )


def _windows_of_frames(x: Value, node: Node) -> Value:
    """[D, H, W, C] -> [D', H, W, window * C]"""
    stride, dilation = (node.attrs[name][0] for name in ("strides", "rhs_dilation"))
    (low, high), window = node.attrs["padding"][0], node.inputs[1].shape[0]
    if low or high:
        zero = scalar(0, x)
        x = op.pad(x, zero, low=(low, 0, 0, 0), high=(high, 0, 0, 0), interior=(0,) * 4)
    reach = (node.outputs[0].shape[1] - 1) * stride + 1
    taps = [
        op.slice(
            x,
            start=(k * dilation, 0, 0, 0),
            limit=(k * dilation + reach, *x.shape[1:]),
            strides=(stride, 1, 1, 1),
        )
        for k in range(window)
    ]
    return op.concatenate(*taps, axis=3) if window > 1 else taps[0]


RULES = (Rule("frames as batch", ("convolution",), frames_as_batch),)
