"""Elementwise fusions and copies: any shape, any strides, any broadcasting, any split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts, random_array, strided_like

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import elementwise
from tilth.ir.ops import op
from tilth.ir.types import DTYPES, TensorType, bool_, f32, u8

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 33]), min_size=0, max_size=4).map(tuple)


@settings(max_examples=40)
@given(shape=shapes, layout=layouts, other=layouts, out=layouts, data=st.data())
def test_broadcasting_operands_of_any_layout(shape, layout, other, out, data):
    narrow = tuple(data.draw(st.sampled_from([1, d]), label="dim") for d in shape)
    drop = data.draw(st.integers(0, len(shape)), label="dropped leading dims")
    rng = np.random.default_rng(0)
    x, y = random_array(rng, f32, shape), random_array(rng, f32, narrow[drop:])
    body = body_of(lambda x, y: op.add(op.multiply(x, y), x), x.shape, y.shape)
    check(elementwise.lower, body, [x, y], [layout, other], out)


@settings(max_examples=30)
@given(
    shape=shapes,
    layout=layouts,
    out=layouts,
    dtype=st.sampled_from(["f32", "u8", "f64", "i4", "c64"]),
)
def test_copies_of_any_layout(shape, layout, out, dtype):
    dtype = DTYPES[dtype]
    x = np.random.default_rng(0).integers(0, 8, shape).astype(dtype.numpy)
    body = body_of(lambda x: x, TensorType(dtype, shape))
    source, _ = strided_like(x, layout)
    result, _ = strided_like(np.zeros_like(x), out)
    kernel = elementwise.lower(Task(body, (operand(source),), (operand(result),), host_isa(), 2))
    CompiledKernel(kernel)([source], [result], [kernel.items // 2])
    np.testing.assert_array_equal(result, x)


@pytest.mark.parametrize("shape", [(1, 3, 40, 50), (2, 64, 9, 11), (1, 17, 16, 16), (5, 35)])
def test_transposes(shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    moved = np.moveaxis(x, 1, -1)
    body = body_of(lambda x: x, moved.shape)
    result = np.empty(moved.shape, np.float32)
    kernel = elementwise.lower(Task(body, (operand(moved),), (operand(result),), host_isa(), 2))
    CompiledKernel(kernel)([moved], [result], [kernel.items // 3])
    np.testing.assert_array_equal(result, moved)


def test_a_transposed_operand_beside_others(rng):
    x, y = rng.standard_normal((50, 37)), rng.standard_normal((37, 50))
    x, y = x.astype(np.float32), y.astype(np.float32)
    body = body_of(lambda x, y: op.subtract(x, y), (50, 37), (50, 37))
    result = np.empty((50, 37), np.float32)
    operands = operand(x), operand(y.T)
    kernel = elementwise.lower(Task(body, operands, (operand(result),), host_isa(), 2))
    CompiledKernel(kernel)([x, y.T], [result])
    np.testing.assert_array_equal(result, x - y.T)


def test_two_results(rng):
    x = random_array(rng, f32, (7, 45))
    check(elementwise.lower, body_of(lambda x: (op.negate(x), op.exponential(x)), x.shape), [x])


@pytest.mark.parametrize("dtype", [bool_, u8], ids=str)
def test_narrow_results(dtype, rng):
    x = random_array(rng, f32, (1, 1000))
    body = body_of(lambda x: op.convert(op.compare(x, x, direction="GE"), dtype=dtype), x.shape)
    check(elementwise.lower, body, [x])


def test_in_place(rng):
    x = random_array(rng, f32, (9, 1003))
    body = body_of(lambda x: op.add(op.exponential(x), x), x.shape)
    view = operand(x)
    wanted = np.exp(x) + x
    kernel = elementwise.lower(Task(body, (view,), (view,), host_isa(), 2))
    CompiledKernel(kernel)([x], [x], [1, 2])
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-5)


def test_a_long_vector_splits_over_threads():
    x = operand(np.zeros(100_000, np.float32))
    kernel = elementwise.lower(
        Task(body_of(lambda x: op.negate(x), x.shape), (x,), (x,), host_isa(), 8)
    )
    assert kernel.items >= 16


def test_an_empty_tensor_has_no_work():
    x = operand(np.zeros((3, 0), np.float32))
    kernel = elementwise.lower(
        Task(body_of(lambda x: op.negate(x), x.shape), (x,), (x,), host_isa(), 2)
    )
    assert kernel.items == 0
