"""Operators of com.microsoft: plain formulas, whole graphs in one region, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from microsoft_models import feeds_of, node_model, run_node
from onnx import helper

import tilth
from tilth.ir.errors import ModelError, UnsupportedError

f32, i32, i64 = np.float32, np.int32, np.int64


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def layer_norm(x, scale, shift, epsilon):
    off = x - x.mean(-1, keepdims=True)
    return off / np.sqrt((off**2).mean(-1, keepdims=True) + epsilon) * scale + shift


def heads_of(x, heads):
    batch, length, size = x.shape
    return x.reshape(batch, length, heads, size // heads).transpose(0, 2, 1, 3)


def joined(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attended(q, k, v, mask=0.0):
    """Plain attention over [B, N, S, H], as [B, S, N H]."""
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1]) + mask
    return joined(softmax(scores) @ v)


def close(got, want):
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.fixture
def f(rng):
    return lambda *shape: rng.standard_normal(shape).astype(f32)


# Products and activations


def test_fused_matmul_transposes_and_scales(f):
    a, b = f(2, 5, 4), f(2, 6, 5)
    (y,) = run_node("FusedMatMul", [a, b], transA=1, transB=1, alpha=0.5)
    close(y, 0.5 * a.transpose(0, 2, 1) @ b.transpose(0, 2, 1))


def test_a_batch_transpose_moves_the_first_dimension_behind_the_batch(f):
    a, b = f(4, 2, 3, 5), f(2, 3, 5, 6)
    (y,) = run_node("FusedMatMul", [a, b], transBatchA=1)
    close(y, a.transpose(1, 2, 0, 3) @ b)


def test_products_with_activations(f):
    a, b, c = f(3, 4), f(4, 5), f(5)
    close(run_node("FusedMatMulActivation", [a, b], activation="Relu")[0], np.maximum(a @ b, 0))
    (y,) = run_node("FusedGemm", [a, b, c], activation="LeakyRelu", activation_alpha=0.1)
    close(y, np.where(a @ b + c > 0, a @ b + c, 0.1 * (a @ b + c)))
    close(run_node("GemmFastGelu", [a, b, c])[0], tanh_gelu(a @ b + c))


def test_fused_conv_adds_a_residual_before_its_activation(f):
    x, w, bias, residual = f(1, 4, 5, 5), f(8, 4, 1, 1), f(8), f(1, 8, 5, 5)
    (y,) = run_node("FusedConv", [x, w, bias, residual], activation="Relu")
    plain = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]) + bias[:, None, None]
    close(y, np.maximum(plain + residual, 0))


def test_gelus(f):
    x, bias = f(2, 3, 8), f(8)
    close(run_node("Gelu", [x])[0], gelu(x))
    close(run_node("BiasGelu", [x, bias])[0], gelu(x + bias))
    close(run_node("FastGelu", [x, bias])[0], tanh_gelu(x + bias))
    close(run_node("QuickGelu", [x])[0], x / (1 + np.exp(-1.702 * x)))
    left, right = np.split(x + bias, 2, -1)
    close(run_node("BiasSplitGelu", [x, bias])[0], left * gelu(right))


def test_bias_add_adds_a_residual_too(f):
    x, bias, skip = f(2, 3, 8), f(8), f(2, 3, 8)
    close(run_node("BiasAdd", [x, bias, skip])[0], x + bias + skip)


# Normalisations


def test_skip_layer_normalization_gives_the_sum_as_output_three(f):
    x, skip, scale, shift, bias = f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)
    operands = [x, skip, scale, shift, bias]
    y, total = run_node("SkipLayerNormalization", operands, f32, None, None, f32, epsilon=1e-3)
    close(total, x + skip + bias)
    close(y, layer_norm(x + skip + bias, scale, shift, 1e-3))


def test_skip_simplified_layer_normalization(f):
    x, skip, scale = f(2, 3, 8), f(2, 3, 8), f(8)
    (y,) = run_node("SkipSimplifiedLayerNormalization", [x, skip, scale], epsilon=1e-3)
    total = x + skip
    close(y, total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-3) * scale)


def test_simplified_layer_normalization_in_the_standard_domain_gives_its_factor(f):
    x, scale = f(2, 3, 8), f(8)
    y, factor = run_node("SimplifiedLayerNormalization", [x, scale], f32, f32, domain="")
    root = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    close(y, x / root * scale)
    close(factor, 1 / root)


def test_embedding_sums_three_tables_and_counts_words(f):
    words, kinds = np.array([[3, 1, 4], [1, 5, 9]], i32), np.array([[0, 0, 1], [0, 1, 1]], i32)
    tables, scale, shift = [f(10, 8), f(3, 8), f(2, 8)], f(8), f(8)
    mask = np.array([[1, 1, 0], [1, 0, 0]], i32)
    operands = [words, kinds, *tables, scale, shift, mask]
    y, count, total = run_node("EmbedLayerNormalization", operands, f32, i32, f32)
    want = tables[0][words] + tables[1] + tables[2][kinds]
    close(total, want)
    close(y, layer_norm(want, scale, shift, 1e-12))
    assert count.tolist() == [2, 1]


def grouped_norm(x, groups, scale, shift):
    rows = x.reshape(x.shape[0], groups, -1)
    off = rows - rows.mean(-1, keepdims=True)
    unit = (off / np.sqrt((off**2).mean(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    return unit * scale[:, None, None] + shift[:, None, None]


@pytest.mark.parametrize("last", [0, 1])
def test_group_norm_with_silu_in_either_layout(f, last):
    x, scale, shift = f(2, 6, 3, 4), f(6), f(6)
    given = x.transpose(0, 2, 3, 1) if last else x
    (y,) = run_node("GroupNorm", [given, scale, shift], groups=3, activation=1, channels_last=last)
    close(y.transpose(0, 3, 1, 2) if last else y, silu(grouped_norm(x, 3, scale, shift)))


@pytest.mark.parametrize("last", [0, 1])
def test_skip_group_norm_takes_one_residual_per_channel(f, last):
    x, skip, scale, shift, bias = f(2, 6, 3, 4), f(2, 6), f(6), f(6), f(6)
    given = x.transpose(0, 2, 3, 1) if last else x
    attrs = {"groups": 2, "activation": 0, "channels_last": last}
    y, total = run_node("SkipGroupNorm", [given, scale, shift, skip, bias], f32, f32, **attrs)
    want = x + skip[:, :, None, None] + bias[:, None, None]
    y, total = (v.transpose(0, 3, 1, 2) if last else v for v in (y, total))
    close(total, want)
    close(y, grouped_norm(want, 2, scale, shift))


# Attention


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


HEADS, SHARED, SIZE = 6, 2, 8


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


# Others


def test_fourier_transforms_of_real_signals(f):
    x = f(2, 3, 12)
    (spectrum,) = run_node("Rfft", [x], signal_ndim=1)
    want = np.fft.rfft(x)
    close(spectrum, np.stack([want.real, want.imag], -1))
    close(run_node("Irfft", [spectrum], signal_ndim=1)[0], x)


def test_complex_products(f):
    x, y = f(3, 4, 2), f(3, 4, 2)
    a, b = x[..., 0] + 1j * x[..., 1], y[..., 0] + 1j * y[..., 1]
    for name, want in (("ComplexMul", a * b), ("ComplexMulConj", a * b.conj())):
        close(run_node(name, [x, y])[0], np.stack([want.real, want.imag], -1))


def test_inverse_finds_its_pivots(f):
    x = f(3, 5, 5)
    x[0] = np.eye(5)[[2, 0, 4, 1, 3]]
    np.testing.assert_allclose(run_node("Inverse", [x])[0], np.linalg.inv(x), 1e-3, 1e-4)


def test_repeats_of_n_grams_get_no_score(f):
    tokens, scores = np.array([[1, 2, 3, 1, 2]], i64), f(1, 6)
    (y,) = run_node("NGramRepeatBlock", [tokens, scores], ngram_size=3)
    assert (y == np.where(np.arange(6) == 3, -np.inf, scores)).all()
    (unchanged,) = run_node("NGramRepeatBlock", [tokens, scores], ngram_size=6)
    assert (unchanged == scores).all()


def test_windows_of_a_tensor(f):
    x = f(2, 7, 3)
    (y,) = run_node("UnfoldTensor", [x], dim=1, size=3, step=2)
    assert (y == np.lib.stride_tricks.sliding_window_view(x, 3, 1)[:, ::2]).all()


def test_crops_sample_corner_to_corner():
    image = np.arange(16, dtype=f32).reshape(1, 1, 4, 4)
    operands = [image, np.array([[0, 0, 1, 1]], f32), np.array([0], i32), np.array([2, 3], i32)]
    (y,) = run_node("CropAndResize", operands)
    assert y[0, 0].tolist() == [[0, 1.5, 3], [12, 13.5, 15]]


def test_padding_of_a_transposed_convolution_comes_as_an_operand(f):
    x, w, pads = f(1, 1, 3, 3), np.ones((1, 1, 2, 2), f32), np.array([1, 0, 0, 1], i64)
    (y,) = run_node("ConvTransposeWithDynamicPads", [x, w, pads], strides=[2, 2])
    close(y, np.repeat(np.repeat(x, 2, 2), 2, 3)[:, :, 1:, :-1])


def test_names_that_the_standard_has_too(f):
    x = f(2, 3, 4)
    close(run_node("GatherND", [x, np.array([[0, -1]], i32)])[0], x[[0], [-1]])
    close(run_node("Trilu", [x])[0], np.triu(x))
    close(run_node("Pad", [x[0], np.array([0, 1, 0, 2], i64)])[0], np.pad(x[0], [(0, 0), (1, 2)]))
    close(run_node("ExpandDims", [x, np.array(1, i32)])[0], x[:, None])
    (steps,) = run_node("Range", [np.array(2, i64), np.array(5, i64)], i64)
    assert steps.tolist() == [2, 3, 4]


def test_unique_elements_keep_their_order_and_run_on_the_host():
    x = np.array([2, 1, 1, 3, 4, 3], f32)
    model = tilth.load(node_model("Unique", [x], (f32, i64, i64)))
    got = [v.tolist() for v in model({"x0": x}).values()]
    assert got == [[2, 1, 3, 4], [0, 1, 1, 2, 3, 2], [1, 2, 2, 1]]


# Whole graphs


def encoder(f) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A layer of BERT as optimisers leave it: [2, 5, 16], four heads."""
    weights = {
        "qkv": f(16, 48) / 4, "qkv_bias": f(48), "out": f(16, 16) / 4, "out_bias": f(16),
        "up": f(16, 32) / 4, "up_bias": f(32), "down": f(32, 16) / 4, "down_bias": f(16),
        "scale": f(16), "shift": f(16),
    }  # fmt: skip

    def node(name: str, inputs: str, output: str, domain: str = "com.microsoft", **attrs):
        return helper.make_node(name, inputs.split(), [output], domain=domain, **attrs)

    nodes = [
        node("Attention", "x qkv qkv_bias mask", "a", num_heads=4),
        node("MatMul", "a out", "b", ""),
        node("SkipLayerNormalization", "b x scale shift out_bias", "c", epsilon=1e-5),
        node("FusedMatMul", "c up", "d"),
        node("BiasGelu", "d up_bias", "e"),
        node("MatMul", "e down", "g", ""),
        node("SkipLayerNormalization", "g c scale shift down_bias", "y", epsilon=1e-5),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "length", 16]),
            helper.make_tensor_value_info("mask", onnx.TensorProto.INT32, ["batch", "length"]),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "length", 16])],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), weights


