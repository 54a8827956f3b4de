"""Random bits are those of the reference, whatever the layout, the split and the width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts

from tilth.cpu.kernels import random
from tilth.ir.ops import op
from tilth.ir.types import TensorType, u64

KEY = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)


def check_bits(shape, bits, key="dense", result="dense"):
    body = body_of(lambda k: op.rng_bits(k, shape=shape, bits=bits), TensorType(u64, (2,)))
    check(random.lower, body, [KEY], [key], result)


@settings(max_examples=15)
@given(
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    bits=st.sampled_from([8, 16, 32, 64]),
    key=layouts,
    result=layouts,
)
def test_any_shape_and_layout(shape, bits, key, result):
    check_bits(shape, bits, key, result)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("size", [1, 5, 10_003])
def test_long_vectors(size, bits):
    check_bits((size,), bits)
    check_bits((size,), bits, result="strided")
