"""Tiles turned in registers: square, interleaved and separated, with edges, in chains of ops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import BOTH_ISAS, body_of, check, layouts, random_array

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import elementwise
from tilth.ir.ops import op
from tilth.ir.types import DTYPES, TensorType, f32, u8

COPY = body_of(lambda x: x, ())


def copied(source, out=None):
    """A copy of an array by a kernel on all ISAs, and what the last kernel says of itself."""
    for isa in BOTH_ISAS:
        result = np.empty(source.shape, source.dtype) if out is None else out
        kernel = elementwise.lower(Task(COPY, (operand(source),), (operand(result),), isa, 2))
        CompiledKernel(kernel, isa)([source], [result], [kernel.items // 3, kernel.items // 2])
        np.testing.assert_array_equal(result, source)
    return kernel.algorithm


@settings(max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    dtype=st.sampled_from(["f32", "f64", "f16", "i32", "u8", "bool"]),
    planes=st.integers(1, 2),
)
def test_any_matrix(height, width, dtype, planes):
    rng = np.random.default_rng(0)
    x = random_array(rng, DTYPES[dtype], (planes, width, height))
    copied(x.swapaxes(1, 2))


@pytest.mark.parametrize("channels", [2, 3, 4, 7, 16, 21, 64])
def test_images_change_their_layout_in_registers(channels, rng):
    x = rng.standard_normal((1, channels, 9, 31)).astype(np.float32)
    assert copied(np.moveaxis(x, 1, -1)) == "turned tiles"
    assert copied(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)) == "turned tiles"


def test_rows_of_the_result_may_have_a_pitch(rng):
    room = np.zeros((40, 50), np.float32)
    x = rng.standard_normal((33, 37)).astype(np.float32)
    assert copied(x.T, room[1:38, 2:35]) == "turned tiles"
    room[1:38, 2:35] = 0
    assert not room.any()


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.sampled_from([1, 3, 17, 40])] * 3),
    layout=st.tuples(layouts, layouts, layouts),
    narrow=st.tuples(*[st.booleans()] * 3),
)
def test_operands_of_other_layouts_beside_a_turned_one(shape, layout, narrow):
    rng = np.random.default_rng(0)
    low = tuple(1 if one else d for one, d in zip(narrow, shape, strict=True))
    body = body_of(lambda x, y, z: op.add(op.multiply(x, y), z), shape, shape, low)
    arrays = [random_array(rng, f32, s) for s in (shape, shape, low)]
    check(elementwise.lower, body, arrays, layout)


def test_a_turned_operand_is_converted_on_the_way(rng):
    x = random_array(rng, u8, (1, 3, 20, 20))
    body = body_of(
        lambda x: op.multiply(op.convert(x, dtype=f32), op.convert(x, dtype=f32)),
        TensorType(u8, (1, 20, 20, 3)),
    )
    check(elementwise.lower, body, [np.moveaxis(x, 1, -1)], ["channels_first"])


@pytest.mark.parametrize("columns", [35, 3])
def test_a_long_body_is_a_loop_over_the_vectors_of_a_tile(columns, rng):
    x, y = (random_array(rng, f32, (19, columns)) for _ in range(2))
    body = body_of(lambda x, y: op.gelu(op.add(x, y)), x.shape, y.shape)
    assert len(body.nodes) > 4
    check(elementwise.lower, body, [x, y], ["fortran", "dense"])
