"""The kernel families, and which of them computes what.

`FUSION_KINDS` lowers fusions, `OPS` lowers single nodes; `unsupported` says beforehand why a node
has no kernel.
"""

from __future__ import annotations

from tilth.cpu.expression import is_elementwise, unsupported_dtype
from tilth.cpu.kernel import Lower
from tilth.cpu.kernels import (
    arg_reduce,
    attention,
    chain,
    contraction,
    cumulative,
    elementwise,
    gather,
    movement,
    random,
    recurrent,
    reduce,
    row,
    sort,
    window,
)
from tilth.cpu.kernels.movement import lower_pad_halo
from tilth.cpu.kernels.space import bits_of
from tilth.ir.errors import CompileError
from tilth.ir.graph import Node
from tilth.ir.types import TensorType

__all__ = ["COMPOSITES", "FUSION_KINDS", "OPS", "lower_pad_halo", "unsupported"]

FUSION_KINDS: dict[str, Lower] = {
    "elementwise": elementwise.lower,
    "row": row.lower,
    "reduce": reduce.lower,
    "window": window.lower,
    "contraction": contraction.lower,
    "chain": chain.lower,
    "attention": attention.lower,
}

OPS: dict[str, Lower] = {
    "pad": movement.lower_pad,
    "dynamic_slice": movement.lower_dynamic_slice,
    "dynamic_update_slice": movement.lower_dynamic_update_slice,
    "gather": gather.lower_gather,
    "scatter": gather.lower_scatter,
    "arg_reduce": arg_reduce.lower,
    "cumulative": cumulative.lower,
    "sort": sort.lower_sort,
    "top_k": sort.lower_top_k,
    "rng_bits": random.lower,
    "lstm_recurrence": recurrent.lower_lstm,
    "gru_recurrence": recurrent.lower_gru,
}

# composites that have a kernel of their own and are not taken apart
COMPOSITES = frozenset({"lstm_recurrence", "gru_recurrence"})

_VIEWS = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "concatenate"})
_MOVES = _VIEWS | {"constant", "pad", "gather", "dynamic_slice", "dynamic_update_slice"}
_CONTROL = frozenset({"if", "while", "scan"})  # planned as code around the code of sub-graphs
_FUSED = frozenset({"reduce", "reduce_window", "convolution", "dot_general", "fusion"})


def unsupported(node: Node) -> str | None:
    """Why no kernel computes this node (asked before fusion); None if one does.

    The nodes of a sub-graph are asked about one by one.
    """
    types = (*(v.type for v in node.inputs), *node.types)
    if not all(isinstance(t, TensorType) and t.is_static for t in types):
        return f"{node.op} of {', '.join(map(str, types))} is not of static tensors"
    if any(t.dtype.kind == "string" for t in types):  # type: ignore[union-attr]
        return "strings are objects of the host, never touched by compiled code"
    if node.op in _MOVES:
        return _unmovable(node)
    if node.op in _CONTROL:
        return None
    if not (is_elementwise(node.op) or node.op in _FUSED or node.op in OPS):
        return f"no kernel for {node.op}"
    return unsupported_dtype(node)


def _unmovable(node: Node) -> str | None:
    try:
        for type_ in (*(v.tensor for v in node.inputs), *node.types):
            bits_of(type_.dtype)  # type: ignore[union-attr]
    except CompileError as e:
        return str(e)
    return None
