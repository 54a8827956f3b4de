"""LSTM and GRU recurrences against plain loops over steps (the formulas of the ONNX operators)."""

import numpy as np
import pytest
from ir_samples import run_all, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.types import f32

STEPS, BATCH, HIDDEN = 5, 2, 3


def logistic(x):
    return 1 / (1 + np.exp(-x))


def steps(xp, reverse):
    return reversed(list(enumerate(xp))) if reverse else enumerate(xp)


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_matches_a_plain_loop(rng, reverse):
    xp = rng.standard_normal((STEPS, BATCH, 4 * HIDDEN))
    r = rng.standard_normal((4 * HIDDEN, HIDDEN))
    h0, c0 = rng.standard_normal((2, BATCH, HIDDEN))
    y, h, c = np.empty((STEPS, BATCH, HIDDEN)), h0, c0
    for t, xt in steps(xp, reverse):
        i, o, f, new = np.split(xt + h @ r.T, 4, axis=1)
        c = logistic(f) * c + logistic(i) * np.tanh(new)
        h = y[t] = logistic(o) * np.tanh(c)
    results = run_all(lambda *xs: op.lstm_recurrence(*xs, reverse=reverse), xp, r, h0, c0)
    for result, expected in zip(results, (y, h, c), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("linear_before_reset", [False, True])
def test_gru_matches_a_plain_loop(rng, reverse, linear_before_reset):
    xp = rng.standard_normal((STEPS, BATCH, 3 * HIDDEN))
    r, rb = rng.standard_normal((3 * HIDDEN, HIDDEN)), rng.standard_normal(3 * HIDDEN)
    h0 = rng.standard_normal((BATCH, HIDDEN))
    (rz, rr, rh), (bz, br, bh) = np.split(r, 3), np.split(rb, 3)
    y, h = np.empty((STEPS, BATCH, HIDDEN)), h0
    for t, xt in steps(xp, reverse):
        xz, xr, xh = np.split(xt, 3, axis=1)
        z, reset = logistic(xz + h @ rz.T + bz), logistic(xr + h @ rr.T + br)
        linear = reset * (h @ rh.T + bh) if linear_before_reset else (reset * h) @ rh.T + bh
        h = y[t] = (1 - z) * np.tanh(xh + linear) + z * h
    attrs = {"reverse": reverse, "linear_before_reset": linear_before_reset}
    results = run_all(lambda *xs: op.gru_recurrence(*xs, **attrs), xp, r, rb, h0)
    for result, expected in zip(results, (y, h), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_broken_rules_are_refused():
    xp, r, h = tensor(f32, 5, 2, 12), tensor(f32, 12, 3), tensor(f32, 2, 3)
    with pytest.raises(VerifyError, match="4 gates of 2"):
        op.lstm_recurrence(xp, tensor(f32, 8, 2), h, h)
    with pytest.raises(VerifyError, match="the state"):
        op.lstm_recurrence(xp, r, tensor(f32, 1, 3), h)
    with pytest.raises(VerifyError, match="ranks 3 and 2"):
        op.lstm_recurrence(r, r, h, h)
    with pytest.raises(VerifyError, match="recurrent bias"):
        op.gru_recurrence(tensor(f32, 5, 2, 9), tensor(f32, 9, 3), tensor(f32, 3), h)
