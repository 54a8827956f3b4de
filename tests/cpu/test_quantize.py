"""Quantisation is elementwise: exact in every integer type, alone and around other kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, random_array
from program_check import check_program

from tilth.cpu.kernels import contraction
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import DTYPES, TensorType, bf16, f16, f32, f64, i8, i32, u8

INTEGERS = [DTYPES[name] for name in ("u8", "i8", "u16", "i16", "u32", "i32")]
SHAPE = (5, 6, 7)


def parameters(rng, dtype, real, axis):
    """A scale and zero points from the whole range of the type."""
    shape = () if axis is None else (SHAPE[axis],)
    limits = np.iinfo(dtype.numpy)
    zero = rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=dtype.numpy)
    return rng.uniform(0.01, 1, shape).astype(real.numpy), np.asarray(zero)


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(INTEGERS),
    real=st.sampled_from([f32, f32, f64, f16, bf16]),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_quantize_and_dequantize_are_elementwise(dtype, real, axis):
    rng = np.random.default_rng(0)
    scale, zero = parameters(rng, dtype, real, axis)
    x = rng.standard_normal(SHAPE) * 10 ** rng.uniform(-2, 4, SHAPE)
    x[0, 0, :4] = [np.nan, np.inf, -np.inf, 0]
    x, q = x.astype(real.numpy), random_array(rng, dtype, SHAPE)
    for value, build in (
        (x, lambda x, s, z: op.uniform_quantize(x, s, z, dtype=dtype, axis=axis)),
        (q, lambda q, s, z: op.uniform_dequantize(q, s, z, dtype=real, axis=axis)),
    ):
        report = check_program(build, value, scale, zero)
        assert {kernel.name for kernel in report.kernels} == {"elementwise"}


@pytest.mark.parametrize("dtype", [u8, i8], ids=str)
def test_a_contraction_of_integers_requantises_its_result(dtype, rng):
    """QLinearMatMul: i32 sums of products, scaled per column and rounded, in one kernel."""

    def build(x, w, factor, zero):
        products = op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))
        real = op.multiply(op.convert(products, dtype=f32), factor)
        return op.uniform_quantize(real, scalar(1, real), zero, dtype=dtype)

    shapes = (9, 20), (20, 33), (1, 33), ()
    dtypes = i32, i32, f32, dtype
    arrays = [random_array(rng, d, s) for d, s in zip(dtypes, shapes, strict=True)]
    arrays[2] = abs(arrays[2]) / 1000
    body = body_of(build, *map(TensorType, dtypes, shapes))
    check(contraction.lower, body, arrays)


@pytest.mark.parametrize("left, right", [(u8, i8), (i8, i8), (u8, u8), (i8, u8)])
def test_products_of_narrow_integers_accumulate_in_i32(left, right, rng):
    arrays = [random_array(rng, left, (5, 40)), random_array(rng, right, (40, 17))]
    body = body_of(
        lambda x, w: op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,), dtype=i32),
        *(TensorType(d, a.shape) for d, a in zip((left, right), arrays, strict=True)),
    )
    check(contraction.lower, body, arrays)
    check(contraction.lower, body, arrays, constants=[1])


def test_convolutions_of_integers(rng):
    arrays = [random_array(rng, i32, (1, 6, 7, 5)), random_array(rng, i32, (3, 3, 5, 9))]
    body = body_of(
        lambda x, w: op.convolution(x, w, layout="channels_last"),
        *(TensorType(i32, a.shape) for a in arrays),
    )
    check(contraction.lower, body, arrays)
