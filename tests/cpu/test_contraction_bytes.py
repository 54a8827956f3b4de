"""Contractions of bytes: the instruction for four products at once gives the same exact sums."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check

from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task, dense
from tilth.cpu.kernels import contraction
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, f32, i8, i32, u8

HOST = host_isa()
needs_byte_dot = pytest.mark.skipif(not HOST.byte_dot, reason="this machine has no byte dot")


def integers(rng, dtype, *shape):
    """From the whole range, which the sums of products must bear."""
    limits = np.iinfo(dtype.numpy)
    return rng.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)


def product(x, w):
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,), dtype=i32)


def convolution(stride=1, dilation=1, groups=1):
    def build(x, w):
        return op.convolution(
            x, w, layout="channels_last", dtype=i32, groups=groups,
            strides=(stride, stride), rhs_dilation=(dilation, dilation),
        )  # fmt: skip

    return build


def checked(build, *arrays):
    dtypes = {np.dtype(np.uint8): u8, np.dtype(np.int8): i8, np.dtype(np.float32): f32}
    body = body_of(build, *(TensorType(dtypes[a.dtype], a.shape) for a in arrays))
    check(contraction.lower, body, arrays, constants=[1])
    operands = [dense(v.tensor, a) for v, a in zip(body.inputs, arrays, strict=True)]
    operands[0] = replace(operands[0], constant=None)
    results = tuple(dense(v.tensor) for v in body.outputs)
    return contraction.lower(Task(body, tuple(operands), results, HOST, 1))


@needs_byte_dot
@settings(max_examples=12)
@given(m=st.integers(1, 40), quads=st.integers(1, 30), n=st.integers(2, 70))
def test_matrix_products_of_any_size(m, quads, n):
    rng = np.random.default_rng(m + quads + n)
    kernel = checked(product, integers(rng, u8, m, 4 * quads), integers(rng, i8, 4 * quads, n))
    assert "four bytes at once" in kernel.algorithm


@needs_byte_dot
@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 3)])
def test_convolutions_of_bytes(rng, stride, dilation, groups):
    x, w = integers(rng, u8, 1, 9, 8, 12), integers(rng, i8, 3, 3, 12 // groups, 18)
    kernel = checked(convolution(stride, dilation, groups), x, w)
    assert "four bytes at once" in kernel.algorithm


@needs_byte_dot
def test_every_plan_and_the_exact_mode_give_the_same_sums(rng):
    x, w = integers(rng, u8, 30, 1200), integers(rng, i8, 1200, 40)
    body = body_of(product, TensorType(u8, x.shape), TensorType(i8, w.shape))
    operands = dense(body.inputs[0].tensor), dense(body.inputs[1].tensor, w)
    task = Task(body, operands, (dense(body.outputs[0].tensor),), HOST, 1)
    for plan in contraction.plans(task):
        check(partial(contraction.lower, plan=plan), body, [x, w], constants=[1], isas=[HOST])
    check(contraction.lower_exact, body, [x, w], constants=[1], isas=[HOST])


@needs_byte_dot
def test_the_epilogue_requantises(rng):
    def build(x, w, factor):
        real = op.multiply(op.convert(product(x, w), dtype=f32), factor)
        zero = scalar(3, op.constant(value=np.zeros((), np.uint8)))
        return op.uniform_quantize(real, scalar(1, real), zero, dtype=u8)

    factor = rng.uniform(1e-4, 1e-3, (1, 33)).astype(np.float32)
    checked(build, integers(rng, u8, 9, 64), integers(rng, i8, 64, 33), factor)


@pytest.mark.parametrize("left, right, depth", [(i8, i8, 32), (u8, u8, 32), (u8, i8, 30)])
def test_other_types_and_depths_are_multiplied_one_by_one(rng, left, right, depth):
    x, w = integers(rng, left, 5, depth), integers(rng, right, depth, 17)
    assert "four bytes" not in checked(product, x, w).algorithm


def test_machines_without_the_instruction_multiply_one_by_one(rng):
    body = body_of(product, TensorType(u8, (5, 32)), TensorType(i8, (32, 17)))
    operands = dense(body.inputs[0].tensor), dense(body.inputs[1].tensor, integers(rng, i8, 32, 17))
    results = (dense(body.outputs[0].tensor),)
    kernel = contraction.lower(Task(body, operands, results, ISAS["avx2"], 1))
    assert "four bytes" not in kernel.algorithm