def test_an_optimised_encoder_is_one_compiled_region(f):
    proto, w = encoder(f)
    x, mask = f(2, 5, 16), np.array([[1, 1, 1, 0, 0], [1] * 5], i32)
    exe = tilth.load(proto).compile(shapes={"x": x.shape, "mask": mask.shape})
    assert (len(exe.report.regions), exe.report.host_ops) == (1, ())
    q, k, v = (heads_of(p, 4) for p in np.split(x @ w["qkv"] + w["qkv_bias"], 3, -1))
    y = attended(q, k, v, np.where(mask[:, None, None] > 0, 0, -1e4)) @ w["out"] + w["out_bias"]
    y = layer_norm(y + x, w["scale"], w["shift"], 1e-5)
    inner = gelu(y @ w["up"] + w["up_bias"]) @ w["down"] + w["down_bias"]
    close(exe({"x": x, "mask": mask})["y"], layer_norm(inner + y, w["scale"], w["shift"], 1e-5))


def test_decoding_with_a_cache_is_one_compiled_region(f):
    shapes = [(2, 1, HEADS * SIZE)] + [(2, 1, SHARED * SIZE)] * 2 + [(2, SHARED, 8, SIZE)] * 2
    tables = [f(10, SIZE // 2), f(10, SIZE // 2)]
    operands = [*(f(*s) for s in shapes), np.array([5, 3], i32), np.array(6, i32), *tables]
    attrs = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1}
    proto = node_model("GroupQueryAttention", operands, (f32, f32, f32), **attrs)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(operands[6], "x6"))
    del proto.graph.input[6]
    feeds = feeds_of(operands)
    del feeds["x6"]
    exe = tilth.load(proto).compile()
    assert (len(exe.report.regions), exe.report.host_ops) == (1, ())
    want = run_node("GroupQueryAttention", operands, f32, f32, f32, **attrs)
    for got, expected in zip(exe(feeds).values(), want, strict=True):
        close(got, expected)


