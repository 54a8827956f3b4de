"""What goes along an axis in order: searching, sorting and running reductions, on any layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import BOTH_ISAS, body_of, check, layouts, random_array

from tilth.cpu.kernels import arg_reduce, cumulative, sort
from tilth.ir.ops import op
from tilth.ir.types import DTYPES, TensorType, bool_, f32, f64, i8, i32, i64, u8

NAMES = ("f32", "f32", "f64", "f16", "bf16", "i8", "i32", "i64", "u8", "u16", "u32", "u64", "bool")
dtypes = st.sampled_from([DTYPES[name] for name in NAMES])
shapes = st.lists(st.sampled_from([1, 2, 5, 9, 40]), min_size=1, max_size=3).map(tuple)


def values(dtype, shape, seed=0):
    """The whole range of a dtype, with many equal elements, NaN, and zeros of both signs."""
    rng = np.random.default_rng(seed)
    x = random_array(rng, dtype, shape)
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        x[rng.random(shape) < 0.2] = limits.min
        x[rng.random(shape) < 0.2] = limits.max
    if dtype.is_float:
        x = np.rint(x.astype(np.float32) * 2).astype(dtype.numpy)
        for special in (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0):
            x[rng.random(shape) < 0.04] = special
    return x


# -- arg_reduce ----------------------------------------------------------------------------------
@settings(max_examples=60)
@given(
    dtype=dtypes,
    shape=shapes,
    kind=st.sampled_from(["max", "min"]),
    last=st.booleans(),
    layout=layouts,
    out=layouts,
    data=st.data(),
)
def test_positions_of_extremes(dtype, shape, kind, last, layout, out, data):
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    attrs = {"kind": kind, "axis": axis, "last": last}
    body = body_of(lambda x: op.arg_reduce(x, **attrs), TensorType(dtype, shape))
    check(arg_reduce.lower, body, [values(dtype, shape)], [layout], out)


@pytest.mark.parametrize("shape, axis", [((3, 1003), 1), ((7, 100), 0), ((2, 21, 90), 1)])
def test_positions_in_long_lines(shape, axis):
    for last in (False, True):
        body = body_of(
            lambda x, last=last: op.arg_reduce(x, kind="min", axis=axis, last=last), shape
        )
        check(arg_reduce.lower, body, [values(f32, shape)])


# -- cumulative ----------------------------------------------------------------------------------
@settings(max_examples=60)
@given(
    dtype=dtypes,
    shape=shapes,
    kind=st.sampled_from(["sum", "product", "max", "min", "and", "or"]),
    exclusive=st.booleans(),
    reverse=st.booleans(),
    layout=layouts,
    out=layouts,
    data=st.data(),
)
def test_running_reductions(dtype, shape, kind, exclusive, reverse, layout, out, data):
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    if dtype.is_float and kind in ("and", "or"):
        kind = "sum"
    if dtype == bool_ and kind in ("sum", "product"):
        kind = "max"
    attrs = {"kind": kind, "axis": axis, "exclusive": exclusive, "reverse": reverse}
    x = random_array(np.random.default_rng(0), dtype, shape)
    if dtype.is_float and kind == "product":
        x = (x / 4 + dtype.numpy.type(1)).astype(dtype.numpy)
    body = body_of(lambda x: op.cumulative(x, **attrs), TensorType(dtype, shape))
    check(cumulative.lower, body, [x], [layout], out)


def test_a_long_sum_keeps_its_precision(rng):
    x = rng.random((2, 20_000)).astype(np.float32)
    body = body_of(lambda x: op.cumulative(x, kind="sum", axis=1), x.shape)
    check(cumulative.lower, body, [x], tolerance=1e-7)


# -- sort and top_k ------------------------------------------------------------------------------
@settings(max_examples=40)
@given(
    dtype=dtypes,
    shape=shapes,
    descending=st.booleans(),
    layout=layouts,
    out=layouts,
    data=st.data(),
)
def test_stable_sorting_of_several_operands(dtype, shape, descending, layout, out, data):
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    types = [TensorType(d, shape) for d in (dtype, i64, u8)]
    positions = np.arange(np.prod(shape)).reshape(shape)
    arrays = [values(dtype, shape), positions, positions.astype(np.uint8)]
    body = body_of(lambda *xs: op.sort(*xs, axis=axis, descending=descending), *types)
    check(sort.lower_sort, body, arrays, [layout] * 3, out)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_sorting_lines_of_any_length(length, dtype):
    x = values(dtype, (2, length))
    body = body_of(lambda x: op.sort(x, axis=1), TensorType(dtype, x.shape))
    check(sort.lower_sort, body, [x])


@settings(max_examples=40)
@given(
    dtype=dtypes, shape=shapes, largest=st.booleans(), layout=layouts, out=layouts, data=st.data()
)
def test_top_k(dtype, shape, largest, layout, out, data):
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    k = data.draw(st.integers(0, shape[axis]), label="k")
    body = body_of(lambda x: op.top_k(x, k=k, axis=axis, largest=largest), TensorType(dtype, shape))
    check(sort.lower_top_k, body, [values(dtype, shape)], [layout], out)


@pytest.mark.parametrize("k", [1, 5, 64, 65, 999])
@pytest.mark.parametrize("largest", [True, False])
def test_top_k_of_many(k, largest, rng):
    for x in (values(f32, (3, 1001)), rng.standard_normal((3, 1001)).astype(np.float32)):
        body = body_of(lambda x: op.top_k(x, k=k, axis=1, largest=largest), x.shape)
        check(sort.lower_top_k, body, [x], isas=BOTH_ISAS[:1])


@pytest.mark.parametrize("dtype", [i8, i32], ids=str)
def test_equal_elements_come_in_order_of_position(dtype):
    x = np.zeros((2, 200), dtype.numpy)
    body = body_of(lambda x: op.top_k(x, k=3, axis=1), TensorType(dtype, x.shape))
    check(sort.lower_top_k, body, [x])
