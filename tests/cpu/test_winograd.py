"""Winograd convolutions: random shapes, strides and epilogues against the reference interpreter."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu import choices
from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.jit import compile_assembly, new_module
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import winograd, winograd_plan
from tilth.cpu.kernels.winograd_plan import TRANSFORMS
from tilth.cpu.kernels.winograd_transform import F2, F2_STRIDED, F4, F4_STRIDED, Filtering
from tilth.ir.errors import CompileError
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f64

TOLERANCE = 1e-5


def convolution(x, w, **changes):
    attrs = {
        "strides": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "groups": 1,
        "layout": "channels_last",
    }
    return op.convolution(x, w, **(attrs | changes))


def bias_relu(x, w, b, stride=1):
    return op.relu(op.add(convolution(x, w, strides=(stride, stride)), b))


def residual(x, w, b, y, stride=1):
    return op.silu(op.add(op.add(convolution(x, w, strides=(stride, stride)), b), y))


def pixels(results, stride):
    """Of data, along an axis with so many results."""
    return stride * (results - 1) + 3


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def with_transform(transform, paired=False, **changes):
    """`lower` with a plan for this transform, whose products are `paired` or not."""

    def lower(task):
        problem, isa = winograd.problem_of(task), replace(task.isa, adds_beside=True)
        plans = winograd_plan.ranked(problem, isa, task.threads, [transform])
        plan = next(plan for plan in plans if plan.paired == paired)
        return winograd.lower(task, replace(plan, **changes))

    return lower


channels = st.sampled_from([1, 3, 8, 16, 24, 37, 64])
transforms = st.sampled_from(TRANSFORMS)


@settings(max_examples=40, deadline=None)
@given(
    transform=transforms,
    paired=st.booleans(),
    batch=st.integers(1, 3),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    c=channels,
    k=channels,
    layout=layouts,
    out=layouts,
)
def test_any_shape_and_layout(transform, paired, batch, height, width, c, k, layout, out):
    stride = transform.stride
    shapes = (batch, pixels(height, stride), pixels(width, stride), c), (3, 3, c, k), (k,)
    body = body_of(partial(bias_relu, stride=stride), *shapes)
    check(
        *(with_transform(transform, paired), body, arrays(c, *shapes)),
        *([layout, "dense", "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(
    transform=transforms,
    paired=st.booleans(),
    height=st.integers(1, 9),
    k=channels,
    layout=layouts,
    out=layouts,
)
def test_epilogue_with_operands_of_the_result_shape(transform, paired, height, k, layout, out):
    stride = transform.stride
    x = (2, pixels(height, stride), pixels(8, stride), 16)
    shapes = x, (3, 3, 16, k), (k,), (2, height, 8, k)
    body = body_of(partial(residual, stride=stride), *shapes)
    check(
        *(with_transform(transform, paired), body, arrays(k, *shapes)),
        *(["dense", "dense", "dense", layout], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=8, deadline=None)
@given(
    transform=transforms,
    paired=st.booleans(),
    tile_blocks=st.integers(1, 3),
    panel_blocks=st.integers(1, 3),
)
def test_any_division_into_work_items(transform, paired, tile_blocks, panel_blocks):
    stride = transform.stride
    shapes = (2, pixels(13, stride), pixels(10, stride), 24), (3, 3, 24, 170), (170,)
    lower = with_transform(transform, paired, tile_blocks=tile_blocks, panel_blocks=panel_blocks)
    check(
        *(lower, body_of(partial(bias_relu, stride=stride), *shapes), arrays(0, *shapes)),
        tolerance=TOLERANCE,
        constants=(1,),
    )


def test_result_in_place_of_a_residual_operand():
    x, w, b, y = arrays(1, (1, 9, 8, 16), (3, 3, 16, 20), (20,), (1, 7, 6, 20))
    body = body_of(residual, x.shape, w.shape, b.shape, y.shape)
    operands = (operand(x), operand(w, constant=True), operand(b), operand(y))
    apart, in_place = np.empty_like(y), y.copy()
    kernel = winograd.lower(Task(body, operands, (operand(apart),), host_isa(), 1))
    CompiledKernel(kernel)([x, w, b, y], [apart])
    CompiledKernel(kernel)([x, w, b, in_place], [in_place])
    np.testing.assert_array_equal(in_place, apart)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    ("transform", "bound"), [(F4, 1e-5), (F2, 2e-6), (F4_STRIDED, 5e-6), (F2_STRIDED, 2e-6)]
)
def test_error_against_float64(transform, bound, paired):
    """Relative to the largest result, for normally distributed data and 512 channels."""
    n, stride = pixels(12, transform.stride), transform.stride
    x, w = arrays(2, (1, n, n, 512), (3, 3, 512, 32))
    exact = sum(
        x[:, i : i + n - 2 : stride, j : j + n - 2 : stride].astype(np.float64)
        @ w[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    result = np.empty((1, 12, 12, 32), np.float32)
    body = body_of(partial(convolution, strides=(stride, stride)), x.shape, w.shape)
    operands = operand(x), operand(w, constant=True)
    task = Task(body, operands, (operand(result),), host_isa(), 1)
    CompiledKernel(with_transform(transform, paired)(task))([x, w], [result])
    assert np.abs(result - exact).max() <= bound * np.abs(exact).max()


@pytest.mark.parametrize(
    "filtering", [F2, F4, Filtering((Fraction(1), Fraction(2))), F2_STRIDED.even, F4_STRIDED.even]
)
def test_matrices_compute_a_correlation(filtering):
    n, m, taps = filtering.size, filtering.outputs, filtering.taps
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(n), rng.standard_normal(taps)
    data, weights, result = (
        np.array([[float(x) for x in row] for row in matrix])
        for matrix in (filtering.data, filtering.filter, filtering.result)
    )
    found = result @ ((weights @ g) * (data @ d))
    np.testing.assert_allclose(found, [g @ d[i : i + taps] for i in range(m)], atol=1e-12)


@pytest.mark.parametrize(
    ("window", "dtype", "attrs"),
    [
        ((5, 5), None, {}),
        ((3, 3), None, {"strides": (1, 2)}),
        ((3, 3), None, {"strides": (3, 3)}),
        ((3, 3), None, {"rhs_dilation": (2, 2)}),
        ((3, 3), None, {"padding": ((1, 1), (1, 1))}),
        ((3, 3), None, {"groups": 2}),
        ((3, 3), f64, {}),
    ],
)
def test_other_convolutions_are_refused(window, dtype, attrs):
    x, w = np.zeros((1, 8, 8, 16)), np.zeros((*window, 16 // attrs.get("groups", 1), 16))
    if dtype is None:
        x, w = x.astype(np.float32), w.astype(np.float32)
    types = (TensorType(operand(a).dtype, a.shape) for a in (x, w))
    body = body_of(lambda x, w: convolution(x, w, **attrs), *types)
    operands = operand(x), operand(w, constant=True)
    results = (operand(np.zeros(body.outputs[0].shape, x.dtype)),)
    task = Task(body, operands, results, host_isa(), 1)
    assert winograd.cycles(task) == math.inf
    with pytest.raises(CompileError):
        winograd.lower(task)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("size", "channels", "stride", "expected"),
    [
        (56, 64, 1, True),
        (28, 128, 1, True),
        (14, 256, 1, True),
        (1, 512, 1, False),
        (3, 512, 1, False),
        (28, 128, 2, True),
        (7, 512, 2, False),
    ],
)
def test_is_chosen_where_products_outweigh_weights(size, channels, stride, expected, threads):
    x = np.zeros((1, pixels(size, stride), pixels(size, stride), channels), np.float32)
    w = np.zeros((3, 3, channels, channels), np.float32)
    body = body_of(partial(convolution, strides=(stride, stride)), x.shape, w.shape)
    results = (operand(np.zeros((1, size, size, channels), np.float32)),)
    operands = operand(x), operand(w, constant=True)
    for isa in (ISAS["avx2"], ISAS["avx512"]):
        choice = choices.choose(Task(body, operands, results, isa, threads))
        assert isinstance(choice, winograd_plan.Plan) == expected


def test_weights_must_be_constant():
    x, w = arrays(0, (1, 8, 8, 16), (3, 3, 16, 16))
    body, results = body_of(convolution, x.shape, w.shape), (operand(x[:, :6, :6]),)
    with pytest.raises(CompileError, match="constant"):
        winograd.lower(Task(body, (operand(x), operand(w)), results, host_isa(), 1))


@pytest.mark.parametrize("name", ["avx2", "avx512", "neon"])
def test_products_are_vector_fmas(name):
    isa = ISAS[name]
    x, w = arrays(0, (1, 18, 18, 64), (3, 3, 64, 64))
    body, results = (
        body_of(convolution, x.shape, w.shape),
        (operand(np.zeros((1, 16, 16, 64), "f")),),
    )
    kernel = winograd.lower(Task(body, (operand(x), operand(w, constant=True)), results, isa, 1))
    module = new_module(isa, "test")
    kernel.emit(module, isa, "kernel")
    text = compile_assembly(module, isa)
    fma = "fmla" if name == "neon" else "vfmadd231ps"
    assert text.count(fma) >= isa.registers * 3 // 4
