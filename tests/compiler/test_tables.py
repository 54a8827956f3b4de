"""What follows a gather of whole rows of a small constant table is made of the table ahead."""

import numpy as np
import pytest
from graph_samples import assert_same, graph, ops, tensor, weights

from tilth.compiler.simplify import hoist, movement, tables
from tilth.ir.graph import make_constant
from tilth.ir.ops.helpers import take
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite
from tilth.ir.types import f64, i64

indices = tensor(3, 5, name="indices", dtype=i64)
table = weights(7, 16)
rows = take(table, indices, 0)  # [3, 5, 16]


def simplified(output):
    before = graph(output)
    after, _ = rewrite(before, (*movement.RULES, *hoist.RULES, *tables.RULES))
    assert_same(before, after)
    return ops(after)


def dense(x, w, contract=1):
    last = x.tensor.rank - 1
    return op.dot_general(x, w, lhs_contract=(last,), rhs_contract=(contract,))


@pytest.mark.parametrize(
    "output",
    [
        dense(rows, weights(32, 16)),
        dense(rows, weights(16, 32), contract=0),
        op.add(dense(rows, weights(32, 16)), weights(32)),
        op.tanh(op.multiply(rows, make_constant(np.float32(4)))),
        op.multiply(rows, rows),
        op.subtract(weights(1, 16), rows),
    ],
    ids=["layer", "layer, weights turned", "layer with bias", "functions", "square", "line"],
)
def test_only_the_gather_is_left(output):
    assert simplified(output) == ["gather"]


def test_indices_move_in_place_of_rows():
    """Time first, as recurrent layers want it; and then the layer meets the gather."""
    turned = op.transpose(rows, permutation=(1, 0, 2))
    assert simplified(dense(turned, weights(32, 16))) == ["transpose", "gather"]
    flat = op.reshape(rows, shape=(15, 16))
    assert simplified(dense(flat, weights(32, 16))) == ["reshape", "gather"]


@pytest.mark.parametrize(
    "output",
    [
        op.transpose(rows, permutation=(0, 2, 1)),
        op.reshape(rows, shape=(3, 5, 4, 4)),
        op.reshape(rows, shape=(3, 80)),
    ],
    ids=["turned", "cut", "joined"],
)
def test_movement_within_rows_stays(output):
    assert simplified(output) == ["gather", output.op]


@pytest.mark.parametrize(
    "output",
    [
        dense(take(tensor(7, 16), indices, 0), weights(32, 16)),
        op.add(rows, tensor(16)),
        op.add(rows, weights(5, 16)),
        op.dot_general(rows, weights(4, 5), lhs_contract=(1,), rhs_contract=(1,)),
        op.abs(take(weights(16, 7), indices, 1)),
    ],
    ids=["no table", "no constant", "constant differs by row", "sum over rows", "columns"],
)
def test_what_is_not_a_function_of_rows_of_a_constant_stays(output):
    assert simplified(output) == ["gather", output.op]


def test_no_table_is_made_that_takes_more_memory():
    wide = op.dot_general(
        take(weights(100, 2), indices, 0), weights(2, 50), lhs_contract=(2,), rhs_contract=(0,)
    )
    assert simplified(wide) == ["gather", "dot_general"]
    assert simplified(op.convert(rows, dtype=f64)) == ["gather", "convert"]


def test_a_large_table_is_not_copied():
    large = take(weights(1 << 16, 32), indices, 0)
    assert simplified(op.tanh(large)) == ["gather", "tanh"]
