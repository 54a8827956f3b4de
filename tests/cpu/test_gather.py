"""Gathers, scatters, pads, dynamic slices: any dimension numbers, never out of bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts, random_array

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import gather, movement
from tilth.ir.graph import make_constant
from tilth.ir.ops import op
from tilth.ir.ops.helpers import take
from tilth.ir.types import TensorType, bf16, bool_, f8e5m2, f32, f64, i8, i32, i64, u8, u64


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_take(axis, shape, rng):
    types = TensorType(f32, (9, 20, 33)), TensorType(i64, shape)
    body = body_of(lambda x, i: take(x, i, axis), *types)
    arrays = [random_array(rng, f32, types[0].dims), rng.integers(0, 9, shape)]
    check(gather.lower_gather, body, arrays)


@settings(max_examples=15)
@given(layout=layouts, out=layouts, index=layouts)
def test_take_of_any_layout(layout, out, index):
    rng = np.random.default_rng(0)
    types = TensorType(f32, (9, 2, 33)), TensorType(i32, (4, 5))
    body = body_of(lambda x, i: take(x, i, 0), *types)
    arrays = [random_array(rng, f32, types[0].dims), rng.integers(0, 9, (4, 5)).astype(np.int32)]
    check(gather.lower_gather, body, arrays, [layout, index], out)


@pytest.mark.parametrize("dtype", [i32, i64, u64, i8], ids=str)
def test_indices_outside_are_clamped(dtype, rng):
    types = TensorType(f32, (5, 16)), TensorType(dtype, (4,))
    limits = np.iinfo(dtype.numpy)
    indices = np.array([limits.min, 3, 100, limits.max], dtype.numpy)
    body = body_of(lambda x, i: take(x, i, 0), *types)
    check(gather.lower_gather, body, [random_array(rng, f32, (5, 16)), indices])


def test_gather_of_windows_at_index_vectors(rng):
    types = TensorType(f32, (8, 9, 10)), TensorType(i64, (3, 2, 4))
    body = body_of(
        lambda x, i: op.gather(
            *(x, i),
            offset_dims=(1, 3),
            collapsed_slice_dims=(1,),
            start_index_map=(2, 0),
            index_vector_dim=1,
            slice_sizes=(3, 1, 5),
        ),
        *types,
    )
    check(
        gather.lower_gather,
        body,
        [random_array(rng, f32, (8, 9, 10)), rng.integers(-2, 12, (3, 2, 4))],
    )


def test_gather_with_batching_axes(rng):
    types = TensorType(f32, (6, 4, 20)), TensorType(i64, (4, 3, 1))
    body = body_of(
        lambda x, i: op.gather(
            *(x, i),
            offset_dims=(2,),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
            index_vector_dim=2,
            slice_sizes=(1, 1, 20),
            operand_batching_dims=(1,),
            start_indices_batching_dims=(0,),
        ),
        *types,
    )
    check(
        gather.lower_gather,
        body,
        [random_array(rng, f32, (6, 4, 20)), rng.integers(0, 6, (4, 3, 1))],
    )


@pytest.mark.parametrize("dtype", [f64, bf16, u8, bool_, f8e5m2], ids=str)
def test_elements_of_any_dtype_are_moved(dtype, rng):
    types = TensorType(dtype, (5, 37)), TensorType(i64, (6,))
    body = body_of(lambda x, i: take(x, i, 0), *types)
    check(gather.lower_gather, body, [random_array(rng, dtype, (5, 37)), rng.integers(0, 5, (6,))])


@pytest.mark.parametrize("kind", ["assign", "add", "multiply", "max", "min"])
def test_scatter_rows(kind, rng):
    types = TensorType(f32, (6, 11)), TensorType(i64, (9, 1)), TensorType(f32, (9, 11))
    body = body_of(
        lambda x, i, u: op.scatter(
            *(x, i, u),
            update_window_dims=(1,),
            inserted_window_dims=(0,),
            scatter_dims_to_operand_dims=(0,),
            index_vector_dim=1,
            kind=kind,
        ),
        *types,
    )
    x, u = random_array(rng, f32, (6, 11)), random_array(rng, f32, (9, 11))
    check(gather.lower_scatter, body, [x, rng.integers(-2, 8, (9, 1)), u], result_layout="pitched")


def test_scatter_leaves_out_what_falls_outside(rng):
    types = TensorType(f32, (6, 11)), TensorType(i64, (4, 2)), TensorType(f32, (3, 4, 5))
    body = body_of(
        lambda x, i, u: op.scatter(
            *(x, i, u),
            update_window_dims=(0, 2),
            inserted_window_dims=(),
            scatter_dims_to_operand_dims=(1, 0),
            index_vector_dim=1,
        ),
        *types,
    )
    x, u = random_array(rng, f32, (6, 11)), random_array(rng, f32, (3, 4, 5))
    check(gather.lower_scatter, body, [x, rng.integers(-3, 11, (4, 2)), u])


@settings(max_examples=20)
@given(layout=layouts, out=layouts, data=st.data())
def test_any_pad(layout, out, data):
    each = st.tuples(*[st.integers(-2, 3)] * 3)
    low, high = data.draw(each, label="low"), data.draw(each, label="high")
    interior = data.draw(st.tuples(*[st.integers(0, 2)] * 3), label="interior")
    types = TensorType(f32, (4, 5, 17)), TensorType(f32, ())
    attrs = {"low": low, "high": high, "interior": interior}
    body = body_of(lambda x, v: op.pad(x, v, **attrs), *types)
    rng = np.random.default_rng(0)
    arrays = [random_array(rng, f32, (4, 5, 17)), np.array(2.5, np.float32)]
    check(movement.lower_pad, body, arrays, [layout, "dense"], out)


@pytest.mark.parametrize("dtype", [f32, bf16, bool_], ids=str)
def test_pad_halo_fills_only_the_border(dtype, rng):
    low, high = (0, 1, 2, 0), (0, 3, 0, 0)
    fill = make_constant(np.ones((), dtype.numpy))
    x = random_array(rng, dtype, (2, 5, 6, 7))
    body = body_of(
        lambda x: op.pad(x, fill, low=low, high=high, interior=(0,) * 4),
        TensorType(dtype, x.shape),
    )

    result = np.full((2, 9, 8, 7), 7, np.uint8).astype(dtype.numpy)
    result[:, 1:6, 2:8] = x
    kernel = movement.lower_pad_halo(Task(body, (), (operand(result),), host_isa(), 2))
    CompiledKernel(kernel)([], [result], [kernel.items // 2])
    expected = np.pad(x, [*zip(low, high, strict=True)], constant_values=dtype.numpy.type(1))
    np.testing.assert_array_equal(result.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("start", [(0, 0), (2, 5), (-4, 100)])
def test_dynamic_slices(start, rng):
    x, update = random_array(rng, f32, (9, 30)), random_array(rng, f32, (3, 17))
    starts = [np.array(s, np.int64) for s in start]
    types = [TensorType(f32, (9, 30)), *[TensorType(i64, ())] * 2]
    body = body_of(lambda x, a, b: op.dynamic_slice(x, a, b, sizes=(3, 17)), *types)
    check(movement.lower_dynamic_slice, body, [x, *starts], result_layout="pitched")
    types.insert(1, TensorType(f32, (3, 17)))
    body = body_of(lambda x, u, a, b: op.dynamic_update_slice(x, u, a, b), *types)
    check(movement.lower_dynamic_update_slice, body, [x, update, *starts])
