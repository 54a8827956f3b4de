"""Meaning of the composites: their decompositions against the textbook, in float64."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.types import f32, f64, i32


def logistic(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def elu(x, alpha=1.0):
    return np.where(x >= 0, x, alpha * np.expm1(x))


ACTIVATIONS = {
    "relu": ({}, lambda x: np.maximum(x, 0)),
    "leaky_relu": ({"alpha": 0.1}, lambda x: np.where(x >= 0, x, 0.1 * x)),
    "elu": ({"alpha": 2.0}, lambda x: elu(x, 2.0)),
    "selu": ({"alpha": 1.5, "gamma": 1.1}, lambda x: 1.1 * elu(x, 1.5)),
    "softplus": ({}, softplus),
    "softsign": ({}, lambda x: x / (1 + abs(x))),
    "silu": ({}, lambda x: x * logistic(x)),
    "hard_sigmoid": ({"alpha": 0.3, "beta": 0.4}, lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "hard_swish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "mish": ({}, lambda x: x * np.tanh(softplus(x))),
    "gelu": ({}, lambda x: x * np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2)(x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_match_their_formula(name):
    attrs, formula = ACTIVATIONS[name]
    x = np.linspace(-8, 8, 101)
    result = run(lambda x: getattr(op, name)(x, **attrs), x)
    np.testing.assert_allclose(result, formula(x), rtol=1e-12, atol=1e-15)


def test_gelu_by_tanh_is_close_to_the_exact_one():
    x = np.linspace(-4, 4, 101)
    exact, by_tanh = run(op.gelu, x), run(lambda x: op.gelu(x, approximate="tanh"), x)
    assert 1e-5 < abs(exact - by_tanh).max() < 1e-3


def test_softplus_and_mish_survive_large_inputs():
    x = np.array([-1000, 1000], np.float32)
    np.testing.assert_array_equal(run(op.softplus, x), [0, 1000])
    np.testing.assert_array_equal(run(op.mish, x), [0, 1000])


@pytest.mark.parametrize("name", ["gelu", "mish", "silu"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_composites_of_small_floats_round_once(name, dtype, rng):
    x = rng.standard_normal(200).astype(dtype)
    wide = run(getattr(op, name), x.astype(np.float32))
    np.testing.assert_array_equal(run(getattr(op, name), x), wide.astype(dtype), strict=True)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
@settings(max_examples=30)
def test_softmax_and_its_logarithm(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = np.random.default_rng(0).normal(0, 300, shape)
    shifted = x - x.max(axis, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    np.testing.assert_allclose(run(lambda x: op.log_softmax(x, axis=axis), x), log, rtol=1e-12)
    np.testing.assert_allclose(run(lambda x: op.softmax(x, axis=axis), x), np.exp(log), rtol=1e-9)


@pytest.fixture
def x(rng):
    """[N, C, S, T], with means far from zero."""
    return rng.normal(5, 2, (2, 6, 4, 3))


def normalized(x, axes, epsilon=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def test_layer_norm_over_trailing_axes(x, rng):
    scale, bias = rng.standard_normal((4, 3)), rng.standard_normal(3)
    result = run(lambda x, s, b: op.layer_norm(x, s, b, axis=2, epsilon=1e-3), x, scale, bias)
    np.testing.assert_allclose(result, normalized(x, (2, 3), 1e-3) * scale + bias)


def test_rms_norm_divides_by_the_root_mean_square(x, rng):
    scale = rng.standard_normal(3)
    expected = x / np.sqrt((x * x).mean(3, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(run(lambda x, s: op.rms_norm(x, s, axis=3), x, scale), expected)


@pytest.mark.parametrize("axis", [1, 3])
def test_batch_norm_uses_given_statistics_per_channel(x, rng, axis):
    scale, bias, mean, variance = rng.uniform(0.5, 2, (4, x.shape[axis]))
    result = run(
        lambda *xs: op.batch_norm(*xs, axis=axis, epsilon=1e-2), x, scale, bias, mean, variance
    )
    last = np.moveaxis(x, axis, -1)
    expected = (last - mean) / np.sqrt(variance + 1e-2) * scale + bias
    np.testing.assert_allclose(result, np.moveaxis(expected, -1, axis))


def test_instance_norm_normalises_each_channel(x, rng):
    scale, bias = rng.standard_normal((2, 6))
    expected = normalized(x, (2, 3)) * scale.reshape(6, 1, 1) + bias.reshape(6, 1, 1)
    np.testing.assert_allclose(run(op.instance_norm, x, scale, bias), expected)


def test_group_norm_normalises_groups_of_channels(x, rng):
    scale, bias = rng.standard_normal((2, 6))
    unit = normalized(x.reshape(2, 3, 2, 4, 3), (2, 3, 4)).reshape(x.shape)
    expected = unit * scale.reshape(6, 1, 1) + bias.reshape(6, 1, 1)
    result = run(lambda x, s, b: op.group_norm(x, s, b, groups=3), x, scale, bias)
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_lrn_divides_by_neighbouring_channels(x, size):
    attrs = {"alpha": 0.5, "beta": 0.6, "bias": 2.0}
    expected = np.empty_like(x)
    for c in range(6):
        near = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
        power = (near**2).sum(1)
        expected[:, c] = x[:, c] / (2 + 0.5 / size * power) ** 0.6
    np.testing.assert_allclose(run(lambda x: op.lrn(x, size=size, **attrs), x), expected)


@pytest.mark.parametrize("include", [False, True])
def test_average_pool_counts_padding_only_when_asked(include):
    x = np.ones((1, 1, 4, 5))
    result = run(
        lambda x: op.average_pool(
            x,
            window=(1, 1, 3, 3),
            strides=(1, 1, 2, 2),
            padding=((0, 0), (0, 0), (1, 1), (0, 0)),
            count_include_pad=include,
        ),
        x,
    )
    np.testing.assert_allclose(result[0, 0], [[2 / 3] * 2, [1] * 2] if include else [[1] * 2] * 2)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_weighs_values_by_softmax_of_scores(batch, causal, rng):
    q, k, v = (rng.standard_normal((*batch, n, m)) for n, m in ((4, 8), (6, 8), (6, 5)))
    mask = rng.standard_normal((4, 6))
    scores = 0.3 * q @ np.swapaxes(k, -1, -2) + mask
    if causal:
        scores = np.where(np.tri(4, 6, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    result = run(lambda *xs: op.attention(*xs, scale=0.3, causal=causal), q, k, v, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_broken_rules_are_refused():
    x, v = tensor(f32, 2, 6, 4), tensor(f32, 6)
    q = tensor(f32, 2, 4, 8)
    for message, build in {
        "is not float": lambda: op.gelu(tensor(i32, 2)),
        "is not one of none, tanh": lambda: op.gelu(x, approximate="fast"),
        "not an int in": lambda: op.softmax(x, axis=-1),
        "do not broadcast": lambda: op.layer_norm(x, v, v, axis=2),
        "differ in dtype": lambda: op.rms_norm(x, tensor(f64, 4), axis=2),
        "not a vector over the 4 channels": lambda: op.batch_norm(x, v, v, v, v, axis=2),
        "do not divide": lambda: op.group_norm(x, v, v, groups=4),
        "positive int": lambda: op.lrn(x, size=0),
        "batch axes": lambda: op.attention(q, tensor(f32, 3, 5, 8), tensor(f32, 3, 5, 8)),
        "do not contract": lambda: op.attention(q, tensor(f32, 2, 5, 7), tensor(f32, 2, 5, 7)),
        "one rank": lambda: op.attention(q, v, v),
    }.items():
        with pytest.raises(VerifyError, match=message):
            build()
