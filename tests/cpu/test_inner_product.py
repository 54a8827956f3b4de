"""Products by Winograd's inner product: random shapes, epilogues and cuts against the interpreter,
and rows of all sizes against double precision."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu import choices
from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import inner_product, inner_product_plan
from tilth.ir.errors import CompileError
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f64

TOLERANCE = 1e-5


def matmul(x, w):
    return op.dot_general(x, w, lhs_contract=(len(x.tensor.dims) - 1,), rhs_contract=(0,))


def bias_gelu(x, w, b):
    return op.gelu(op.add(matmul(x, w), b))


def residual(x, w, b, y):
    return op.add(op.add(matmul(x, w), b), y)


def convolution(x, w, b, strides=(1, 1)):
    attrs = {
        "strides": strides,
        "padding": ((0, 0), (0, 0)),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "groups": 1,
        "layout": "channels_last",
    }
    return op.relu(op.add(op.convolution(x, w, **attrs), b))


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def with_plan(**changes):
    """`lower` with the first plan, changed."""

    def lower(task):
        return inner_product.lower(task, replace(inner_product.choose(task), **changes))

    return lower


rows = st.integers(6, 70)
columns = st.sampled_from([9, 17, 24, 32, 33, 40, 48, 50, 64, 81, 96, 130])
# results along whose rows the weights run: else the operands trade places
outputs = st.sampled_from(["dense", "pitched", "strided"])
depths = st.sampled_from([6, 7, 16, 33, 47, 48, 64, 191, 192, 193, 256, 400])


@settings(max_examples=40, deadline=None)
@given(m=rows, n=columns, k=depths, layout=outputs, weights=layouts, out=outputs)
def test_any_shape_and_layout(m, n, k, layout, weights, out):
    shapes = (m, k), (k, n), (n,)
    check(
        *(inner_product.lower, body_of(bias_gelu, *shapes), arrays(k, *shapes)),
        *([layout, weights, "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(2, 9),
    width=st.integers(3, 9),
    window=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    c=st.sampled_from([6, 16, 20, 33, 64]),
    n=columns,
    layout=outputs,
    out=outputs,
)
def test_convolutions(batch, height, width, window, stride, c, n, layout, out):
    size = ((height - 1) * stride + window, (width - 1) * stride + window)
    shapes = (batch, *size, c), (window, window, c, n), (n,)
    check(
        *(inner_product.lower, body_of(lambda *v: convolution(*v, (stride, stride)), *shapes)),
        *(arrays(c, *shapes), [layout, "dense", "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(m=rows, n=columns, layout=outputs, out=outputs)
def test_epilogue_with_operands_of_the_result_shape(m, n, layout, out):
    shapes = (m, 32), (32, n), (n,), (m, n)
    check(
        *(inner_product.lower, body_of(residual, *shapes), arrays(n, *shapes)),
        *(["dense", "dense", "dense", layout], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(row_blocks=st.integers(1, 3), panel_blocks=st.integers(1, 6))
def test_any_division_into_work_items(row_blocks, panel_blocks):
    shapes = (61, 192), (192, 410), (410,)
    lower = with_plan(row_blocks=row_blocks, panel_blocks=panel_blocks)
    check(
        *(lower, body_of(bias_gelu, *shapes), arrays(0, *shapes)),
        tolerance=TOLERANCE,
        constants=(1,),
    )


def test_result_in_place_of_a_residual_operand():
    x, w, b, y = arrays(1, (37, 64), (64, 80), (80,), (37, 80))
    body = body_of(residual, x.shape, w.shape, b.shape, y.shape)
    operands = (operand(x), operand(w, constant=True), operand(b), operand(y))
    apart, in_place = np.empty_like(y), y.copy()
    kernel = inner_product.lower(Task(body, operands, (operand(apart),), host_isa(), 1))
    CompiledKernel(kernel)([x, w, b, y], [apart])
    CompiledKernel(kernel)([x, w, b, in_place], [in_place])
    np.testing.assert_array_equal(in_place, apart)


def product(x, w):
    result = np.empty((len(x), w.shape[1]), np.float32)
    operands = operand(x), operand(w, constant=True)
    task = Task(body_of(matmul, x.shape, w.shape), operands, (operand(result),), host_isa(), 1)
    CompiledKernel(inner_product.lower(task))([x, w], [result])
    return result


def errors(x, w):
    """The largest of each row, relative to the largest result of the row."""
    exact = x.astype(np.float64) @ w.astype(np.float64)
    return np.abs(product(x, w) - exact).max(axis=1) / np.abs(exact).max(axis=1)


@pytest.mark.parametrize("depth", [256, 768, 3072])
def test_error_against_float64(depth):
    """For normally distributed data, and for data without negative numbers."""
    x, w = arrays(2, (64, depth), (depth, 256))
    assert errors(x, w).max() <= 1.5e-6
    assert errors(np.maximum(x, 0), w).max() <= 1.5e-6


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e-12, 1e-3, 1e3, 1e12, 1e25, 1e34])
def test_error_does_not_depend_on_the_size_of_rows_or_weights(size):
    x, w = arrays(3, (32, 200), (200, 48))
    other = np.float32(1 / size) if 1e-20 < size < 1e20 else np.float32(1)
    assert errors(x * np.float32(size), w * other).max() <= 1.5e-6


def test_rows_and_columns_of_unlike_sizes_do_not_spoil_each_other():
    x, w = arrays(4, (32, 200), (200, 48))
    x *= np.logspace(-9, 9, 32, dtype=np.float32)[:, None]
    w *= np.logspace(-9, 9, 48, dtype=np.float32)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    scale = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0)
    assert (np.abs(product(x, w) - exact) <= 5e-7 * scale).all()


def test_one_number_much_larger_than_the_others():
    x, w = arrays(5, (32, 768), (768, 64))
    x[:, 7] *= 1e4
    assert errors(x, w).max() <= 2e-6


def test_rows_and_columns_of_zeros_give_zeros():
    x, w = arrays(6, (9, 64), (64, 32))
    x[3], w[:, 5] = 0, 0
    result = product(x, w)
    assert (result[3] == 0).all()
    assert (result[:, 5] == 0).all()


def test_nan_and_infinity_spoil_their_own_row_only():
    x, w = arrays(7, (9, 64), (64, 32))
    x[2, 5], x[6, 9] = np.nan, np.inf
    good = np.isfinite(product(x, w)).all(axis=1)
    assert list(np.flatnonzero(~good)) == [2, 6]


ADDS = replace(ISAS["avx512"], adds_beside=True)


def test_is_chosen_where_units_add_beside_fmas_and_there_are_rows():
    def chosen(m, k, n, isa=ADDS):
        x, w, y = (np.zeros(s, np.float32) for s in ((m, k), (k, n), (m, n)))
        body = body_of(matmul, x.shape, w.shape)
        operands = operand(x), operand(w, constant=True)
        task = Task(body, operands, (operand(y),), isa, 2)
        return isinstance(choices.choose(task), inner_product_plan.Plan)

    assert chosen(1024, 1024, 1024)
    assert chosen(128, 768, 3072)
    assert not chosen(1024, 1024, 1024, ISAS["avx512"])
    assert not chosen(1, 4096, 4096)  # waits for weights
    assert not chosen(4, 4096, 4096)
    assert not chosen(3136, 64, 16)  # scaling rows costs more than it saves


@pytest.mark.parametrize(
    ("shapes", "dtype", "constant", "why"),
    [
        (((8, 16), (16, 64)), f64, True, "f32"),
        (((8, 16), (16, 64)), None, False, "constant"),
        (((5, 16), (16, 64)), None, True, "few rows"),
        (((8, 5), (5, 64)), None, True, "little depth"),
    ],
)
def test_other_products_are_refused(shapes, dtype, constant, why):
    x, w = (np.zeros(s, dtype.numpy if dtype else np.float32) for s in shapes)
    types = (TensorType(operand(a).dtype, a.shape) for a in (x, w))
    body = body_of(matmul, *types)
    operands = operand(x), operand(w, constant=constant)
    results = (operand(np.zeros(body.outputs[0].tensor.dims, x.dtype)),)
    task = Task(body, operands, results, ADDS, 1)
    assert inner_product.cycles(task) == math.inf
    with pytest.raises(CompileError, match=why):
        inner_product.lower(task)
