"""Contractions in split bf16: random shapes and epilogues against the reference interpreter.

They run where the processor has the matrix unit; what needs none is tested everywhere.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.jit import compile_assembly, new_module
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import (
    contraction,
    split_bf16,
    split_bf16_cost,
    split_bf16_pack,
    split_bf16_plan,
)
from tilth.cpu.kernels.contraction_form import canonicalise
from tilth.ir.errors import CompileError
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f64

TOLERANCE = 2e-6  # of the largest result
TILES = replace(ISAS["avx512"], cpu="sapphirerapids", features="-prefer-256-bit", bf16_tiles=True)
here = pytest.mark.skipif(
    not host_isa().bf16_tiles, reason="this processor has no bf16 tiles (AMX)"
)


def dot(x, y, lhs=1, rhs=0, batch=()):
    return op.dot_general(
        *(x, y),
        **{"lhs_batch": batch, "rhs_batch": batch, "dtype": None},
        **{"lhs_contract": (lhs,), "rhs_contract": (rhs,)},
    )


def convolution(x, w, strides=(1, 1), dilation=(1, 1), groups=1):
    return op.convolution(
        *(x, w),
        **{"strides": strides, "padding": ((0, 0), (0, 0)), "lhs_dilation": (1, 1)},
        **{"rhs_dilation": dilation, "groups": groups, "layout": "channels_last"},
    )


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def checked(build, inputs, layout=(), out="dense", constants=(1,), **changes):
    """Compare the kernel with the interpreter, whole and cut into ranges of items."""

    def lower(task):
        form = canonicalise(task)
        known = task.is_constant(form.rhs)
        plan, *_ = split_bf16_cost.ranked(form, known, task.isa, task.threads)
        return split_bf16.lower(task, replace(plan, **changes))

    check(
        *(lower, body_of(build, *(a.shape for a in inputs)), inputs, layout, out, TOLERANCE),
        isas=[host_isa()],
        constants=constants,
    )


@here
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 100),
    depth=st.integers(2, 150),
    columns=st.integers(2, 100),
    out=layouts,
    constant=st.booleans(),
)
def test_products_of_any_shape(rows, depth, columns, out, constant):
    x, y, bias = arrays(rows, (rows, depth), (depth, columns), (columns,))
    if out in ("fortran", "swapped", "channels_first"):  # the operands would trade places
        out = "pitched"
    checked(
        lambda x, y, b: op.relu(op.add(dot(x, y), b)),
        [x, y, bias],
        ["pitched", "pitched", "dense"],
        out,
        constants=(1,) if constant else (),
    )


@here
@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 70), depth=st.integers(2, 70))
def test_right_operands_that_lie_transposed(size, depth):
    x, y = arrays(size, (3, 40, depth), (3, size + 1, depth))
    checked(lambda x, y: dot(x, y, 2, 2, (0,)), [x, y], constants=())


@here
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 12),
    width=st.integers(1, 20),
    window=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    channels=st.sampled_from([2, 8, 32, 40, 64]),
    filters=st.sampled_from([5, 16, 40]),
    layout=st.sampled_from(["dense", "pitched"]),
    out=st.sampled_from(["dense", "pitched", "strided", "reversed"]),
)
def test_convolutions(
    batch, height, width, window, stride, dilation, channels, filters, layout, out
):
    reach = dilation * (window - 1)
    shape = (batch, stride * (height - 1) + 1 + reach, stride * (width - 1) + 1 + reach, channels)
    result = (batch, height, width, filters)
    x, w, b, y = arrays(0, shape, (window, window, channels, filters), (filters,), result)
    checked(
        lambda x, w, b, y: op.silu(
            op.add(op.add(convolution(x, w, (stride, stride), (dilation, dilation)), b), y)
        ),
        *([x, w, b, y], [layout, "dense", "dense", "pitched"], out),
    )


@here
def test_groups_have_weights_of_their_own():
    x, w = arrays(3, (1, 9, 9, 128), (3, 3, 32, 64))
    checked(lambda x, w: convolution(x, w, groups=4), [x, w])


@here
@settings(max_examples=8, deadline=None)
@given(
    row_blocks=st.integers(1, 4),
    panel_blocks=st.integers(1, 3),
    filters=st.sampled_from([20, 64, 100]),
    plain=st.booleans(),
)
def test_any_division_into_work_items(row_blocks, panel_blocks, filters, plain):
    x, w, b = arrays(1, (2, 12, 11, 40), (3, 3, 40, filters), (filters,))
    changes = {"row_blocks": row_blocks, "panel_blocks": min(panel_blocks, -(-filters // 32))}
    changes |= {"plain": plain}
    checked(lambda x, w, b: op.add(convolution(x, w), b), [x, w, b], **changes)


@here
@settings(max_examples=8, deadline=None)
@given(
    depth_blocks=st.integers(2, 4),
    row_blocks=st.integers(1, 3),
    panel_blocks=st.integers(1, 2),
    plain=st.booleans(),
)
def test_sums_wait_between_parts_of_the_depth(depth_blocks, row_blocks, panel_blocks, plain):
    x, y, b = arrays(4, (70, 384), (384, 90), (90,))
    changes = {"depth_blocks": depth_blocks, "row_blocks": row_blocks, "panel_blocks": panel_blocks}
    checked(lambda x, y, b: op.add(dot(x, y), b), [x, y, b], plain=plain, **changes)


@here
@settings(max_examples=8, deadline=None)
@given(stride=st.integers(1, 2), row_blocks=st.integers(1, 3), plain=st.booleans())
def test_the_depth_of_windows_is_cut_between_taps(stride, row_blocks, plain):
    x, w, b = arrays(5, (1, 17, 19, 40), (3, 3, 40, 90), (90,))
    checked(
        *(lambda x, w, b: op.add(convolution(x, w, (stride, stride)), b), [x, w, b]),
        **{"depth_blocks": 3, "row_blocks": row_blocks, "plain": plain},
    )


@here
@pytest.mark.parametrize("depth", [36, 512, 4096])
def test_errors_are_those_of_sums_in_f32(depth):
    x, y = arrays(2, (64, depth), (depth, 64))
    body, operands = body_of(dot, x.shape, y.shape), (operand(x), operand(y, constant=True))
    results = [np.empty((64, 64), np.float32) for _ in range(2)]
    for algorithm, result in zip((split_bf16, contraction), results, strict=True):
        task = Task(body, operands, (operand(result),), host_isa(), 1)
        CompiledKernel(algorithm.lower(task))([x, y], [result])
    x, y = x.astype(np.float64), y.astype(np.float64)
    split, usual = (np.abs(result - x @ y) for result in results)
    assert (split <= (2**-22 + depth * 2**-24) * (np.abs(x) @ np.abs(y))).all()
    assert np.sqrt((split**2).mean()) <= np.sqrt((usual**2).mean())


@here
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000])
def test_what_is_not_finite_stays_so(bits):
    x, y = arrays(0, (20, 64), (64, 40))
    x[3, 5] = y[7, 9] = np.array([bits], np.uint32).view(np.float32)[0]
    result, body = np.zeros((20, 40), np.float32), body_of(dot, x.shape, y.shape)
    operands = operand(x), operand(y, constant=True)
    CompiledKernel(split_bf16.lower(Task(body, operands, (operand(result),), host_isa(), 1)))(
        [x, y], [result]
    )
    touched = np.zeros((20, 40), bool)
    touched[3], touched[:, 9] = True, True
    np.testing.assert_array_equal(np.isfinite(result), ~touched)


def test_three_parts_hold_all_bits_of_a_number():
    values = arrays(0, (1000,))[0] * np.float32(1e3)
    parts = [
        (bits & np.uint32(0xFFFF0000)).view(np.float32) for bits in split_bf16_pack.split(values)
    ]
    assert (np.abs(parts[1]) <= 2**-8 * np.abs(values)).all()
    assert (np.abs(parts[2]) < 2**-15 * np.abs(values)).all()
    np.testing.assert_array_equal(sum(p.astype(np.float64) for p in parts), values)


def test_positions_between_the_rows_of_an_image_are_few():
    x, w = arrays(0, (1, 30, 30, 64), (3, 3, 64, 64))
    operands = operand(x), operand(w, constant=True)
    results = (operand(np.zeros((1, 28, 28, 64), np.float32)),)
    task = Task(body_of(convolution, x.shape, w.shape), operands, results, TILES, 1)
    problem = split_bf16_plan.problem_of(canonicalise(task))
    assert problem.on_grid
    assert (problem.wanted, problem.rows, problem.halo) == (784, 27 * 30 + 28, 2 * 30 + 2)


def test_products_are_instructions_of_the_matrix_unit():
    x, y = arrays(0, (64, 64), (64, 64))
    body, results = body_of(dot, x.shape, y.shape), (operand(np.zeros((64, 64), np.float32)),)
    kernel = split_bf16.lower(
        Task(body, (operand(x), operand(y, constant=True)), results, TILES, 1)
    )
    module = new_module(TILES, "test")
    kernel.emit(module, TILES, "kernel")
    assembly = compile_assembly(module, TILES)
    # per step six products of each tile: of 2 x 2 tiles, and of 1 x 2 where rows end
    assert assembly.count("tdpbf16ps") == 6 * (2 * 2 + 1 * 2)
    assert "tilerelease" in assembly


@pytest.mark.parametrize(
    ("rows", "expected"), [(512, True), (128, True), (1, False)], ids=["many", "some", "one"]
)
def test_pays_where_rows_fill_tiles(rows, expected):
    x, y = arrays(0, (rows, 512), (512, 512))
    operands = operand(x), operand(y, constant=True)
    results = (operand(np.zeros((rows, 512), np.float32)),)
    body = body_of(dot, x.shape, y.shape)
    assert split_bf16.pays(Task(body, operands, results, TILES, 2)) == expected
    assert not split_bf16.pays(Task(body, operands, results, ISAS["avx512"], 2))


def test_other_types_are_refused():
    x = np.zeros((32, 32))
    body = body_of(dot, TensorType(f64, (32, 32)), TensorType(f64, (32, 32)))
    with pytest.raises(CompileError, match="f32"):
        split_bf16.lower(Task(body, (operand(x), operand(x)), (operand(x),), TILES, 1))
