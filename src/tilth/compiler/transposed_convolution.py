"""Transposed convolutions whose window equals their stride: a dense layer and a pixel shuffle.

Each element of the operand then makes its own block of the result, so the convolution is
[N, S.., C] times [C, window.., O], and the blocks are put side by side by a transpose. All other
transposed convolutions get their holes as interior padding (see `padding`).
"""

from __future__ import annotations

from tilth.ir.graph import Node, Value
from tilth.ir.ops.table import op
from tilth.ir.rewrite import Rule


def pixel_shuffle(node: Node) -> Value | None:
    """convolution(x, w) with lhs_dilation == window -> reshape(transpose(dot_general(x, w)))"""
    if not _is_blockwise(node):
        return None
    x, w = node.inputs
    spatial = x.tensor.rank - 2
    flipped = op.reverse(w, axes=tuple(range(spatial)))
    # x [N, S.., C] . w [window.., C, O] over C -> [N, S.., window.., O]
    y = op.dot_general(
        x, flipped, lhs_contract=(spatial + 1,), rhs_contract=(spatial,), name=node.name
    )
    return _shuffled(y, node)


def _shuffled(y: Value, node: Node) -> Value:
    """[N, S.., window.., O] -> [N, S * window.., O]"""
    spatial = (y.tensor.rank - 2) // 2
    interleaved = [d for i in range(spatial) for d in (1 + i, 1 + spatial + i)]
    moved = op.transpose(y, permutation=(0, *interleaved, 2 * spatial + 1))
    return op.reshape(moved, shape=node.outputs[0].shape)


def _is_blockwise(node: Node) -> bool:
    attrs, w = node.attrs, node.inputs[1]
    if attrs["layout"] != "channels_last" or attrs["groups"] != 1:
        return False
    window = w.shape[:-2]
    return (
        max(window, default=1) > 1
        and attrs["lhs_dilation"] == window
        and set(attrs["strides"]) | set(attrs["rhs_dilation"]) == {1}
        and attrs["padding"] == tuple((n - 1, n - 1) for n in window)
    )


RULES = (Rule("pixel shuffle", ("convolution",), pixel_shuffle),)
