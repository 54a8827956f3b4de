"""Products by Strassen's scheme, once and twice: random shapes, epilogues and cuts against the
interpreter."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu import choices
from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import strassen, strassen_plan
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


def with_plan(levels, **changes):
    """`lower` with the first plan that applies the scheme so often, changed; what cannot be cut so
    often is no example."""

    def lower(task):
        if strassen.unsuitable(task, levels):
            reject()
        problem = strassen_plan.problem_of(strassen.shape_of(task), levels)
        plan = strassen_plan.ranked([problem], task.isa, task.threads)[0]
        return strassen.lower(task, replace(plan, **changes))

    return lower


rows = st.integers(2, 70)
columns = st.sampled_from([17, 24, 32, 33, 40, 48, 50, 64, 81, 96, 130])
# results along whose rows the weights run: else the operands trade places
outputs = st.sampled_from(["dense", "pitched", "strided"])
parts_of_depth = st.sampled_from([1, 3, 8, 16, 20, 33, 64])
levels = st.sampled_from([1, 2])


@settings(max_examples=40, deadline=None)
@given(
    m=rows, n=columns, k=parts_of_depth, times=levels, layout=outputs, weights=layouts, out=outputs
)
def test_any_shape_and_layout(m, n, k, times, layout, weights, out):
    depth = k * 2**times
    shapes = (m, depth), (depth, n), (n,)
    check(
        *(with_plan(times), body_of(bias_gelu, *shapes), arrays(k, *shapes)),
        *([layout, weights, "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    c=parts_of_depth,
    n=columns,
    times=levels,
    layout=outputs,
    out=outputs,
)
def test_convolutions(batch, height, width, window, stride, c, n, times, layout, out):
    size = ((height - 1) * stride + window, (width - 1) * stride + window)
    if height * width == 1:
        return
    depth = c * 2**times
    shapes = (batch, *size, depth), (window, window, depth, n), (n,)
    check(
        *(with_plan(times), body_of(lambda *v: convolution(*v, (stride, stride)), *shapes)),
        *(arrays(c, *shapes), [layout, "dense", "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(m=rows, n=columns, times=levels, layout=outputs, out=outputs)
def test_epilogue_with_operands_of_the_result_shape(m, n, times, layout, out):
    shapes = (m, 32), (32, n), (n,), (m, n)
    check(
        *(with_plan(times), body_of(residual, *shapes), arrays(n, *shapes)),
        *(["dense", "dense", "dense", layout], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(
    row_blocks=st.integers(1, 4),
    panel_blocks=st.integers(1, 3),
    chunk=st.sampled_from([0, 16, 32, 48]),
    times=levels,
)
def test_any_division_into_work_items_and_blocks_of_the_depth(
    row_blocks, panel_blocks, chunk, times
):
    if chunk and (192 >> times) % chunk:
        return
    shapes = (61, 192), (192, 410), (410,)
    lower = with_plan(times, row_blocks=row_blocks, panel_blocks=panel_blocks, chunk=chunk)
    check(
        *(lower, body_of(bias_gelu, *shapes), arrays(0, *shapes)),
        tolerance=TOLERANCE,
        constants=(1,),
    )


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("tap_loops", [0, 1, 2])
def test_blocks_of_taps(tap_loops, times):
    shapes = (1, 9, 9, 32), (3, 3, 32, 64), (64,)
    check(
        *(with_plan(times, tap_loops=tap_loops), body_of(convolution, *shapes), arrays(0, *shapes)),
        tolerance=TOLERANCE,
        constants=(1,),
    )


def test_result_in_place_of_a_residual_operand():
    x, w, b, y = arrays(1, (37, 64), (64, 80), (80,), (37, 80))
    body = body_of(residual, x.shape, w.shape, b.shape, y.shape)
    operands = (operand(x), operand(w, constant=True), operand(b), operand(y))
    apart, in_place = np.empty_like(y), y.copy()
    kernel = strassen.lower(Task(body, operands, (operand(apart),), host_isa(), 1))
    CompiledKernel(kernel)([x, w, b, y], [apart])
    CompiledKernel(kernel)([x, w, b, in_place], [in_place])
    np.testing.assert_array_equal(in_place, apart)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("depth", [768, 3072])
def test_error_against_float64(depth, times):
    """Relative to the largest result, for normally distributed data."""
    x, w = arrays(2, (64, depth), (depth, 256))
    exact, result = x.astype(np.float64) @ w.astype(np.float64), np.empty((64, 256), np.float32)
    operands = operand(x), operand(w, constant=True)
    task = Task(body_of(matmul, x.shape, w.shape), operands, (operand(result),), host_isa(), 1)
    CompiledKernel(with_plan(times)(task))([x, w], [result])
    assert np.abs(result - exact).max() <= 2e-6 * np.abs(exact).max()


PAYS = replace(ISAS["avx512"], strassen=True)


def test_is_chosen_for_large_products_only():
    def chosen(m, k, n, isa=PAYS):
        x, w, y = (np.zeros(s, np.float32) for s in ((m, k), (k, n), (m, n)))
        body = body_of(matmul, x.shape, w.shape)
        operands = operand(x), operand(w, constant=True)
        task = Task(body, operands, (operand(y),), isa, 2)
        return isinstance(choices.choose(task), strassen_plan.Plan)

    assert chosen(1024, 1024, 1024)
    assert chosen(128, 768, 3072)
    assert not chosen(1024, 1024, 1024, ISAS["avx512"])  # adding up takes longer than it saves
    assert not chosen(128, 768, 3072, ISAS["avx2"])  # direct kernels come as near to the peak
    assert not chosen(1, 4096, 4096)  # reads weights once
    assert not chosen(4, 4096, 4096)
    assert not chosen(3136, 64, 64)  # sums of the left operand cost more than they save


def test_is_applied_twice_where_sums_of_weights_take_little_memory_and_data_are_near():
    def levels(m, k, n):
        x, w, y = (np.zeros(s, np.float32) for s in ((m, k), (k, n), (m, n)))
        operands = operand(x), operand(w, constant=True)
        task = Task(body_of(matmul, x.shape, w.shape), operands, (operand(y),), PAYS, 2)
        return strassen.choose(task).problem.levels

    assert levels(196, 1024, 256) == 2
    assert levels(128, 768, 3072) == 1  # 28 MB in place of 16
    assert levels(6272, 512, 128) == 1


@pytest.mark.parametrize(
    ("shapes", "dtype", "constant", "why"),
    [
        (((8, 16), (16, 64)), f64, True, "f32"),
        (((8, 16), (16, 64)), None, False, "constant"),
        (((8, 15), (15, 64)), None, True, "no multiple of 2"),
        (((1, 16), (16, 64)), None, True, "small"),
        (((8, 16), (16, 8)), None, True, "small"),
    ],
)
def test_other_products_are_refused(shapes, dtype, constant, why):
    x, w = (np.zeros(s, dtype.numpy if dtype else np.float32) for s in shapes)
    types = (TensorType(operand(a).dtype, a.shape) for a in (x, w))
    body = body_of(matmul, *types)
    operands = operand(x), operand(w, constant=constant)
    results = (operand(np.zeros(body.outputs[0].tensor.dims, x.dtype)),)
    task = Task(body, operands, results, ISAS["avx512"], 1)
    assert strassen.cycles(task) == math.inf
    with pytest.raises(CompileError, match=why):
        strassen.lower(task)
