"""Dilated convolutions as dense ones of interleaved images.

A window that sees every second pixel of every second row never mixes odd and even ones: the map is
four smaller maps, each convolved densely. As a batch they can be computed by Winograd's algorithm,
which more than pays for sorting the pixels there and back (Yu and Koltun, "Multi-Scale Context
Aggregation by Dilated Convolutions", 2016, is where such windows come from).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilth.compiler.match import rebuild
from tilth.ir.graph import Node, Value
from tilth.ir.ops.helpers import scalar
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule

_LEAST_CHANNELS = 64  # with fewer, sorting costs what it gains


def interleaved_images(node: Node) -> Value | None:
    """convolution(x, w, rhs_dilation) -> join(convolution(split(x), w))"""
    if not _is_worth_splitting(node):
        return None
    dilation, shape = node.attrs["rhs_dilation"], node.outputs[0].shape
    parts = _split(_padded(node), dilation)
    none = {"padding": ((0, 0),) * len(dilation), "rhs_dilation": (1,) * len(dilation)}
    (results,) = rebuild(node, (parts, node.inputs[1]), **none)
    joined = _join(results, dilation)
    return op.slice(joined, start=(0,) * len(shape), limit=shape, strides=(1,) * len(shape))


def _is_worth_splitting(node: Node) -> bool:
    """Whether the dense convolution is one of Winograd's, with enough to do for each pixel."""
    attrs, (x, w) = node.attrs, node.inputs
    return (
        attrs["layout"] == "channels_last"
        and attrs["groups"] == 1
        and w.shape[:-2] == (3, 3)
        and max(attrs["rhs_dilation"]) > 1
        and set(attrs["strides"]) | set(attrs["lhs_dilation"]) == {1}
        and min(x.shape[-1], w.shape[-1]) >= _LEAST_CHANNELS
    )


def _padded(node: Node) -> Value:
    """The operand with its padding, and enough below and right for parts of one size."""
    x, spatial = node.inputs[0], node.attrs["padding"]
    sizes = (n + low + high for n, (low, high) in zip(x.shape[1:-1], spatial, strict=True))
    rest = [-size % d for size, d in zip(sizes, node.attrs["rhs_dilation"], strict=True)]
    low = (0, *(low for low, _ in spatial), 0)
    high = (0, *(high + more for (_, high), more in zip(spatial, rest, strict=True)), 0)
    return op.pad(x, scalar(0, x), low=low, high=high, interior=(0,) * len(low))


def _split(x: Value, dilation: Sequence[int]) -> Value:
    """[N, H * dh, W * dw, C] -> [N * dh * dw, H, W, C]: pixels that windows see together."""
    batch, height, width, channels = x.shape
    dh, dw = dilation
    cells = op.reshape(x, shape=(batch, height // dh, dh, width // dw, dw, channels))
    sorted_ = op.transpose(cells, permutation=(0, 2, 4, 1, 3, 5))
    parts = (batch * math.prod(dilation), height // dh, width // dw, channels)
    return op.reshape(sorted_, shape=parts)


def _join(x: Value, dilation: Sequence[int]) -> Value:
    """[N * dh * dw, H, W, C] -> [N, H * dh, W * dw, C]"""
    parts, height, width, channels = x.shape
    dh, dw = dilation
    cells = op.reshape(x, shape=(parts // (dh * dw), dh, dw, height, width, channels))
    mixed = op.transpose(cells, permutation=(0, 3, 1, 4, 2, 5))
    return op.reshape(mixed, shape=(parts // (dh * dw), height * dh, width * dw, channels))


RULES = (Rule("interleaved images", ("convolution",), interleaved_images),)
