"""Row fusions: any mixture of elementwise operations and reductions of trailing axes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts, random_array

from tilth.cpu.harness import operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import row
from tilth.ir.ops import op
from tilth.ir.ops.helpers import mean, reduce_keepdims
from tilth.ir.types import TensorType, bf16, bool_, f16, f32, f64, i32, u8


def softmax(x):
    return op.softmax(x, axis=len(x.shape) - 1)


def layer_norm(x, scale, bias):
    return op.layer_norm(x, scale, bias, axis=len(x.shape) - 1, epsilon=1e-5)


LENGTHS = st.sampled_from([1, 2, 7, 16, 33, 64, 128, 197, 300, 1000])


@settings(max_examples=25)
@given(rows=st.sampled_from([(1,), (5,), (2, 3)]), length=LENGTHS, layout=layouts, out=layouts)
def test_softmax(rows, length, layout, out):
    shape = (*rows, length)
    x = np.random.default_rng(length).standard_normal(shape).astype(np.float32)
    check(row.lower, body_of(softmax, shape), [x], [layout], out)


@settings(max_examples=25)
@given(rows=st.sampled_from([(1,), (5,), (2, 3)]), length=LENGTHS, layout=layouts, out=layouts)
def test_layer_norm(rows, length, layout, out):
    shape = (*rows, length)
    rng = np.random.default_rng(length)
    x, scale, bias = (rng.standard_normal(s).astype(np.float32) for s in (shape, length, length))
    body = body_of(layer_norm, shape, (length,), (length,))
    check(row.lower, body, [x, scale, bias], [layout, "dense", "dense"], out)


@pytest.mark.parametrize("kind", ["sum", "product", "max", "min", "and", "or"])
@pytest.mark.parametrize("dtype", [f32, f64, bf16, f16, i32, u8, bool_], ids=str)
def test_every_kind_of_reduction_of_every_dtype(kind, dtype, rng):
    wrong_for_float = dtype.is_float and kind in ("and", "or")
    if wrong_for_float or (dtype == bool_ and kind in ("sum", "product")):
        pytest.skip("not defined")
    for length in (5, 131):
        body = body_of(lambda x: op.reduce(x, kind=kind, axes=(1,)), TensorType(dtype, (4, length)))
        x = random_array(rng, dtype, (4, length))
        if kind == "product" and dtype.is_float:
            x = (1 + x.astype(np.float64) / 50).astype(dtype.numpy)
        check(row.lower, body, [x])


def test_reduces_over_several_trailing_axes(rng):
    body = body_of(lambda x: op.subtract(x, mean(x, (1, 2))), (3, 10, 12))
    x = rng.standard_normal((3, 10, 12)).astype(np.float32)
    for layout in ("dense", "fortran", "strided"):
        check(row.lower, body, [x], [layout], "channels_first")


def test_full_and_reduced_results_together(rng):
    def two(x, y):
        total = op.add(x, y)
        return total, op.reduce(op.multiply(total, total), kind="sum", axes=(1,))

    x, y = (rng.standard_normal(s).astype(np.float32) for s in ((6, 200), (1, 200)))
    check(row.lower, body_of(two, x.shape, y.shape), [x, y])


def test_scalar_per_row_is_broadcast(rng):
    def normalise(x, bias):
        return op.add(op.divide(x, op.sqrt(reduce_keepdims(op.multiply(x, x), "sum", (1,)))), bias)

    x, bias = (rng.standard_normal(s).astype(np.float32) for s in ((6, 600), (6, 1)))
    check(row.lower, body_of(normalise, x.shape, bias.shape), [x, bias])


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e38])
def test_division_by_a_scalar_keeps_extreme_rows(scale):
    def by_max(x):
        return op.divide(x, reduce_keepdims(op.abs(x), "max", (1,)))

    x = (np.linspace(-1, 1, 48).reshape(2, 24) * scale).astype(np.float32)
    check(row.lower, body_of(by_max, x.shape), [x])


@pytest.mark.parametrize("dtype", [f16, bf16, f64], ids=str)
@pytest.mark.parametrize("length", [20, 700])
def test_softmax_of_other_floats(dtype, length, rng):
    body = body_of(softmax, TensorType(dtype, (3, length)))
    check(row.lower, body, [random_array(rng, dtype, (3, length))])


def test_one_long_row(rng):
    x = rng.standard_normal((1, 50_000)).astype(np.float32)
    check(row.lower, body_of(softmax, x.shape), [x])


def test_short_rows_do_not_touch_scratch():
    x = operand(np.zeros((64, 128), np.float32))
    assert row.lower(Task(body_of(softmax, x.shape), (x,), (x,), ISAS["avx512"], 2)).scratch == 0


def test_rows_split_over_threads():
    x = operand(np.zeros((12 * 128, 128), np.float32))
    assert row.lower(Task(body_of(softmax, x.shape), (x,), (x,), host_isa(), 4)).items >= 16