# What is refused


@pytest.mark.parametrize(
    "op_type, operands, attrs, message",
    [
        ("Attention", [(1, 2, 4), (4, 12)], {"num_heads": 2, "do_rotary": 1}, "do_rotary"),
        ("Attention", [(1, 2, 4), (4, 12)], {"num_heads": 2, "past_present_share_buffer": 1},
         "shares its buffer"),
        ("MultiHeadAttention", [(1, 2, 4)] * 3 + [None] * 5 + [()], {"num_heads": 2},
         "shares its buffer"),
        ("MultiHeadAttention", [(1, 2, 4)] * 3 + [None, (5,)], {"num_heads": 2}, "a mask"),
        ("RotaryEmbedding", [(1, 2, 4), (1,), (4, 2), (4, 2)], {"is_packed_batching": 1}, "packed"),
        ("Rfft", [(4, 4)], {"signal_ndim": 2}, "more than one dimension"),
        ("CausalConvWithState", [(1, 2, 4), (2, 1, 3)], {"state_window": 2}, "state_window"),
        ("CausalConvWithState", [(1, 2, 4), (2, 1, 3)], {"ndim": 2}, "one spatial dimension"),
        ("Rfft", [(4, 4)], {"normalized": 1}, "normalized"),
        ("FusedGemm", [(2, 2), (2, 2)], {"activation": "Cubic"}, "'Cubic'"),
    ],
)  # fmt: skip
def test_what_is_not_supported_says_so(op_type, operands, attrs, message):
    arrays = [
        None if s is None else np.zeros(s, i32 if len(s) < 2 and i else f32)
        for i, s in enumerate(operands)
    ]
    with pytest.raises(UnsupportedError, match=message):
        run_node(op_type, arrays, **attrs)


