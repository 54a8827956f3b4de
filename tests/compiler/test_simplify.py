"""Algebraic and movement identities: what goes away, and what must not."""

import numpy as np
import pytest
from graph_samples import assert_same, graph, ops, tensor, weights

from tilth.compiler.simplify import algebra, hoist, movement
from tilth.ir.graph import make_constant
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite
from tilth.ir.types import f16, f32, i32

RULES = (*algebra.RULES, *movement.RULES, *hoist.RULES)


def simplified(*outputs):
    before = graph(*outputs)
    after, _ = rewrite(before, RULES)
    if all(v.tensor.dtype.kind in ("float", "bool", "int") for v in before.inputs):
        assert_same(before, after)
    return ops(after)


def number(value, dtype=np.float32):
    return make_constant(np.asarray(value, dtype))


x, y = tensor(2, 3), tensor(2, 3, name="y")


@pytest.mark.parametrize(
    "value",
    [
        op.add(x, number(-0.0)),
        op.subtract(x, number(0.0)),
        op.multiply(number(1), x),
        op.divide(x, number([1.0, 1.0, 1.0])),
        op.power(x, number(1)),
        op.maximum(x, number(-np.inf)),
        op.clamp(number(-np.inf), x, number(np.inf)),
        op.negate(op.negate(x)),
        op.maximum(x, x),
        op.convert(x, dtype=f32),
        op.select(number(True, bool), x, y),
        op.reshape(x, shape=(2, 3)),
        op.reshape(op.reshape(x, shape=(6,)), shape=(2, 3)),
        op.transpose(op.transpose(x, permutation=(1, 0)), permutation=(1, 0)),
        op.reverse(op.reverse(x, axes=(0,)), axes=(0,)),
        op.slice(x, start=(0, 0), limit=(2, 3)),
        op.slice(op.concatenate(x, y, axis=0), start=(0, 0), limit=(2, 3)),
        op.slice(op.pad(x, number(0), low=(1, 0), high=(0, 2)), start=(1, 0), limit=(3, 3)),
        op.concatenate(x, axis=1),
        op.pad(x, number(0)),
        op.reduce_window(x, kind="max", window=(1, 1)),
    ],
    ids=lambda value: value.node.op,
)
def test_identity_disappears(value):
    assert simplified(op.abs(value)) == ["abs"]


@pytest.mark.parametrize(
    "value",
    [
        op.add(x, number(0.0)),  # -0.0 + 0.0 is 0.0
        op.multiply(x, number(0.0)),  # NaN * 0 is NaN
        op.subtract(x, number(-0.0)),
        op.subtract(x, x),  # inf - inf is NaN
        op.divide(x, x),
    ],
    ids=["x + 0.0", "x * 0.0", "x - -0.0", "x - x", "x / x"],
)
def test_float_identity_that_does_not_always_hold_stays(value):
    assert simplified(value) == [value.op]


def test_integer_times_zero_is_zero():
    assert simplified(op.multiply(tensor(3, dtype=i32), number(0, np.int32))) == [
        "broadcast_in_dim"
    ]


def test_square_becomes_a_product():
    assert simplified(op.power(x, number(2))) == ["multiply"]


@pytest.mark.parametrize("exponent", [0.5, -0.5, 0.75, -0.75])
def test_power_of_a_positive_value_becomes_roots(exponent):
    positive = op.add(op.multiply(x, x), number(0.1))
    assert "power" not in simplified(op.power(positive, number(exponent)))
    assert simplified(op.power(op.abs(x), number(exponent))) == ["abs", "power"]


def test_narrowing_conversion_is_kept():
    narrow = op.convert(op.convert(x, dtype=f16), dtype=f32)
    assert simplified(narrow) == ["convert", "convert"]
    wide = op.convert(op.convert(tensor(3, dtype=f16), dtype=f32), dtype=f16)
    assert simplified(op.abs(wide)) == ["abs"]


def test_transpose_of_ones_is_a_reshape():
    assert simplified(op.transpose(tensor(1, 4, 3), permutation=(1, 0, 2))) == ["reshape"]


def test_slices_compose():
    once = op.slice(tensor(20), start=(2,), limit=(19,), strides=(2,))
    assert simplified(op.slice(once, start=(1,), limit=(8,), strides=(3,))) == ["slice"]


def test_pads_with_the_same_value_merge():
    inner = op.pad(x, number(0), low=(1, 0), high=(0, 0))
    assert simplified(op.pad(inner, number(0), low=(0, 2), high=(1, 1))) == ["pad"]
    assert simplified(op.pad(inner, number(1), low=(0, 2), high=(1, 1))) == ["pad", "pad"]


def test_nested_concatenation_flattens_unless_it_is_read_elsewhere():
    inner = op.concatenate(x, y, axis=0)
    outer = op.concatenate(inner, x, axis=0)
    assert simplified(outer) == ["concatenate"]
    assert simplified(outer, inner) == ["concatenate", "concatenate"]


def test_explicit_broadcast_goes_into_elementwise_ops():
    bias = op.broadcast_in_dim(tensor(2), shape=(2, 3), dims=(0,))
    assert simplified(op.add(bias, y)) == ["reshape", "add"]


def test_broadcast_that_gives_the_shape_stays():
    both = [op.broadcast_in_dim(v, shape=(2, 3), dims=(0,)) for v in (tensor(2), weights(2))]
    assert "broadcast_in_dim" in simplified(op.add(*both))


def test_reductions_of_one_kind_merge():
    rows = op.reduce(tensor(2, 3, 4), kind="max", axes=(1,))
    assert simplified(op.reduce(rows, kind="max", axes=(1,))) == ["reduce"]


def test_elementwise_op_moves_before_transpose_and_reshape():
    heads = op.transpose(op.reshape(op.tanh(tensor(4, 6)), shape=(4, 2, 3)), permutation=(1, 0, 2))
    scaled = op.multiply(heads, number(0.5))
    assert simplified(scaled) == ["tanh", "multiply", "reshape", "transpose"]


def test_elementwise_op_moves_before_an_added_dimension_though_it_is_read_twice():
    h = op.reshape(op.tanh(tensor(4, 6)), shape=(1, 4, 6))
    result = op.add(op.multiply(h, h), tensor(1, 4, 6, name="residual"))
    assert simplified(result) == ["tanh", "multiply", "reshape", "add", "reshape"]


def test_elementwise_op_moves_into_the_parts_of_a_concatenation():
    joined = op.concatenate(op.tanh(x), op.abs(y), axis=0)
    assert simplified(op.relu(joined)) == ["tanh", "relu", "abs", "relu", "concatenate"]


@pytest.mark.parametrize("shape, axis", [((4, 3), 0), ((4, 3), 1), ((2, 5, 3), 1)])
def test_coordinates_become_a_constant_line(shape, axis):
    assert simplified(op.iota(dtype=f32, shape=shape, axis=axis)) == ["broadcast_in_dim"]
    assert simplified(op.iota(dtype=i32, shape=shape[axis : axis + 1], axis=0)) == []
