"""Contraction fusions: matrix products and convolutions with an elementwise epilogue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import BOTH_ISAS, body_of, check, layouts, random_array

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import contraction, contraction_plan, tiles
from tilth.cpu.kernels.contraction_form import canonicalise
from tilth.cpu.kernels.contraction_geometry import Geometry
from tilth.cpu.kernels.contraction_plan import Plan
from tilth.ir.errors import CompileError
from tilth.ir.interpreter import interpret
from tilth.ir.ops import make, op
from tilth.ir.types import DTYPES, TensorType, bf16, f16, f32, f64, i8, i32, i64, u8

PRODUCT = {"lhs_contract": (1,), "rhs_contract": (0,)}


def matmul(x, w):
    return op.dot_general(x, w, **PRODUCT)


def convolve(strides=(1, 1), dilation=(1, 1), groups=1):
    def build(x, w):
        return op.convolution(
            x,
            w,
            strides=strides,
            padding=((0, 0),) * len(strides),
            lhs_dilation=(1,) * len(strides),
            rhs_dilation=dilation,
            groups=groups,
            layout="channels_last",
        )

    return build


def small_floats(shape, seed=0):
    """Small whole numbers: sums of products are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@st.composite
def dot_generals(draw):
    """Shapes of both operands with their dimensions in any order, and the attributes."""
    groups = [draw(st.lists(st.integers(1, high), max_size=2)) for high in (3, 17, 40, 33)]
    batch, m, n, k = groups

    def arrange(first, free):
        dims = [*first, *free, *k]
        order = draw(st.permutations(range(len(dims))))
        shape = tuple(dims[i] for i in order)
        where = [order.index(i) for i in range(len(dims))]
        return shape, tuple(where[: len(first)]), tuple(where[len(first) + len(free) :])

    (x, x_batch, x_contract), (w, w_batch, w_contract) = arrange(batch, m), arrange(batch, n)
    attrs = {"lhs_batch": x_batch, "rhs_batch": w_batch}
    return x, w, attrs | {"lhs_contract": x_contract, "rhs_contract": w_contract}


@settings(max_examples=40)
@given(case=dot_generals(), lay=st.tuples(layouts, layouts), out=layouts, constant=st.booleans())
def test_dot_general_of_any_rank_and_layout(case, lay, out, constant):
    x, w, attrs = case
    body = body_of(lambda a, b: op.dot_general(a, b, **attrs), x, w)
    arrays = [small_floats(x, 1), small_floats(w, 2)]
    check(contraction.lower, body, arrays, lay, out, constants=[1] if constant else [])


@settings(max_examples=25)
@given(
    window=st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 5)]),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    channels=st.sampled_from([1, 3, 8, 20]),
    filters=st.sampled_from([1, 7, 16, 40]),
    groups=st.sampled_from([1, 2]),
    lay=layouts,
    constant=st.booleans(),
)
def test_convolution(window, strides, dilation, channels, filters, groups, lay, constant):
    x, w = (2, 13, 11, channels * groups), (*window, channels, filters * groups)
    body = body_of(convolve(strides, dilation, groups), x, w)
    arrays = [small_floats(x, 1), small_floats(w, 2)]
    check(contraction.lower, body, arrays, [lay, "dense"], constants=[1] if constant else [])


def test_convolutions_of_one_and_three_dimensions():
    for sizes in [(9,), (5, 6, 7)]:
        rank = len(sizes)
        x, w = (1, *sizes, 5), (*(3,) * rank, 5, 18)
        body = body_of(convolve((1,) * rank, (1,) * rank), x, w)
        check(contraction.lower, body, [small_floats(x, 1), small_floats(w, 2)], constants=[1])


