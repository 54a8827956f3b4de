"""Winograd convolutions: random shapes, strides and epilogues against the reference interpreter."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.jit import compile_assembly, new_module
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import winograd, winograd_plan
from tilth.cpu.kernels.winograd_transform import F2, F4, Transform
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


def bias_relu(x, w, b):
    return op.relu(op.add(convolution(x, w), b))


def residual(x, w, b, y):
    return op.silu(op.add(op.add(convolution(x, w), b), y))


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def with_transform(transform, **changes):
    """`lower` with a plan for this transform."""

    def lower(task):
        problem = winograd.problem_of(task)
        plan, *_ = winograd_plan.ranked(problem, task.isa, task.threads, [transform])
        return winograd.lower(task, replace(plan, **changes))

    return lower


channels = st.sampled_from([1, 3, 8, 16, 24, 37, 64])
transforms = st.sampled_from([F2, F4])


@settings(max_examples=40, deadline=None)
@given(
    transform=transforms,
    batch=st.integers(1, 3),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    c=channels,
    k=channels,
    layout=layouts,
    out=layouts,
)
def test_any_shape_and_layout(transform, batch, height, width, c, k, layout, out):
    shapes = (batch, height + 2, width + 2, c), (3, 3, c, k), (k,)
    check(
        *(with_transform(transform), body_of(bias_relu, *shapes), arrays(c, *shapes)),
        *([layout, "dense", "dense"], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=12, deadline=None)
@given(transform=transforms, height=st.integers(1, 9), k=channels, layout=layouts, out=layouts)
def test_epilogue_with_operands_of_the_result_shape(transform, height, k, layout, out):
    shapes = (2, height + 2, 10, 16), (3, 3, 16, k), (k,), (2, height, 8, k)
    check(
        *(with_transform(transform), body_of(residual, *shapes), arrays(k, *shapes)),
        *(["dense", "dense", "dense", layout], out, TOLERANCE),
        constants=(1,),
    )


@settings(max_examples=8, deadline=None)
@given(transform=transforms, tile_blocks=st.integers(1, 3), panel_blocks=st.integers(1, 3))
def test_any_division_into_work_items(transform, tile_blocks, panel_blocks):
    shapes = (2, 15, 12, 24), (3, 3, 24, 170), (170,)
    lower = with_transform(transform, tile_blocks=tile_blocks, panel_blocks=panel_blocks)
    check(
        *(lower, body_of(bias_relu, *shapes), arrays(0, *shapes)),
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


@pytest.mark.parametrize(("transform", "bound"), [(F4, 1e-5), (F2, 2e-6)])
def test_error_against_float64(transform, bound):
    """Relative to the largest result, for normally distributed data and 512 channels."""
    x, w = arrays(2, (1, 14, 14, 512), (3, 3, 512, 32))
    exact = sum(
        x[:, i : i + 12, j : j + 12].astype(np.float64) @ w[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    result = np.empty((1, 12, 12, 32), np.float32)
    body = body_of(convolution, x.shape, w.shape)
    operands = operand(x), operand(w, constant=True)
    kernel = with_transform(transform)(Task(body, operands, (operand(result),), host_isa(), 1))
    CompiledKernel(kernel)([x, w], [result])
    assert np.abs(result - exact).max() <= bound * np.abs(exact).max()


@pytest.mark.parametrize("transform", [F2, F4, Transform((Fraction(1), Fraction(2)))])
def test_matrices_compute_a_correlation(transform):
    n, m = transform.size, transform.outputs
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal((n, n)), rng.standard_normal((3, 3))
    data, result = (
        np.array([[float(x) for x in row] for row in matrix])
        for matrix in (transform.data, transform.result)
    )
    products = transform.weights(g[:, :, None, None]).reshape(n, n) * (data @ d @ data.T)
    direct = sum(g[i, j] * d[i : i + m, j : j + m] for i in range(3) for j in range(3))
    np.testing.assert_allclose(result @ products @ result.T, direct, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "dtype", "attrs"),
    [
        ((5, 5), None, {}),
        ((3, 3), None, {"strides": (2, 2)}),
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
    assert not winograd.pays(task)
    with pytest.raises(CompileError):
        winograd.lower(task)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [(56, 64, True), (28, 128, True), (14, 256, True), (1, 512, False), (3, 512, False)],
)
def test_pays_where_products_outweigh_weights(size, channels, expected, threads):
    x = np.zeros((1, size + 2, size + 2, channels), np.float32)
    w = np.zeros((3, 3, channels, channels), np.float32)
    body = body_of(convolution, x.shape, w.shape)
    results = (operand(np.zeros((1, size, size, channels), np.float32)),)
    operands = operand(x), operand(w, constant=True)
    for isa in (ISAS["avx2"], ISAS["avx512"]):
        assert winograd.pays(Task(body, operands, results, isa, threads)) == expected


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
