"""LSTM and GRU recurrences against their decomposition into a scan."""

import numpy as np
import pytest
from kernel_check import check

from tilth.cpu.kernels import recurrent
from tilth.ir.graph import Graph, make_input
from tilth.ir.ops import op
from tilth.ir.types import TensorType, bf16, f32, f64


def lstm(steps, batch, hidden, dtype=f32, **attrs):
    shapes = (steps, batch, 4 * hidden), (4 * hidden, hidden), (batch, hidden), (batch, hidden)
    inputs = tuple(make_input(TensorType(dtype, s), f"x{i}") for i, s in enumerate(shapes))
    return Graph(inputs, op.lstm_recurrence(*inputs, **attrs))


def gru(steps, batch, hidden, dtype=f32, **attrs):
    shapes = (steps, batch, 3 * hidden), (3 * hidden, hidden), (3 * hidden,), (batch, hidden)
    inputs = tuple(make_input(TensorType(dtype, s), f"x{i}") for i, s in enumerate(shapes))
    return Graph(inputs, op.gru_recurrence(*inputs, **attrs))


def arrays_of(body, rng):
    for value in body.inputs:
        scale = 1 / np.sqrt(value.shape[-1]) if len(value.shape) == 2 else 1
        yield (rng.standard_normal(value.shape) * scale).astype(value.tensor.dtype.numpy)


def run(build, lower, rng, *sizes, dtype=f32, layout=(), out="dense", constants=(1,), **attrs):
    body = build(*sizes, dtype=dtype, **attrs)
    arrays = list(arrays_of(body, rng))
    check(lower, body, arrays, layout, out, constants=constants)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("hidden", [5, 16, 70])
def test_lstm(hidden, batch, reverse, rng):
    run(lstm, recurrent.lower_lstm, rng, 4, batch, hidden, reverse=reverse)


@pytest.mark.parametrize("batch", [8, 13, 37])
def test_batches_of_several_tiles_of_rows(batch, rng):
    run(lstm, recurrent.lower_lstm, rng, 3, batch, 24)
    run(gru, recurrent.lower_gru, rng, 3, batch, 24)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 20), (4, 3, 16), (3, 2, 70)])
def test_gru(sizes, reverse, linear, rng):
    run(gru, recurrent.lower_gru, rng, *sizes, reverse=reverse, linear_before_reset=linear)


@pytest.mark.parametrize(
    "layout, out", [("pitched", "fortran"), ("fortran", "dense"), ("strided", "pitched")]
)
def test_strides(layout, out, rng):
    run(lstm, recurrent.lower_lstm, rng, 3, 2, 20, layout=[layout] * 4, out=out)
    run(gru, recurrent.lower_gru, rng, 3, 2, 20, layout=[layout] * 4, out=out)


def test_weights_that_are_not_constant(rng):
    run(lstm, recurrent.lower_lstm, rng, 3, 2, 20, constants=())
    run(gru, recurrent.lower_gru, rng, 3, 2, 20, constants=())


@pytest.mark.parametrize("dtype", [f64, bf16], ids=str)
def test_other_floats(dtype, rng):
    run(lstm, recurrent.lower_lstm, rng, 3, 2, 20, dtype=dtype)
    run(gru, recurrent.lower_gru, rng, 3, 2, 20, dtype=dtype)