@settings(max_examples=15)
@given(m=st.integers(1, 30), n=st.integers(1, 70), k=st.integers(1, 40), lay=layouts, out=layouts)
def test_epilogue_with_bias_and_residual(m, n, k, lay, out):
    def build(x, w, bias, residual, scale):
        return op.relu(op.add(op.multiply(op.add(matmul(x, w), bias), scale), residual))

    shapes = [(m, k), (k, n), (1, n), (m, n), (m, 1)]
    arrays = [small_floats(s, i) for i, s in enumerate(shapes)]
    lays = ["dense", "dense", "dense", lay, lay]
    check(contraction.lower, body_of(build, *shapes), arrays, lays, out, constants=[1, 2])


def test_long_epilogue_runs_over_finished_tiles():
    def build(x, w, bias):
        return op.gelu(op.add(matmul(x, w), bias), approximate="tanh")

    shapes = [(37, 600), (600, 50), (1, 50)]
    arrays = [0.1 * small_floats(s, i) for i, s in enumerate(shapes)]
    check(contraction.lower, body_of(build, *shapes), arrays, constants=[1, 2])


def test_operand_may_feed_the_epilogue_too():
    body = body_of(lambda x, w: op.add(matmul(x, w), x), (19, 19), (19, 19))
    check(contraction.lower, body, [small_floats((19, 19), 1), small_floats((19, 19), 2)])


def test_residual_in_place():
    """The residual may be the result's own memory, also when the depth is cut into blocks."""
    body = body_of(lambda x, w, r: op.add(matmul(x, w), r), (40, 2000), (2000, 48), (40, 48))
    x, w, r = (small_floats(v.shape, i) for i, v in enumerate(body.inputs))
    expected = x @ w + r
    for isa in BOTH_ISAS:
        result = r.copy()
        operands = (operand(x), operand(w, constant=True), operand(result))
        kernel = contraction.lower(Task(body, operands, (operand(result),), isa, 1))
        CompiledKernel(kernel, isa)([x, w, result], [result])
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "types",
    [
        *((f64, f64, None), (f16, f16, None), (bf16, bf16, None), (f16, f16, f32)),
        *((i8, i8, i32), (u8, u8, i32), (i32, i32, None), (i64, i64, None), (u8, u8, None)),
    ],
    ids=str,
)
def test_every_dtype(types, rng):
    left, right, result = types
    shapes = [(9, 21), (21, 35)]
    body = body_of(
        lambda x, w: op.dot_general(x, w, **PRODUCT, dtype=result),
        *(TensorType(d, s) for d, s in zip((left, right), shapes, strict=True)),
    )
    arrays = [random_array(rng, d, s) for d, s in zip((left, right), shapes, strict=True)]
    check(contraction.lower, body, arrays)
    check(contraction.lower, body, arrays, constants=[1])


@pytest.mark.parametrize("m, k, n", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (1, 0, 1)])
def test_empty_and_single_extents(m, k, n):
    body = body_of(matmul, (m, k), (k, n))
    check(contraction.lower, body, [small_floats((m, k)), small_floats((k, n))])


@settings(max_examples=40)
@given(data=st.data())
def test_results_do_not_depend_on_the_plan(data):
    """Any tile, blocking, copy and split gives the same numbers."""
    draw = data.draw
    x, w = draw(st.sampled_from([((1, 7, 9, 20), (3, 2, 20, 41)), ((45, 70), (70, 83))]))
    build = matmul if len(x) == 2 else convolve()
    body = body_of(
        lambda a, b, c: op.relu(op.add(build(a, b), c)), x, w, (1,) * len(x[1:]) + w[-1:]
    )
    arrays = [small_floats(v.shape, i) for i, v in enumerate(body.inputs)]
    constant = draw(st.booleans())

    def lower(task):
        shape = contraction_plan.shape_of(canonicalise(task), task.isa)
        flat = shape.height.size > 1 and draw(st.booleans())
        shape = replace(shape, flat=flat)
        return contraction.lower(task, _any_plan(draw, shape, task.isa, constant))

    isas, out = [draw(st.sampled_from(BOTH_ISAS))], draw(st.sampled_from(["dense", "pitched"]))
    check(lower, body, arrays, (), out, isas=isas, constants=[1] if constant else [])


