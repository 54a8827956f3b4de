"""Merging dense layers that read the same value."""

from graph_samples import assert_same, count, graph, ops, tensor, weights

from tilth.compiler.fold import fold_constants
from tilth.compiler.merge_dots import merge_dots
from tilth.ir.ops.table import op

x = tensor(2, 5, 4)


def dense(x, columns, bias=True):
    y = op.dot_general(x, weights(x.shape[-1], columns), lhs_contract=(2,), rhs_contract=(0,))
    return op.add(y, weights(columns)) if bias else y


def merged(*outputs):
    before = graph(*outputs)
    after = fold_constants(merge_dots(before))
    assert_same(before, after)
    return after


def test_layers_on_one_value_become_one_and_slices():
    g = merged(dense(x, 3), dense(x, 4), dense(x, 2))
    assert ops(g) == ["dot_general", "add", "slice", "slice", "slice"]


def test_layers_behind_other_nodes_merge():
    y = op.tanh(x)
    heads = [op.reshape(dense(y, 6), shape=(2, 5, 2, 3)) for _ in range(2)]
    g = merged(op.add(*heads))
    assert count(g)["dot_general"] == 1


def test_layers_on_different_values_stay():
    assert count(merged(dense(x, 3), dense(op.tanh(x), 3)))["dot_general"] == 2


def test_layers_with_and_without_bias_stay_apart():
    assert count(merged(dense(x, 3), dense(x, 3, bias=False)))["dot_general"] == 2


def test_layer_with_an_epilogue_keeps_it():
    assert count(merged(op.tanh(dense(x, 3)), dense(x, 3)))["dot_general"] == 2