def grouped_node(past=None, heads=2, **attrs):
    """A decoding step of one head of keys; `past` is the type of the cache."""
    q = np.zeros((1, 1, 2 * 4), f32)
    k = v = np.zeros((1, 1, 4), f32)
    caches = [None if past is None else np.zeros((1, 1, 3, 4), past) for _ in range(2)]
    attrs = {"num_heads": heads, "kv_num_heads": 1, **attrs}
    operands = [q, k, v, *caches, np.array([2], i32), np.array(3, i32)]
    return run_node("GroupQueryAttention", operands, f32, None, None, **attrs)


def test_grouped_attention_refuses_quantised_and_rolling_caches():
    with pytest.raises(UnsupportedError, match="quantised cache"):
        grouped_node(np.int8)
    with pytest.raises(UnsupportedError, match="as short as the window"):
        grouped_node(f32, sliding_window_cache=1, local_window_size=2)


def test_linear_attention_says_which_gate_it_lacks(f):
    with pytest.raises(ModelError, match="needs 'beta'"):
        run_node(
            "LinearAttention", [f(1, 2, 4)] * 3, update_rule="delta", q_num_heads=1, kv_num_heads=1
        )


def test_multimodal_sections_must_fill_the_table(f):
    operands = [f(1, 1, 2, 8), np.zeros((3, 1, 2), i64), f(4, 4), f(4, 4)]
    with pytest.raises(ModelError, match="do not add up to the 4 columns"):
        run_node("MRotaryEmbedding", operands, mrope_section=[1, 1, 1])


def test_grouped_attention_says_what_it_lacks():
    with pytest.raises(ModelError, match="no past to go on from"):
        grouped_node()
    with pytest.raises(ModelError, match="tables of cosines and sines"):
        grouped_node(f32, do_rotary=1)
    with pytest.raises(ModelError, match="do not form groups"):
        run_node(
            "GroupQueryAttention",
            [np.zeros((1, 1, 12), f32)] * 3 + [None] * 2 + [np.array([0], i32), np.array(1, i32)],
            num_heads=3,
            kv_num_heads=2,
        )


def test_operators_that_are_missing_are_listed_with_their_domain(f):
    with pytest.raises(UnsupportedError, match=r"com\.microsoft::BeamSearch \(opset 1\)"):
        run_node("BeamSearch", [f(2, 3)])