def _any_plan(draw, shape, isa, constant):
    every = list(tiles.candidates(isa, shape.height.size, shape.width.size, shape.vectors))
    tiling = draw(st.sampled_from(every))
    cut = tiling.height if shape.height.size > 1 else tiling.width
    plan = Plan(
        tiling,
        rhs="packed" if constant else draw(st.sampled_from(["direct", "copied"])),
        copy_lhs=draw(st.booleans()),
        depth_outside=draw(st.booleans()),
        row_blocks=draw(st.integers(1, cut.count)),
        panel_blocks=draw(st.integers(1, tiling.panels.count)),
        panels_first=draw(st.booleans()),
        interleaved=tuple(i for i in range(len(shape.outer)) if draw(st.booleans())),
        deferred=draw(st.booleans()),
        fetch_ahead=constant and draw(st.booleans()),
        fetch_results=draw(st.booleans()),
        run=draw(st.sampled_from([0, 3, 10, 32, 100])),
        flat=shape.flat,
    )
    if draw(st.booleans()):
        return replace(plan, chunk=4 * draw(st.integers(1, 5)), tap_loops=len(shape.taps))
    if constant and not shape.taps:
        return replace(plan, streams=draw(st.sampled_from([1, 2, 5])))
    return replace(plan, tap_loops=draw(st.integers(0, len(shape.taps))))


def test_weights_that_are_used_once_are_read_in_four_places_at_a_time():
    body = body_of(matmul, (1, 4096), (4096, 1000))
    x, w, y = (operand(np.empty(v.shape, np.float32)) for v in (*body.inputs, body.outputs[0]))
    for isa in ISAS.values():
        shape = contraction_plan.shape_of(canonicalise(Task(body, (x, w), (y,), isa, 2)), isa)
        assert contraction_plan.choose(shape, True, isa, 2).streams == 4
        assert contraction_plan.choose(shape, False, isa, 2).streams == 1


def test_tiles_of_small_maps_run_through_their_lines():
    """A tile of one line wastes registers; the result lies within a border here."""
    body = body_of(convolve(), (1, 7, 7, 256), (1, 1, 256, 512))
    x, w = (operand(np.empty(v.shape, np.float32)) for v in body.inputs)
    y = operand(np.empty((1, 9, 9, 512), np.float32)[:, 1:-1, 1:-1])
    isa = ISAS["avx512"]
    shape = contraction_plan.shape_of(canonicalise(Task(body, (x, w), (y,), isa, 1)), isa)
    plan = contraction_plan.choose(shape, True, isa, 1)
    assert plan.flat and plan.tiling.width.extent == 49


def test_threads_share_rows_if_others_wrote_what_they_would_read():
    body = body_of(matmul, (196, 1024), (1024, 256))
    x, w, y = (operand(np.empty(v.shape, np.float32)) for v in (*body.inputs, body.outputs[0]))
    isa = ISAS["avx512"]
    shape = contraction_plan.shape_of(canonicalise(Task(body, (x, w), (y,), isa, 2)), isa)
    plan = contraction_plan.choose(shape, True, isa, 2)
    assert plan.row_blocks % 2 == 0 and plan.panel_blocks == 1


@settings(max_examples=30)
@given(m=st.integers(8, 400), k=st.integers(64, 3000), n=st.integers(40, 900))
def test_tiles_of_a_block_fetch_the_next_block_of_weights_once(m, k, n):
    body = body_of(matmul, (m, k), (k, n))
    x, w, y = (operand(np.empty(v.shape, np.float32)) for v in (*body.inputs, body.outputs[0]))
    isa = ISAS["avx512"]
    shape = contraction_plan.shape_of(canonicalise(Task(body, (x, w), (y,), isa, 1)), isa)
    plan = contraction_plan.choose(shape, True, isa, 1)
    g = Geometry(shape, replace(plan, fetch_ahead=True), (x, w), y)
    block = g.chunk * plan.tiling.panels.width * g.unit
    fetched = g.block_tiles * g.turns * g.pace
    assert block <= fetched <= block + 16 * g.block_tiles * g.turns


