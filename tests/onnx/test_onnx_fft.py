"""Fast Fourier transforms against NumPy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.ir.graph import Graph, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.types import TensorType, f32, f64
from tilth.onnx.fft import factors, fft


def transform(x: np.ndarray, inverse: bool) -> np.ndarray:
    """By the ops that `fft` makes, with the real type of x."""
    dtype = f64 if x.dtype == np.complex128 else f32
    parts = [make_input(TensorType(dtype, x.shape), name) for name in ("real", "imaginary")]
    graph = Graph(tuple(parts), fft((parts[0], parts[1]), inverse))
    real, imaginary = interpret(graph, [x.real.copy(), x.imag.copy()])
    return real + 1j * imaginary


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 260), inverse=st.booleans())
def test_any_length_both_ways(length: int, inverse: bool):
    x = np.random.default_rng(length).normal(size=(2, length, 2)) @ [1, 1j]
    want = np.fft.ifft(x) * length if inverse else np.fft.fft(x)
    np.testing.assert_allclose(transform(x, inverse), want, rtol=1e-9, atol=1e-9)


@given(length=st.integers(1, 100_000))
def test_the_radices_multiply_to_the_length(length: int):
    assert np.prod(factors(length)) == length


def test_single_precision_stays_accurate_on_long_signals():
    x = (np.random.default_rng(0).normal(size=(1, 1 << 14, 2)) @ [1, 1j]).astype(np.complex64)
    want = np.fft.fft(x.astype(np.complex128))
    error = np.abs(transform(x, False) - want).max() / np.abs(want).max()
    assert error < 1e-6
