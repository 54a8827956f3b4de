"""Reduce fusions: reductions of axes that are not the last ones, with prologue and epilogue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts, random_array

from tilth.cpu.kernels import reduce
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, bf16, bool_, f16, f64, i32, u8


@settings(max_examples=30)
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 9, 40]), min_size=2, max_size=4).map(tuple),
    layout=layouts,
    out=layouts,
    data=st.data(),
)
def test_any_axes_of_any_layout(shape, layout, out, data):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1), label="axes")
    body = body_of(lambda x: op.reduce(x, kind="sum", axes=tuple(sorted(axes))), shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    check(reduce.lower, body, [x], [layout], out)


@pytest.mark.parametrize("channels", [3, 16, 50, 1280])
def test_mean_over_space_with_prologue_and_epilogue(channels, rng):
    def pooled(x, scale, bias):
        total = op.reduce(op.multiply(op.maximum(x, scalar(0, x)), scale), kind="sum", axes=(1, 2))
        return op.add(op.divide(total, scalar(49, x)), bias)

    shapes = ((2, 7, 7, channels), (1, 1, 1, channels), (1, channels))
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    check(reduce.lower, body_of(pooled, *shapes), arrays)


def test_two_results_from_one_sweep(rng):
    def moments(x):
        power = op.multiply(x, x)
        return (op.reduce(x, kind="sum", axes=(0,)), op.reduce(power, kind="max", axes=(0,)))

    x = rng.standard_normal((30, 37)).astype(np.float32)
    check(reduce.lower, body_of(moments, x.shape), [x])


@pytest.mark.parametrize("kind", ["sum", "max", "min", "and", "or"])
@pytest.mark.parametrize("dtype", [f64, bf16, f16, i32, u8, bool_], ids=str)
def test_every_dtype(kind, dtype, rng):
    if (dtype.is_float and kind in ("and", "or")) or (dtype == bool_ and kind == "sum"):
        pytest.skip("not defined")
    type_ = TensorType(dtype, (6, 45))
    body = body_of(lambda x: op.reduce(x, kind=kind, axes=(0,)), type_)
    check(reduce.lower, body, [random_array(rng, dtype, type_.dims)])


def lower_exact(task):
    return reduce.lower(replace(task, exact=True))


@pytest.mark.parametrize("dims", [(1, 1, 1), (1, 7, 7), (1, 13, 13), (5, 3, 40), (100, 2, 5)])
def test_exact_sums_and_extremes_of_any_extents(dims, rng):
    def moments(x):
        return [op.reduce(x, kind=kind, axes=(0, 1, 2)) for kind in ("sum", "max", "product")]

    x = rng.uniform(0.9, 1.1, (*dims, 37)).astype(np.float32)
    check(lower_exact, body_of(lambda x: tuple(moments(x)), x.shape), [x])


@pytest.mark.parametrize("shape", [(169, 40), (5000, 40), (3, 2000, 40)])
def test_exact_sums_round_little_however_long(shape, rng):
    axes = tuple(range(len(shape) - 1))
    x = rng.random(shape).astype(np.float32)
    body = body_of(lambda x: op.reduce(x, kind="sum", axes=axes), x.shape)
    check(lower_exact, body, [x], tolerance=5e-7)


def test_results_keep_size_one_axes(rng):
    def mean(x):
        return op.reshape(op.reduce(x, kind="sum", axes=(1, 2)), shape=(2, 1, 1, 20))

    x = rng.standard_normal((2, 5, 6, 20)).astype(np.float32)
    check(reduce.lower, body_of(mean, x.shape), [x], ["channels_first"])
    check(reduce.lower, body_of(mean, x.shape), [x], ["pitched"])
