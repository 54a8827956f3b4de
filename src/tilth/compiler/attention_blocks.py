"""Long attention in blocks of heads and rows, so that the scores stay in a cache.

softmax(q k') v of thousands of positions makes more scores than any cache holds, which are written
and read three times. Rows of scores do not depend on each other: blocks of them are computed to the
end, one after the other, in the same little memory, and their results lie side by side (the
blocking of FlashAttention, Dao et al. 2022, without its running maximum: a row is never cut).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tilth.compiler.match import is_elementwise, rebuild
from tilth.ir.graph import Graph, Node, Value, clone
from tilth.ir.ops.table import op

_MOST_BLOCKS = 64  # each is code of its own
Range = tuple[int, int]


def block_attention(graph: Graph, most_bytes: int, only_shared: bool = False) -> Graph:
    """`graph` with the scores of attention in blocks of about so many bytes at most.

    `only_shared`: only where several heads share their keys or values.
    """

    def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        (new, *_) = results = clone(node, inputs)
        wanted = len(results) == 1 and _is_attention(new.node)
        if wanted and (not only_shared or _shares_heads(new.node)):
            return (_in_blocks(new.node, most_bytes),)
        return results

    return graph.map(visit)


def _is_attention(node: Node) -> bool:
    """dot_general(softmax(f(dot_general(q, k))), v) with matching batch dimensions."""
    if node.op != "dot_general" or node.inputs[0].op != "softmax":
        return False
    softmax = node.inputs[0].node
    rank = softmax.outputs[0].tensor.rank
    if softmax.attrs["axis"] != rank - 1 or not _is_batched(node, rank):
        return False
    scores = _scores(softmax)
    return (
        scores.op == "dot_general"
        and scores.shape == softmax.outputs[0].shape
        and _is_batched(scores.node, rank)
    )


def _scores(softmax: Node) -> Value:
    """What the softmax is taken of, before scales and masks."""
    scores = softmax.inputs[0]
    while is_elementwise(scores.node):
        scores = max(scores.node.inputs, key=lambda v: v.tensor.size)
    return scores


def _shares_heads(node: Node) -> bool:
    """Are the keys or values of this attention repeated for several heads?"""
    keys, values = _scores(node.inputs[0].node).node.inputs[1], node.inputs[1]
    return any(map(_is_repeated, (keys, values)))


def _is_repeated(value: Value) -> bool:
    while value.op in ("reshape", "transpose"):
        value = value.node.inputs[0]
    return value.op == "broadcast_in_dim"


def _is_batched(node: Node, rank: int) -> bool:
    """Whether all dimensions but the last two are a batch, and the left rows come before them."""
    leading = tuple(range(rank - 2))
    both = node.attrs["lhs_batch"], node.attrs["rhs_batch"]
    return (
        both == (leading, leading)
        and all(v.tensor.rank == rank for v in node.inputs)
        and node.attrs["lhs_contract"] == (rank - 1,)
    )


def _in_blocks(node: Node, most_bytes: int) -> Value:
    """The attention, computed for ranges of the leading dimensions and of the rows."""
    scores = node.inputs[0]
    *batch, rows, _ = scores.shape
    counts = [1] * (len(batch) + 1)
    for axis, size in enumerate((*batch, rows)):
        blocks = math.ceil(scores.tensor.nbytes / most_bytes / math.prod(counts))
        counts[axis] = max(1, min(size, blocks))
    if not 1 < math.prod(counts) <= _MOST_BLOCKS:
        return node.outputs[0]
    cuts = [list(_ranges(n, c)) for n, c in zip((*batch, rows), counts, strict=True)]
    return _joined(node, cuts, ())


def _ranges(size: int, count: int) -> Iterator[Range]:
    """`count` ranges of nearly one length."""
    edges = [size * i // count for i in range(count + 1)]
    return itertools.pairwise(edges)


def _joined(node: Node, cuts: list[list[Range]], chosen: tuple[Range, ...]) -> Value:
    """All blocks in the ranges chosen so far, side by side."""
    axis = len(chosen)
    if axis == len(cuts):
        probabilities = _block(node.inputs[0], chosen)
        return rebuild(node, (probabilities, _cut(node.inputs[1], chosen[:-1])))[0]
    parts = [_joined(node, cuts, (*chosen, part)) for part in cuts[axis]]
    return op.concatenate(*parts, axis=axis) if len(parts) > 1 else parts[0]


def _block(value: Value, ranges: tuple[Range, ...]) -> Value:
    """What is between the first product and the second one, for these ranges of its dimensions."""
    node = value.node
    if value.tensor.rank == len(ranges) + 1 and value.op == "dot_general":
        lhs, rhs = node.inputs
        return rebuild(node, (_cut(lhs, ranges), _cut(rhs, ranges[:-1])))[0]
    if value.op == "softmax":
        return rebuild(node, (_block(node.inputs[0], ranges),))[0]
    if is_elementwise(node) and value.tensor.size > 1:
        return rebuild(node, [_block(v, ranges) for v in node.inputs])[0]
    missing = len(ranges) + 1 - value.tensor.rank
    return _cut(value, ranges[missing:])


def _cut(value: Value, ranges: tuple[Range, ...]) -> Value:
    """`value` in these ranges of its first dimensions; those of size 1 are broadcast."""
    shape = value.shape
    bounds = [(0, 1) if n == 1 else b for n, b in zip(shape, ranges, strict=False)]
    whole = [*bounds, *((0, n) for n in shape[len(bounds) :])]
    start, limit = zip(*whole, strict=True) if whole else ((), ())
    return op.slice(value, start=start, limit=limit, strides=(1,) * len(shape))
