"""Window fusions: pooling and depthwise convolution with an elementwise epilogue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts, random_array

from tilth.cpu.kernels import window
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, bf16, f16, f64, i32, u8


def pool(kind, window, strides, dilation=(1, 1)):
    def build(x):
        return op.reduce_window(
            x,
            kind=kind,
            window=(1, *window, 1),
            strides=(1, *strides, 1),
            padding=((0, 0),) * 4,
            base_dilation=(1,) * 4,
            window_dilation=(1, *dilation, 1),
        )

    return build


def depthwise(strides, dilation=(1, 1)):
    def build(x, w):
        return op.convolution(
            *(x, w),
            strides=strides,
            padding=((0, 0),) * len(strides),
            lhs_dilation=(1,) * len(strides),
            rhs_dilation=dilation,
            groups=x.shape[-1],
            layout="channels_last",
        )

    return build


sizes = st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 3), (5, 2), (7, 7)])
steps = st.sampled_from([(1, 1), (2, 2), (1, 2)])
channels = st.sampled_from([1, 3, 8, 16, 24, 37])
dilations = st.sampled_from([(1, 1), (2, 1)])
kinds = st.sampled_from(["max", "sum"])


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["max", "sum"]),
    size=sizes,
    stride=steps,
    c=channels,
    layout=layouts,
    out=layouts,
)
def test_pooling(kind, size, stride, c, layout, out):
    shape = (2, 15, 13, c)
    x = np.random.default_rng(c).standard_normal(shape).astype(np.float32)
    check(window.lower, body_of(pool(kind, size, stride), shape), [x], [layout], out)


@settings(max_examples=30)
@given(
    size=sizes,
    stride=steps,
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    c=channels,
    layout=layouts,
    out=layouts,
)
def test_depthwise(size, stride, dilation, c, layout, out):
    x_shape, w_shape = (2, 16, 13, c), (*size, 1, c)
    rng = np.random.default_rng(c)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape))
    body = body_of(depthwise(stride, dilation), x_shape, w_shape)
    check(window.lower, body, [x, w], [layout, "dense"], out)


@pytest.mark.parametrize("c", [3, 16, 100])
def test_depthwise_with_bias_clamp_and_residual(c, rng):
    shapes = (1, 10, 30, c), (3, 3, 1, c), (c,), (1, 8, 28, c)

    def block(x, w, bias, residual):
        y = op.add(depthwise((1, 1))(x, w), bias)
        return op.add(op.clamp(scalar(0, y), y, scalar(6, y)), residual)

    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    check(window.lower, body_of(block, *shapes), arrays)


@pytest.mark.parametrize("multiplier", [2, 17])
@pytest.mark.parametrize("c", [1, 5])
def test_depthwise_with_channel_multiplier(c, multiplier, rng):
    shapes = (2, 9, 9, c), (3, 3, 1, c * multiplier)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    check(window.lower, body_of(depthwise((2, 2)), *shapes), [x, w])


def test_average_divides_by_a_count_per_pixel(rng):
    def average(x, count):
        return op.divide(pool("sum", (3, 3), (2, 2))(x), count)

    x, count = rng.standard_normal((1, 9, 9, 20)), rng.uniform(4, 9, (1, 4, 4, 1))
    arrays = [x.astype(np.float32), count.astype(np.float32)]
    check(window.lower, body_of(average, x.shape, count.shape), arrays)


def test_a_big_window_loops(rng):
    x = rng.standard_normal((1, 20, 20, 18)).astype(np.float32)
    check(window.lower, body_of(pool("sum", (20, 20), (1, 1)), x.shape), [x])
    check(window.lower, body_of(pool("max", (18, 17), (1, 1)), x.shape), [x])


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_any_rank(rank, rng):
    shape = (6, 5, 4, 3, 2)[:rank]
    ones, twos, none = (1,) * rank, (2,) * rank, ((0, 0),) * rank
    attrs = {"window": twos, "strides": ones, "padding": none}
    attrs |= {"base_dilation": ones, "window_dilation": ones}
    body = body_of(lambda x: op.reduce_window(x, kind="max", **attrs), shape)
    check(window.lower, body, [rng.standard_normal(shape).astype(np.float32)])


def test_depthwise_over_one_dimension(rng):
    shapes = (2, 30, 20), (4, 1, 20)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    check(window.lower, body_of(depthwise((1,), (1,)), *shapes), [x, w])


@pytest.mark.parametrize("dtype", [f64, f16, bf16, i32, u8], ids=str)
def test_other_dtypes(dtype, rng):
    type_ = TensorType(dtype, (1, 8, 8, 20))
    x = random_array(rng, dtype, type_.dims)
    for kind in ("max", "sum"):
        check(window.lower, body_of(pool(kind, (3, 3), (1, 1)), type_), [x])


def test_max_keeps_nan():
    x = np.zeros((1, 5, 5, 16), np.float32)
    x[0, 2, 2] = np.nan
    check(window.lower, body_of(pool("max", (2, 2), (1, 1)), x.shape), [x])
