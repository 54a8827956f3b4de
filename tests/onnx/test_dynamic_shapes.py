"""Symbolic sizes and sizes that depend on data: results are right at every size, 0 and 1 too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_helpers import model

import tilth

Arrays = dict[str, np.ndarray]
SIZES = st.integers(0, 5)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
    return e / e.sum(-1, keepdims=True)


def convolved(x: np.ndarray) -> np.ndarray:
    """Sums of three neighbours of both channels, zeros outside: [b, 2, s] to [b, 1, s]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    return sum(padded[..., k : k + x.shape[2]] for k in range(3)).sum(1, keepdims=True)


def kept_boxes(boxes: np.ndarray, scores: np.ndarray) -> list[list[int]]:
    """Of boxes [n, 4] that overlap by more than half, the one with the highest score."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        low = np.maximum(boxes[kept, :2], boxes[i, :2])
        high = np.minimum(boxes[kept, 2:], boxes[i, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        areas = [(boxes[j, 2:] - boxes[j, :2]).prod(-1) for j in (kept, i)]
        if (shared <= 0.5 * (areas[0] + areas[1] - shared)).all():
            kept.append(int(i))
    return [[0, 0, i] for i in kept]


def topmost(x: np.ndarray, k: np.ndarray) -> Arrays:
    order = np.argsort(-x, axis=1, kind="stable")[:, : k[0]]
    return {"v": np.take_along_axis(x, order, 1), "i": order}


def powers(x: np.ndarray, n: np.ndarray) -> Arrays:
    """x, doubled n times; every x on the way."""
    steps = [x * 2.0 ** (i + 1) for i in range(int(n))]
    rows = np.array(steps, np.float32).reshape(int(n), *x.shape)
    return {"y": x * 2.0 ** int(n), "s": rows}


def running(h: np.ndarray, x: np.ndarray) -> Arrays:
    sums = h + np.cumsum(x, 0)
    return {"last": sums[-1] if len(x) else h, "ys": np.tanh(sums)}


def rng(b: int, s: int) -> np.random.Generator:
    return np.random.default_rng(10 * b + s)


def normal(*shape: int) -> np.ndarray:
    return rng(len(shape), sum(shape)).normal(size=shape).astype(np.float32)


def boxes(n: int) -> np.ndarray:
    corners = rng(n, 4).random((n, 2, 2)).astype(np.float32)
    return np.sort(corners, 1).reshape(n, 4)


# A model, what it is fed for a batch b and a sequence s, and what it must give.
CASES: dict[str, tuple[str, Callable[[int, int], Arrays], Callable[..., Any]]] = {
    "convolution": (
        """g (float[b,2,s] x) => (float[b,1,s] y) {
            one = Constant<value=float[1] {1.0}>()
            shape = Constant<value_ints=[1,2,3]>()
            w = Expand(one, shape)
            y = Conv<pads=[1,1]>(x, w)
        }""",
        lambda b, s: {"x": normal(b, 2, s)},
        lambda x: {"y": convolved(x)},
    ),
    "matmul": (
        "g (float[b,s,4] x, float[4,3] w) => (float[b,s,3] y) { h = MatMul(x, w) y = Relu(h) }",
        lambda b, s: {"x": normal(b, s, 4), "w": normal(4, 3)},
        lambda x, w: {"y": np.maximum(x @ w, 0)},
    ),
    "attention": (
        """g (float[b,s,4] q, float[b,t,4] k) => (float[b,s,4] y) {
            kt = Transpose<perm=[0,2,1]>(k)
            scores = MatMul(q, kt)
            p = Softmax(scores)
            y = MatMul(p, k)
        }""",
        lambda b, s: {"q": normal(b, s, 4), "k": normal(b, s + 1, 4)},
        lambda q, k: {"y": softmax(q @ k.transpose(0, 2, 1)) @ k},
    ),
    "reductions": (
        """g (float[b,s] x) => (float[b] sum, float[s] most) {
            rows = Constant<value_ints=[1]>()
            columns = Constant<value_ints=[0]>()
            sum = ReduceSum<keepdims=0>(x, rows)
            most = ReduceMax<keepdims=0>(x, columns)
        }""",
        lambda b, s: {"x": normal(b, s)},
        lambda x: {"sum": x.sum(1), "most": x.max(0, initial=-np.inf)},
    ),
    "concatenation": (
        "g (float[b,s] x, float[b,t] z) => (float[b,u] y) { n = Neg(x) y = Concat<axis=1>(n, z) }",
        lambda b, s: {"x": normal(b, s), "z": normal(b, 2)},
        lambda x, z: {"y": np.concatenate([-x, z], 1)},
    ),
    "nonzero": (
        """g (float[b,s] x) => (int64[2,k] i, float[k] y) {
            r = Relu(x)
            i = NonZero(r)
            t = Transpose(i)
            y = GatherND(r, t)
        }""",
        lambda b, s: {"x": normal(b, s)},
        lambda x: {"i": np.array((x > 0).nonzero()), "y": x[x > 0]},
    ),
    "non_max_suppression": (
        """g (float[1,n,4] boxes, float[1,1,n] scores) => (int64[k,3] y) {
            most = Constant<value=int64 {99}>()
            overlap = Constant<value=float {0.5}>()
            y = NonMaxSuppression(boxes, scores, most, overlap)
        }""",
        lambda b, s: {"boxes": boxes(b * s)[None], "scores": normal(1, 1, b * s)},
        lambda boxes, scores: {
            "y": np.array(kept_boxes(boxes[0], scores[0, 0]), np.int64).reshape(-1, 3)
        },
    ),
    "unique": (
        "g (float[b,s] x) => (float[k] y, int64[n] inverse) { y, first, inverse = Unique(x) }",
        lambda b, s: {"x": np.round(normal(b, s))},
        lambda x: {"y": np.unique(x), "inverse": np.unique(x, return_inverse=True)[1].reshape(-1)},
    ),
    "mask": (
        "g (float[b,s] x, bool[s] m) => (float[b,k] y) { c = Compress<axis=1>(x, m) y = Neg(c) }",
        lambda b, s: {"x": normal(b, s), "m": normal(s, 1)[:, 0] > 0},
        lambda x, m: {"y": -x[:, m]},
    ),
    "top_k": (
        "g (float[b,s] x, int64[1] k) => (float[b,m] v, int64[b,m] i) { v, i = TopK(x, k) }",
        lambda b, s: {"x": normal(b, s), "k": np.array([s // 2])},
        topmost,
    ),
    "loop": (
        """g (float[s] x, int64 n) => (float[s] y, float[n,s] s) {
            on = Constant<value=bool {1}>()
            y, s = Loop<body = b (int64 i, bool c, float[s] a) => (bool d, float[s] e, float[s] f) {
                d = Identity(c)
                e = Add(a, a)
                f = Identity(e)
            }>(n, on, x)
        }""",
        lambda b, s: {"x": normal(s), "n": np.array(b)},
        powers,
    ),
    "scan": (
        """g (float[b] h, float[s,b] x) => (float[b] last, float[s,b] ys) {
            last, ys = Scan<num_scan_inputs=1, body = b (float[b] c, float[b] e) => (float[b] d, float[b] o) {
                d = Add(c, e)
                o = Tanh(d)
            }>(h, x)
        }""",  # noqa: E501
        lambda b, s: {"h": normal(b), "x": normal(s, b)},
        running,
    ),
}


@functools.cache
def loaded(name: str) -> tilth.Model:
    return tilth.load(model(CASES[name][0]))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(b=SIZES, s=SIZES)
def test_results_are_right_at_every_size(name: str, b: int, s: int):
    _, feeds, expected = CASES[name]
    fed = feeds(b, s)
    found = loaded(name)(fed)
    for output, array in expected(**fed).items():
        np.testing.assert_allclose(found[output], array, rtol=1e-5, atol=1e-6, err_msg=output)
        assert found[output].shape == array.shape
