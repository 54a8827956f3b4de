"""How much memory and work a model may ask for before it runs.

A file of a hundred bytes can ask for terabytes or for a loop without end. What is allocated or
computed on its behalf goes through here, and is refused with a `LimitError` when it is out of
proportion to the model and its inputs. `TILTH_MEMORY_LIMIT` (bytes) sets another bound on memory,
`TILTH_LOOP_LIMIT` another on the turns of a loop on the host.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from tilth.ir.cost import flops
from tilth.ir.errors import LimitError, TilthError
from tilth.ir.graph import Graph, Node
from tilth.ir.types import TensorType, Type
from tilth.ir.work import charge, is_bounded

LARGEST_RANK = 64  # of NumPy
_FLOOR = 1 << 29  # bytes that any model may use for a tensor
_GROWTH = 64  # a tensor may be this many times as big as the weights and inputs together
_STATIC_BYTES = 1 << 26  # of one tensor that is computed before the model runs
_LOOP_TURNS = 10**7
_TABLE_ELEMENTS = 1 << 25  # of a table that an operator's attributes ask for
_NODE_OPERATIONS = 10_000  # what interpreting a node costs besides its arithmetic
_FLOPS_OF_AN_ELEMENT = 16  # a matrix product does so many in the time of one elementwise operation


def memory_limit(own: int) -> int:
    """Bytes that one tensor, or all intermediate results of a call, may take.

    `own` are the bytes of the model's weights and inputs. TilthError when TILTH_MEMORY_LIMIT is no
    number.
    """
    return _asked("TILTH_MEMORY_LIMIT", "bytes", max(_FLOOR, _GROWTH * own))


def counted_turns() -> Iterator[int]:
    """0, 1, 2 ...: the turns of a loop; LimitError when there are more than it may make.

    TilthError when TILTH_LOOP_LIMIT is no number.
    """
    limit = _asked("TILTH_LOOP_LIMIT", "turns", _LOOP_TURNS)
    yield from range(limit)
    raise LimitError(
        f"its loop has made {limit} turns without an end; if that is right, set TILTH_LOOP_LIMIT "
        "to more turns"
    )


def _asked(name: str, unit: str, default: int) -> int:
    """The number in an environment variable."""
    text = os.environ.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise TilthError(f"{name} must be a number of {unit}, not '{text}'") from None


def require_memory(what: str, nbytes: int, limit: int) -> None:
    """Raise LimitError when `nbytes` are more than the limit."""
    if nbytes > limit:
        raise LimitError(
            f"{what} takes {_shown(nbytes)}, over the limit of {_shown(limit)} for this model; "
            f"if that is right, set TILTH_MEMORY_LIMIT to more bytes"
        )


def require_tensor(type_: Type, limit: int) -> None:
    """Raise LimitError when a value of this type is too big, or has too many dimensions."""
    if isinstance(type_, TensorType):
        if type_.rank > LARGEST_RANK:
            raise LimitError(f"a tensor has {type_.rank} dimensions; {LARGEST_RANK} are possible")
        nonzero = math.prod(max(d, 1) for d in type_.dims)  # NumPy counts empty tensors like this
        require_memory(f"tensor {type_}", nonzero * type_.dtype.nbytes, limit)


def require_graph(graph: Graph, limit: int) -> None:
    """Raise LimitError when a value inside the graph is too big, padding included."""
    for node in graph.nodes:
        try:
            for type_ in node.types:
                require_tensor(type_, limit)
            require_memory("its padded operand", _padded_bytes(node), limit)
            for body in node.attrs.values():
                if isinstance(body, Graph):
                    require_graph(body, limit)
        except LimitError as e:
            raise LimitError(f"node '{node.name}' ({node.op}): {e}") from None


def require_table(*extents: int) -> None:
    """Raise LimitError when a table of these extents is too big to be made while importing."""
    if math.prod(max(0, n) for n in extents) > _TABLE_ELEMENTS:
        shape = " x ".join(map(str, extents))
        raise LimitError(f"needs a table of {shape} elements; up to {_TABLE_ELEMENTS} are possible")


def cost(node: Node) -> int:
    """Operations that interpreting a node once takes, in units of one element."""
    elements = sum(t.size for t in node.types if isinstance(t, TensorType))
    work = _NODE_OPERATIONS + elements + flops(node) // _FLOPS_OF_AN_ELEMENT
    return work + _padded_bytes(node)


def _padded_bytes(node: Node) -> int:
    """Bytes of a window op's operand with its padding; 0 for other ops."""
    padding = node.attrs.get("padding")
    if padding is None or not node.inputs:
        return 0
    x = node.inputs[0].tensor
    dims = x.dims
    if len(dims) != len(padding):  # a convolution: only the spatial dimensions are padded
        dims = dims[2:] if node.attrs["layout"] == "channels_first" else dims[1:-1]
    pairs = zip(dims, padding, strict=True)
    padded = math.prod(d + max(0, low) + max(0, high) for d, (low, high) in pairs)
    return x.nbytes // max(1, math.prod(dims)) * padded


def spend(node: Node) -> None:
    """Account for interpreting a node. LimitError when that is more than the bound on work."""
    if not is_bounded():
        return
    for type_ in node.types:
        if isinstance(type_, TensorType) and type_.nbytes > _STATIC_BYTES:
            raise LimitError(f"{node!r}: too big to be computed before the model runs")
    if not charge(cost(node)):
        raise LimitError(f"{node!r}: computing what is constant takes too long; is it a loop?")


def nbytes(types: Sequence[Type]) -> int:
    """Bytes of all tensors among these types."""
    return sum(t.nbytes for t in types if isinstance(t, TensorType))


def _shown(nbytes: int) -> str:
    power = min(4, int(math.log2(max(1, nbytes))) // 10)
    return f"{nbytes / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
