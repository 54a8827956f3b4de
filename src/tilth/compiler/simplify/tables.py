"""What is made from each row of a constant table alone is made ahead, as a table.

An embedding is a gather of rows, with a dense layer or an activation behind it in many models (a
recurrent layer begins with a product). A function of rows commutes with gathering them, and of the
table's rows it is known when the model is compiled. Only small tables are made, which take no more
memory than what they are made from; results change by rounding only, as sums of products do.
"""

from __future__ import annotations

from tilth.compiler.fold import folded
from tilth.compiler.match import is_constant, is_elementwise, rebuild, reshaped, transposed
from tilth.ir.graph import Node, Value
from tilth.ir.limits import cost
from tilth.ir.ops.helpers import as_shape, take
from tilth.ir.rewrite import P, Rule, constant, once

_LARGEST = 1 << 22  # bytes of a table that is made
_WORK = 1 << 26  # see `limits.cost`: what making it may take, a tenth of a second


def movement_of_rows(node: Node, rows: Value) -> Value | None:
    """move(gather(table, indices)) -> gather(table, move(indices)), if rows stay whole"""
    table, indices = rows.node.inputs
    shape, last = node.outputs[0].shape, rows.tensor.rank - 1
    if node.op == "reshape":
        if shape[-1:] != rows.shape[-1:]:
            return None
        return take(table, as_shape(indices, shape[:-1]), 0)
    *order, kept = node.attrs["permutation"]
    return take(table, transposed(indices, order), 0) if kept == last else None


def product_of_rows(node: Node, rows: Value, weights: Value) -> Value | None:
    """gather(table, indices) @ weights -> gather(table @ weights, indices)"""
    attrs, table = node.attrs, rows.node.inputs[0]
    if attrs["lhs_batch"] or attrs["lhs_contract"] != (rows.tensor.rank - 1,):
        return None
    if weights.tensor.rank != 2:
        return None
    (product,) = rebuild(node, (table, weights), lhs_contract=(1,))
    return _instead(rows, product, table.tensor.nbytes + weights.tensor.nbytes)


def function_of_rows(node: Node) -> Value | None:
    """f(gather(table, indices), constants that are alike for all rows) -> gather(f(table), ...)"""
    found = {v for v in node.inputs if not is_constant(v)}
    if len(found) != 1:
        return None
    (rows,) = found
    if not _is_rows(rows) or rows.shape != node.outputs[0].shape:
        return None
    others = [v for v in node.inputs if v != rows]
    if any(v.tensor.size > 1 and v.shape[-1] != v.tensor.size for v in others):
        return None
    table = rows.node.inputs[0]
    inputs = [table if v == rows else reshaped(v, v.shape[-1:]) for v in node.inputs]
    return _instead(rows, rebuild(node, inputs)[0], table.tensor.nbytes)


def _instead(rows: Value, made: Value, nbytes: int) -> Value | None:
    """The same rows of another table, if that is worth `nbytes`."""
    size = made.tensor.nbytes
    if size > min(nbytes, _LARGEST) or cost(made.node) > _WORK:
        return None
    return take(folded(made), rows.node.inputs[1], 0)


def _is_rows(value: Value) -> bool:
    """Whether these are whole rows of a constant matrix, as `take` makes them."""
    if value.op != "gather" or not is_constant(value.node.inputs[0]):
        return False
    table, indices = value.node.inputs
    rank, attrs = indices.tensor.rank, value.node.attrs
    return (
        table.tensor.rank == 2
        and attrs["index_vector_dim"] == rank
        and attrs["offset_dims"] == (rank,)
        and attrs["collapsed_slice_dims"] == attrs["start_index_map"] == (0,)
        and attrs["slice_sizes"][1] == table.shape[1]
    )


_ROWS = P.gather.where(_is_rows).named("rows")

RULES = (
    Rule("movement of rows", P["reshape", "transpose"](once(_ROWS)), movement_of_rows),
    Rule("product of rows", P.dot_general(_ROWS, constant("weights")), product_of_rows),
    Rule("function of rows", is_elementwise, function_of_rows),
)
