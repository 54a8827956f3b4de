"""Attention of com.microsoft and what belongs to it, by plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from microsoft_formulas import (
    HEADS,
    SHARED,
    SIZE,
    attended,
    close,
    f32,
    heads_of,
    i32,
    i64,
    joined,
    silu,
    softmax,
)
from microsoft_models import run_node


@pytest.fixture
def f(rng):
    return lambda *shape: rng.standard_normal(shape).astype(f32)


def test_attention_projects_splits_and_joins_heads(f):
    x, weights = f(2, 5, 16), f(16, 40)
    (y,) = run_node("Attention", [x, weights], num_heads=4, qkv_hidden_sizes=[16, 16, 8])
    q, k, v = np.split(x @ weights, [16, 32], -1)
    close(y, attended(*(heads_of(p, 4) for p in (q, k, v))))


def test_attention_goes_on_from_a_past(f):
    x, weights, bias, past = f(2, 2, 16), f(16, 48), f(48), f(2, 2, 4, 3, 4)
    y, present = run_node(
        "Attention", [x, weights, bias, None, past], f32, f32, num_heads=4, unidirectional=1
    )
    q, k, v = (heads_of(p, 4) for p in np.split(x @ weights + bias, 3, -1))
    k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
    close(present, np.stack([k, v]))
    future = np.arange(5) > np.arange(2)[:, None] + 3
    close(y, attended(q, k, v, np.where(future, -np.inf, 0)))


@pytest.mark.parametrize(
    "mask, visible",
    [
        ([2, 3], [[1, 1, 0], [1, 1, 1]]),
        ([2, 3, 1, 0], [[0, 1, 0], [1, 1, 1]]),
        ([[0, 1, 1], [1, 0, 1]], [[0, 1, 1], [1, 0, 1]]),
        ([[[1, 0, 1]] * 3] * 2, [[1, 0, 1]] * 2),
        ([[[[1, 0, 1, 0, 0]] * 5]] * 2, [[1, 0, 1]] * 2),
    ],
    ids=["ends", "ends and starts", "per key", "per query and key", "for the longest sequence"],
)
def test_forms_of_the_mask(f, mask, visible):
    q, k, v = f(2, 3, 8), f(2, 3, 8), f(2, 3, 8)
    operands = [q, k, v, None, np.array(mask, i32)]
    (y,) = run_node("MultiHeadAttention", operands, num_heads=2, mask_filter_value=-5.0)
    added = np.where(np.array(visible)[:, None, None] > 0, 0, -5)
    close(y, attended(*(heads_of(p, 2) for p in (q, k, v)), added))


@pytest.mark.parametrize("biased", [False, True])
def test_packed_queries_keys_and_values(f, biased):
    packed, bias = f(2, 5, 4, 3, 4), f(48) if biased else None
    parts = [packed[:, :, :, i].transpose(0, 2, 1, 3) for i in range(3)]
    if biased:
        parts = [p + b.reshape(4, 1, 4) for p, b in zip(parts, np.split(bias, 3), strict=True)]
    (y,) = run_node("MultiHeadAttention", [packed, None, None, bias], num_heads=4)
    close(y, attended(*parts))


def test_packed_keys_and_values(f):
    q, packed = f(2, 5, 16), f(2, 7, 4, 2, 4)
    (y,) = run_node("MultiHeadAttention", [q, packed], num_heads=4)
    close(y, attended(heads_of(q, 4), *(packed[:, :, :, i].transpose(0, 2, 1, 3) for i in (0, 1))))


def test_multi_head_attention_gives_its_masked_scores(f):
    q, k, v = f(1, 3, 8), f(1, 3, 8), f(1, 3, 8)
    types = (f32, None, None, f32)
    y, scores = run_node("MultiHeadAttention", [q, k, v], *types, num_heads=2)
    q, k, v = (heads_of(p, 2) for p in (q, k, v))
    close(scores, q @ k.transpose(0, 1, 3, 2) / 2)
    close(y, attended(q, k, v))


def rotated(x, positions, cosines, sines):
    """[B, N, S, H] with halves turned against each other."""
    c, s = cosines[positions][:, None], sines[positions][:, None]
    left, right = np.split(x, 2, -1)
    return np.concatenate([left * c - right * s, right * c + left * s], -1)


def test_rotary_embedding_turns_halves(f):
    x, cosines, sines = f(2, 3, 24), f(10, 4), f(10, 4)
    places = np.array([[0, 1, 2], [3, 4, 9]], i64)
    (y,) = run_node("RotaryEmbedding", [x, places, cosines, sines])
    close(y, joined(rotated(heads_of(x, 3), places, cosines, sines)))


def test_interleaved_rotary_embedding_turns_neighbours_and_leaves_the_rest(f):
    x, cosines, sines = f(1, 2, 3, 10), f(10, 4), f(10, 4)
    first, attrs = np.array([5], i64), {"num_heads": 2, "rotary_embedding_dim": 8}
    (y,) = run_node("RotaryEmbedding", [x, first, cosines, sines], interleaved=1, **attrs)
    turned = np.array([*range(0, 8, 2), *range(1, 8, 2)])
    want = x.copy()
    want[..., turned] = rotated(x[..., turned], np.array([[5, 6, 7]]), cosines, sines)
    close(y, want)


@pytest.mark.parametrize("layout, stream", [(0, [0, 1, 1, 2, 2, 2]), (1, [0, 1, 2, 0, 1, 2])])
def test_multimodal_rotary_embedding_takes_columns_by_three_positions(f, layout, stream):
    x, cosines, sines = f(1, 2, 4, 12), f(10, 6), f(10, 6)
    places = np.array([[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9, 0, 1]]], i64)
    section = [1, 2, 3] if layout == 0 else [2, 2, 2]
    attrs = {"mrope_section": section, "mrope_layout": layout}
    (y,) = run_node("MRotaryEmbedding", [x, places, cosines, sines], **attrs)
    rows = [
        np.stack([t[places[s], r] for r, s in enumerate(stream)], -1)[:, None]
        for t in (cosines, sines)
    ]
    left, right = np.split(x, 2, -1)
    want = [left * rows[0] - right * rows[1], right * rows[0] + left * rows[1]]
    close(y, np.concatenate(want, -1))


def test_linear_attention_corrects_what_it_knows_and_forgets(f, rng):
    q, k, v, state = f(1, 3, 16), f(1, 3, 8), f(1, 3, 6), f(1, 2, 4, 3)
    decay, beta = -rng.random((1, 3, 2)).astype(f32), rng.random((1, 3, 2)).astype(f32)
    attrs = {"q_num_heads": 4, "kv_num_heads": 2}
    y, last = run_node("LinearAttention", [q, k, v, state, decay, beta], f32, f32, **attrs)
    want = np.zeros((3, 4, 3), f32)
    state = state.copy()
    for t in range(3):
        for h in range(2):
            key, value = k[0, t].reshape(2, 4)[h], v[0, t].reshape(2, 3)[h]
            kept = np.exp(decay[0, t, h]) * state[0, h]
            state[0, h] = kept + beta[0, t, h] * np.outer(key, value - key @ kept)
            for query in (2 * h, 2 * h + 1):
                want[t, query] = q[0, t].reshape(4, 4)[query] @ state[0, h] / 2
    close(last, state)
    close(y[0], want.reshape(3, 12))


@pytest.mark.parametrize("last", [0, 1])
def test_causal_convolution_sees_what_came_before(f, last):
    x, w, bias, past = f(2, 4, 5), f(4, 1, 3), f(4), f(2, 4, 4)
    given, held = (v.transpose(0, 2, 1) if last else v for v in (x, past))
    attrs = {"channels_last": last, "dilation": 2, "activation": "silu"}
    y, state = run_node("CausalConvWithState", [given, w, bias, held], f32, f32, **attrs)
    y, state = (v.transpose(0, 2, 1) if last else v for v in (y, state))
    seen = np.concatenate([past, x], 2)
    taps = [w[:, 0, i, None] * seen[:, :, 2 * i : 2 * i + 5] for i in range(3)]
    close(y, silu(sum(taps) + bias[:, None]))
    close(state, seen[:, :, -4:])


def grouped_formula(q, keys, values, past, window=None, sink=None, cap=None):
    """One batch element of grouped attention: q [N, S, H], keys and values [K, T, H]."""
    keys, values = (np.repeat(x, HEADS // SHARED, 0) for x in (keys, values))
    scores = q @ keys.transpose(0, 2, 1) / math.sqrt(SIZE)
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    place, last = np.arange(keys.shape[1]), np.arange(q.shape[1])[:, None] + past
    hidden = (place > last) | (place <= last - (window or math.inf))
    powers = np.exp(np.where(hidden, -np.inf, scores))
    rest = 0 if sink is None else np.exp(sink)[:, None, None]
    weights = powers / (powers.sum(-1, keepdims=True) + rest)
    return (weights @ values).transpose(1, 0, 2).reshape(q.shape[1], -1)


@pytest.mark.parametrize("way", ["plain", "window", "sink", "cap"])
def test_grouped_attention_writes_behind_what_each_cache_holds(f, way):
    q, k, v = f(2, 1, HEADS * SIZE), f(2, 1, SHARED * SIZE), f(2, 1, SHARED * SIZE)
    past, sink = [f(2, SHARED, 8, SIZE), f(2, SHARED, 8, SIZE)], f(HEADS)
    lengths, total = np.array([5, 3], i32), np.array(6, i32)
    attrs = {"window": {"local_window_size": 2}, "cap": {"softcap": 0.5}}.get(way, {})
    extra = [None] * 4 + [sink if way == "sink" else None]
    y, keys, values = run_node(
        "GroupQueryAttention", [q, k, v, *past, lengths, total, *extra], f32, f32, f32,
        num_heads=HEADS, kv_num_heads=SHARED, **attrs,
    )  # fmt: skip
    for b, old in enumerate(lengths):
        both = [p[b].copy() for p in past]
        for cache, new in zip(both, (k, v), strict=True):
            cache[:, old] = new[b].reshape(SHARED, SIZE)
        close(keys[b], both[0])
        close(values[b], both[1])
        want = grouped_formula(
            q[b].reshape(HEADS, 1, SIZE), *(c[:, : old + 1] for c in both), old,
            window=2 if way == "window" else None,
            sink=sink if way == "sink" else None,
            cap=0.5 if way == "cap" else None,
        )  # fmt: skip
        close(y[b], want)


def test_a_first_prompt_is_packed_normalised_turned_and_causal(f):
    packed, (cosines, sines), q_scale, k_scale = f(1, 4, 80), f(2, 10, 4), f(8), f(8)
    extra = [cosines, sines, None, None, None, None, None, q_scale, k_scale]
    operands = [packed, None, None, None, None, np.array([3], i32), np.array(4, i32), *extra]
    attrs = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1}
    y, keys, _ = run_node("GroupQueryAttention", operands, f32, f32, f32, **attrs)
    parts = np.split(packed, [HEADS * SIZE, (HEADS + SHARED) * SIZE], -1)
    q, k, v = (heads_of(p, p.shape[2] // SIZE) for p in parts)
    q, k = (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w
        for x, w in ((q, q_scale), (k, k_scale))
    )
    q, k = (rotated(x, np.arange(4)[None], cosines, sines) for x in (q, k))
    close(keys, k)
    close(y[0], grouped_formula(q[0], k[0], v[0], 0))


@pytest.mark.parametrize("wanted", [1, 2])
def test_grouped_attention_gives_scores_or_weights(f, wanted):
    q, k, v = f(1, 2, 8), f(1, 2, 8), f(1, 2, 8)
    operands = [q, k, v, None, None, np.array([1], i32), np.array(2, i32)]
    attrs = {"num_heads": 1, "kv_num_heads": 1, "qk_output": wanted}
    *_, details = run_node("GroupQueryAttention", operands, f32, f32, f32, f32, **attrs)
    scores = q[0] @ k[0].T / math.sqrt(8)
    weights = softmax(np.where([[0, 1], [0, 0]], -np.inf, scores))
    close(details[0, 0], weights if wanted == 2 else np.tril(scores))


HALF_CASES = {
    "Attention": ([(2, 3, 16), (16, 48), (48,)], {"num_heads": 2, "unidirectional": 1}),
    "MultiHeadAttention": ([(2, 3, 16)] * 3 + [(48,)], {"num_heads": 2, "unidirectional": 1}),
    "RotaryEmbedding": ([(2, 3, 16), 0, (9, 4), (9, 4)], {}),
    "GroupQueryAttention": (
        [(1, 3, 32), (1, 3, 16), (1, 3, 16), None, None, [2], 3, (9, 4), (9, 4)],
        {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "softcap": 2.0},
    ),
    "SkipLayerNormalization": ([(2, 3, 16), (2, 3, 16), (16,), (16,), (16,)], {}),
    "GroupNorm": ([(1, 2, 2, 8), (8,), (8,)], {"groups": 2, "activation": 1}),
}


@pytest.mark.parametrize("op_type", HALF_CASES)
def test_half_precision_gives_what_single_precision_gives(f, op_type):
    shapes, attrs = HALF_CASES[op_type]
    index = i64 if op_type == "RotaryEmbedding" else i32
    operands = [
        s if s is None else f(*s) / 4 if isinstance(s, tuple) else np.array(s, index).reshape(-1)
        for s in shapes
    ]
    small = [x.astype(np.float16) if x is not None and x.dtype == f32 else x for x in operands]
    widened = [x.astype(f32) if x is not None and x.dtype == np.float16 else x for x in small]
    (want,) = run_node(op_type, widened, f32, **attrs)
    (got,) = run_node(op_type, small, np.float16, **attrs)
    np.testing.assert_allclose(got.astype(f32), want, 1e-2, 2e-3 * abs(want).max())
