"""Layers of com.microsoft with quantised weights, by formula and by ONNX Runtime."""

from __future__ import annotations

from functools import partial

import node_case
import numpy as np
from node_case import Case, by_case, dequantised

F = np.float32
RNG = np.random.default_rng(3)
reals, integers = partial(node_case.reals, RNG), partial(node_case.integers, RNG)
B, S, D, N, H = 2, 4, 8, 2, 3  # batch, length, width, heads, size of a head


def attention(projected: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Keys beyond `keep` words of each sequence are hidden."""
    q, k, v = (part.reshape(B, S, N, H).transpose(0, 2, 1, 3) for part in np.split(projected, 3, 2))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(F(H))
    scores = scores + np.where(np.arange(S) < keep[:, None, None, None], 0, F(-10000))
    e = np.exp(scores - scores.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(B, S, N * H).astype(F)


def attentions(cut: int = 1) -> dict[str, Case]:
    """Weights are divided by `cut`."""
    cases = {}
    bias, keep = reals(3 * N * H), np.array([S, S - 1], np.int32)
    x, xs, xz = integers(np.uint8, B, S, D), np.array(0.02, F), np.array(120, np.uint8)
    for name, ws, wz in (
        ("per tensor", np.array(0.01, F), np.array(3, np.int8)),
        ("per column", (0.005 + RNG.random(3 * N * H) / 100).astype(F), np.zeros(3 * N * H, "i1")),
    ):
        w = integers(np.int8, D, 3 * N * H) // cut
        y = attention(dequantised(x, xs, xz) @ dequantised(w, ws, wz) + bias, keep)
        cases[f"QAttention {name}"] = Case(
            "QAttention", [x, w, bias, xs, ws, keep, xz, wz], [y], {"num_heads": N},
            constants=(1, 2, 3, 4, 6, 7), close=1e-4,
        )  # fmt: skip
    return cases


def embeddings() -> dict[str, Case]:
    words, segments = (
        RNG.integers(0, 9, (B, S)).astype("i4"),
        RNG.integers(0, 2, (B, S)).astype("i4"),
    )
    mask = np.array([[1] * S, [1] * (S - 1) + [0]], np.int32)
    shapes = (9, D), (S + 2, D), (2, D), (D,), (D,)
    tables = [integers(np.uint8, *shape) for shape in shapes]
    scales = [np.array(0.01 * (i + 1), F) for i in range(5)]
    zeros = [np.array(100 + i, np.uint8) for i in range(5)]
    word, place, segment, gamma, beta = map(dequantised, tables, scales, zeros)
    total = word[words] + place[:S] + segment[segments]
    off = total - total.mean(-1, keepdims=True)
    y = off / np.sqrt((off**2).mean(-1, keepdims=True) + F(1e-5)) * gamma + beta
    operands = [words, segments, *tables, mask, *scales, *zeros]
    case = Case(
        "QEmbedLayerNormalization", operands, [y, mask.sum(1, dtype=np.int32)], {"epsilon": 1e-5},
        constants=(*range(2, 7), *range(8, 18)), close=1e-4,
    )  # fmt: skip
    return {"QEmbedLayerNormalization": case}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def recurrent() -> dict[str, Case]:
    cases = {}
    x, bias = reals(S, B, D), reals(1, 8 * H)
    w, r = integers(np.int8, 1, D, 4 * H), integers(np.int8, 1, H, 4 * H)
    for name, columns in (("per tensor", 1), ("per gate", 4 * H)):
        ws, rs = ((0.002 + RNG.random((1, columns)) / 300).astype(F) for _ in range(2))
        zeros = np.zeros((1, columns), np.int8)
        if columns == 1:
            ws, rs, zeros = ws[0], rs[0], zeros[0]
        h, c, states = np.zeros((B, H), F), np.zeros((B, H), F), []
        for step in x:
            gates = step @ (w[0] * ws.reshape(1, -1)) + h @ (r[0] * rs.reshape(1, -1))
            gates = gates + bias[0, : 4 * H] + bias[0, 4 * H :]
            i, o, f, new = np.split(gates, 4, 1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
            h = (sigmoid(o) * np.tanh(c)).astype(F)
            states.append(h)
        want = [np.stack(states)[:, None], h[None], c[None].astype(F)]
        cases[f"DynamicQuantizeLSTM {name}"] = Case(
            "DynamicQuantizeLSTM",
            [x, w, r, bias, None, None, None, None, ws, zeros, rs, zeros],
            want, {"hidden_size": H}, constants=(1, 2, 3, 8, 9, 10, 11), close=1e-4,
        )  # fmt: skip
    return cases


CASES = {**attentions(), **embeddings(), **recurrent()}
QUANTISED_STEPS = 0.03  # ONNX Runtime quantises the LSTM's inputs and states to 8 bits


@by_case(CASES)
def test_results_are_those_of_the_formula(case):
    case.assert_close(case.ours(), case.want)


# Of full-range weights, ONNX Runtime's sums of two products saturate on some processors.
@by_case({**CASES, **attentions(cut=2)}, peer=True)
def test_results_are_those_of_onnx_runtime(case):
    got, want = case.ours(), case.onnx_runtime()
    if "LSTM" in case.op_type:
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, atol=QUANTISED_STEPS)
    else:
        case.assert_close(got, want)
