"""Plain formulas of what operators of com.microsoft compute, for their tests."""

from __future__ import annotations

import math

import numpy as np

f32, i32, i64 = np.float32, np.int32, np.int64
HEADS, SHARED, SIZE = 6, 2, 8  # of grouped attention: of queries, of keys, elements of each


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