def test_a_dense_pointwise_convolution_becomes_one_matrix_product():
    body = body_of(convolve(), (2, 14, 14, 24), (1, 1, 24, 32))
    arrays = [small_floats(v.shape) for v in (*body.inputs, body.outputs[0])]
    x, w, y = map(operand, arrays)
    form = canonicalise(Task(body, (x, w), (y,), ISAS["avx2"], 1))
    assert [lp.size for lp in form.m] == [2 * 14 * 14] and [lp.size for lp in form.k] == [24]


def test_what_cannot_be_lowered_is_an_error():
    body = body_of(convolve(), (1, 4, 4, 2), (3, 3, 2, 2))
    node = body.outputs[0].node
    first = op.convolution(*node.inputs, **{**node.attrs, "padding": ((1, 1), (1, 1))})
    bad = replace(body, outputs=(first,))
    arrays = [small_floats(v.shape) for v in (*bad.inputs, bad.outputs[0])]
    x, w, y = map(operand, arrays)
    with pytest.raises(CompileError, match="zero padding"):
        contraction.lower(Task(bad, (x, w), (y,), ISAS["avx2"], 1))


def test_complex_numbers_have_no_kernel():
    c64 = TensorType(DTYPES["c64"], (2, 2))
    body = body_of(matmul, c64, c64)
    x = operand(np.zeros((2, 2), np.complex64))
    with pytest.raises(CompileError):
        contraction.lower(Task(body, (x, x), (x,), ISAS["avx2"], 1))


def rms_error(lower, build, x, w):
    """The error of a kernel's results, over their size, both as root mean squares."""
    body = body_of(build, x.shape, w.shape)
    [expected] = interpret(_in_double(body), [x.astype(np.float64), w.astype(np.float64)])
    result = np.empty(expected.shape, np.float32)
    operands = (operand(x), operand(w, constant=True))
    kernel = lower(Task(body, operands, (operand(result),), BOTH_ISAS[0], 1))
    CompiledKernel(kernel, BOTH_ISAS[0])([x, w], [result])
    return np.sqrt(((result - expected) ** 2).mean() / (expected**2).mean())


def _in_double(body):
    return body_of(
        lambda x, w: make(body.outputs[0].node.op, x, w, **body.outputs[0].node.attrs).outputs[0],
        *(TensorType(f64, v.shape) for v in body.inputs),
    )


@pytest.mark.parametrize(
    "build, x, w",
    [
        *((matmul, (rows, depth), (depth, 70)) for rows in (1, 30) for depth in (100, 1700, 9000)),
        (convolve(), (1, 9, 9, 64), (3, 3, 64, 40)),  # two runs per tap
        (convolve(), (1, 9, 9, 13), (3, 3, 13, 40)),  # two taps in a run, the last alone
    ],
)
def test_exact_sums_round_little_however_deep(build, x, w, rng):
    """Positive terms times random weights, as after a relu."""
    arrays = rng.random(x).astype(np.float32), rng.standard_normal(w).astype(np.float32)
    assert rms_error(contraction.lower_exact, build, *arrays) < 1.8e-7


def test_exact_sums_round_less_than_long_ones(rng):
    def lower_uncut(task):
        plan = replace(contraction.choose(task), chunk=0, tap_loops=0, depth_outside=False)
        return contraction.lower(task, plan)

    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((8, 9000), (9000, 70)))
    long, exact = (
        rms_error(lower, matmul, x, w) for lower in (lower_uncut, contraction.lower_exact)
    )
    assert exact < long / 8


def test_sums_of_few_rows_round_as_little_by_default(rng):
    """They wait for weights, so it costs nothing."""
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 9000), (9000, 70)))
    usual, exact = (
        rms_error(lower, matmul, x, w) for lower in (contraction.lower, contraction.lower_exact)
    )
    assert usual == exact
