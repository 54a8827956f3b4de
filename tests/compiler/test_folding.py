"""Constant folding, common subexpressions, decomposition, scales into weights."""

import numpy as np
import pytest
from graph_samples import assert_same, count, feeds, graph, ops, tensor, weights

from tilth.compiler import scales
from tilth.compiler.cse import merge_common_subexpressions
from tilth.compiler.decompose import decompose
from tilth.compiler.driver import compile_graph
from tilth.compiler.fold import fold_constants
from tilth.ir.graph import constant_of, make_constant
from tilth.ir.interpreter import interpret
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite
from tilth.ir.types import f32
from tilth.runtime.devices import parse_device
from tilth.runtime.target import Options


def test_nodes_on_constants_are_computed():
    w = weights(3, 4)
    value = op.reduce(op.transpose(w, permutation=(1, 0)), kind="sum", axes=(0,))
    (folded,) = fold_constants(graph(value)).outputs
    np.testing.assert_allclose(constant_of(folded), constant_of(w).sum(1), rtol=1e-6, atol=1e-6)


def test_weights_keep_their_array():
    w = weights(4, 4)
    g = graph(op.dot_general(tensor(2, 4), w, lhs_contract=(1,), rhs_contract=(0,)))
    assert fold_constants(g).outputs[0].node.inputs[1] is w


def test_large_weights_are_transposed_without_a_copy():
    w = weights(256, 512)
    (folded,) = fold_constants(graph(op.transpose(w, permutation=(1, 0)))).outputs
    assert np.shares_memory(constant_of(folded), constant_of(w))
    np.testing.assert_array_equal(constant_of(folded), constant_of(w).T)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_weights_out_of_order_are_right_wherever_they_go(device):
    x, w = tensor(256, 512), weights(512, 256)
    turned = op.transpose(w, permutation=(1, 0))
    results = (
        op.add(x, turned),
        turned,
        op.reshape(turned, shape=(512, 256)),
        op.dot_general(x, turned, lhs_contract=(1,), rhs_contract=(1,)),
    )
    g = graph(*results)
    given = feeds(g)
    found = compile_graph(g, parse_device(device), Options(2))({"x": given[0]})
    for actual, wanted in zip(found.values(), interpret(g, given), strict=True):
        largest = np.abs(wanted).max()  # what products by Strassen's scheme are exact to
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=2e-6 * largest)


def test_big_broadcast_is_not_stored():
    row = weights(1, 1024)
    big = op.broadcast_in_dim(row, shape=(4096, 1024), dims=(0, 1))
    assert ops(fold_constants(graph(big))) == ["broadcast_in_dim"]
    assert ops(fold_constants(graph(op.iota(dtype=f32, shape=(4096, 1024), axis=0)))) == ["iota"]


def test_quantised_weights_become_floats():
    w = make_constant(np.ones((2048, 1024), np.int8))
    scale, zero = make_constant(np.float32(0.5)), make_constant(np.int8(3))
    real = op.uniform_dequantize(w, scale, zero, dtype=f32)
    (folded,) = fold_constants(decompose(graph(real), ())).outputs
    assert (constant_of(folded) == -1).all()


def test_equal_nodes_become_one():
    x = tensor(3)
    three = [op.add(op.tanh(x), make_constant(np.float32(2))) for _ in range(3)]
    g = merge_common_subexpressions(graph(*three))
    assert ops(g) == ["tanh", "add"] and len(set(g.outputs)) == 1


def test_zeros_of_different_sign_are_different_constants():
    x = tensor(3)
    values = [op.divide(x, make_constant(np.float32(z))) for z in (0.0, -0.0)]
    assert count(merge_common_subexpressions(graph(*values)))["divide"] == 2


def test_composites_decompose_unless_the_target_keeps_them():
    g = graph(op.softmax(op.gelu(tensor(2, 3)), axis=1))
    assert ops(decompose(g, {"gelu", "softmax"})) == ["gelu", "softmax"]
    primitive = decompose(g, {"gelu"})
    assert "gelu" in ops(primitive) and "softmax" not in ops(primitive)
    assert_same(g, primitive)


def test_decomposed_nodes_know_where_they_come_from():
    g = graph(op.softmax(tensor(2, 3), axis=1, name="probabilities"))
    nodes = decompose(g, ()).nodes
    assert {n.name for n in nodes if n.op != "constant"} == {"probabilities"}


def scaled(*outputs):
    before = graph(*outputs)
    after, _ = rewrite(fold_constants(decompose(before, ())), scales.RULES)
    assert_same(before, after)
    return ops(after)


def convolution(x, **attrs):
    return op.convolution(x, weights(8, x.shape[1] // attrs.get("groups", 1), 3, 3), **attrs)


def test_batch_norm_goes_into_the_weights_before_it():
    y = convolution(tensor(1, 4, 6, 6), groups=2)
    parameters = [weights(8), weights(8), weights(8), make_constant(np.ones(8, np.float32))]
    assert scaled(op.batch_norm(y, *parameters)) == ["convolution", "add"]


def test_scale_crosses_the_bias():
    y = op.add(convolution(tensor(1, 4, 6, 6)), weights(8, 1, 1))
    assert scaled(op.multiply(y, weights(8, 1, 1))) == ["convolution", "add"]


def test_shifts_and_division_by_a_constant_fold_too():
    y = op.dot_general(tensor(2, 4), weights(5, 4), lhs_contract=(1,), rhs_contract=(1,))
    value = op.divide(op.add(op.subtract(y, weights(5)), weights(5)), weights(1))
    assert scaled(value) == ["dot_general", "add"]


def test_chain_of_scales_and_shifts_becomes_one_of_each():
    y = op.add(op.multiply(tensor(1, 8, 4, 4), weights(8, 1, 1)), weights(8, 1, 1))
    y = op.subtract(op.divide(y, weights(1, 8, 1, 1)), weights(8, 1, 1))
    assert scaled(op.tanh(y)) == ["multiply", "add", "tanh"]


def test_scale_and_shift_of_other_shapes_are_not_blown_up():
    y = op.multiply(op.multiply(tensor(8, 4), weights(8, 1)), weights(4))
    assert scaled(y) == ["multiply", "multiply"]


def test_scale_per_position_stays():
    y = convolution(tensor(1, 4, 6, 6))
    assert scaled(op.multiply(y, weights(4, 4))) == ["convolution", "multiply"]


def test_scale_stays_when_the_unscaled_result_is_needed():
    y = convolution(tensor(1, 4, 6, 6))
    assert scaled(op.multiply(y, weights(8, 1, 1)), y) == ["convolution", "multiply"]
