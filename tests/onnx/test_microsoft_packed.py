"""Weights of few bits and mixtures of experts of com.microsoft, by formula and by ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import node_case
import numpy as np
import pytest
from node_case import Case, by_case

from tilth import UnsupportedError

F = np.float32
RNG = np.random.default_rng(11)
reals = partial(node_case.reals, RNG)


def scales(*shape: int) -> np.ndarray:
    return (0.01 + RNG.random(shape) / 20).astype(F)


def codes(bits: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 1 << bits, shape).astype(np.uint8)


def packed(q: np.ndarray, bits: int) -> np.ndarray:
    """Along the last axis, the first element in the lowest bits."""
    per_byte = 8 // bits
    room = -q.shape[-1] % per_byte
    q = np.pad(q, [(0, 0)] * (q.ndim - 1) + [(0, room)])
    q = q.reshape(*q.shape[:-1], -1, per_byte).astype(np.uint16)
    return (q << (np.arange(per_byte) * bits)).sum(-1).astype(np.uint8)


def weights(q: np.ndarray, s: np.ndarray, z: Any) -> np.ndarray:
    """(q - z) s, each scale repeated over its block of the last axis."""
    block = q.shape[-1] // s.shape[-1]
    z = np.broadcast_to(np.asarray(z, F), s.shape)
    return (q.astype(F) - z.repeat(block, -1)) * s.repeat(block, -1)


def products() -> dict[str, Case]:
    cases = {}
    n, k, block = 24, 72, 32
    for bits in (2, 4, 8):
        q, s = codes(bits, n, 96), scales(n, 3)
        b = packed(q.reshape(n, 3, block), bits)
        z, a, bias = codes(bits, n, 3), reals(2, 3, k), reals(n)
        attrs = {"N": n, "K": k, "block_size": block, "bits": bits}
        middle = 1 << (bits - 1)

        def case(
            operands: list[np.ndarray | None], zero: Any, shift: Any = 0, *,
            a: np.ndarray = a, q: np.ndarray = q, s: np.ndarray = s, attrs: Any = attrs,
        ) -> Case:  # fmt: skip
            want = a @ weights(q, s, zero)[:, :k].T + shift
            return Case("MatMulNBits", operands, [want], attrs, constants=range(1, 6))

        name = f"MatMulNBits of {bits} bits"
        cases[name] = case([a, b, s], middle)
        cases[f"{name}, packed zero points"] = case([a, b, s, packed(z, bits)], z)
        floats = z + F(0.25)
        # ONNX Runtime has no kernel for floats beside 8 bits.
        cases[f"{name}, float zero points"] = replace(
            case([a, b, s, floats], floats), peer=bits < 8
        )
        cases[f"{name}, bias"] = case([a, b, s, None, None, bias], middle, bias)
    group = RNG.permutation(np.arange(96) // block)[:k].astype(np.int32)
    q, s = codes(4, n, 96), scales(n, 3)
    w = (q[:, :k].astype(F) - 8) * s[:, group]
    a = reals(4, k)
    operands = [a, packed(q.reshape(n, 3, block), 4), s, None, group]
    attrs = {"N": n, "K": k, "block_size": block, "bits": 4}
    cases["MatMulNBits with groups"] = Case(
        "MatMulNBits", operands, [a @ w.T], attrs, constants=range(1, 5)
    )
    half = weights(q, s.astype(np.float16).astype(F), 8)[:, :k]
    cases["MatMulNBits of f16"] = Case(
        "MatMulNBits", [a.astype(np.float16), operands[1], s.astype(np.float16)],
        [(a.astype(np.float16).astype(F) @ half.T).astype(np.float16)],
        attrs, constants=(1, 2), close=2e-3,
    )  # fmt: skip
    return cases


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0]  # fmt: skip
FP4 = [0, 0.00520833, 2 / 3, 1, 1 / 3, 0.5, 1 / 6, 0.25]


def four_bit_floats() -> dict[str, Case]:
    n, k, block = 6, 40, 16
    q, largest, a = codes(4, n * k), scales(n * k // block), reals(3, k)
    pairs = q.reshape(-1, 2)
    b = (pairs[:, 0] << 4 | pairs[:, 1]).astype(np.uint8)
    attrs = {"N": n, "K": k, "block_size": block}
    cases = {}
    for kind, table in enumerate(([*FP4, *(-x for x in FP4)], NF4)):
        w = (np.array(table, F)[q] * largest.repeat(block)).reshape(n, k)
        options = {**attrs, "quant_type": kind}
        cases[f"MatMulBnb4 {kind}"] = Case(
            "MatMulBnb4", [a, b, largest], [a @ w.T], options, constants=(1, 2)
        )
        left = reals(3, n)
        cases[f"MatMulBnb4 {kind}, not transposed"] = Case(
            "MatMulBnb4", [left, b, largest], [left @ w], {**options, "transB": 0},
            constants=(1, 2), peer=False,
        )  # fmt: skip
    return cases


def embeddings() -> dict[str, Case]:
    rows, width, block = 10, 64, 16
    indices = np.array([[3, -1, 0], [9, 7, 3]])
    cases = {}
    for bits in (4, 8):
        q, s, z = codes(bits, rows, width), scales(rows, 4), codes(bits, rows, 4)
        attrs = {"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
        data = packed(q, bits)
        middle = 1 << (bits - 1)
        cases[f"GatherBlockQuantized of {bits} bits"] = Case(
            "GatherBlockQuantized", [data, indices, s], [weights(q, s, middle)[indices]],
            attrs, constants=(0, 2),
        )  # fmt: skip
        cases[f"GatherBlockQuantized of {bits} bits, zero points"] = Case(
            "GatherBlockQuantized", [data, indices, s, packed(z, bits)],
            [weights(q, s, z)[indices]], attrs, constants=(0, 2, 3),
        )  # fmt: skip
    q = RNG.integers(-8, 8, (5, 32, 6)).astype(ml_dtypes.int4)
    s, z = scales(5, 2, 6), RNG.integers(-8, 8, (5, 2, 6)).astype(ml_dtypes.int4)
    w = (q.astype(F) - z.astype(F).repeat(16, 1)) * s.repeat(16, 1)
    attrs = {"block_size": 16, "quantize_axis": 1}
    for axis in (0, 1, 2):
        where = np.array([0, 4, -2], np.int32)
        cases[f"GatherBlockQuantized of int4 along {axis}"] = Case(
            "GatherBlockQuantized", [q, where, s, z], [w.take(where, axis)],
            {**attrs, "gather_axis": axis}, constants=(0, 2, 3),
        )  # fmt: skip
    q, s = codes(8, rows, width), scales(rows, 4)
    beyond = weights(q, s, 128)[[2, 0]]
    beyond[1] = 0
    cases["GatherBlockQuantized out of range"] = Case(
        "GatherBlockQuantized", [q, np.array([2, rows]), s], [beyond],
        {"bits": 8, "block_size": block}, constants=(0, 2), peer=False,
    )  # fmt: skip
    return cases


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


def swiglu(g: np.ndarray, linear: np.ndarray, alpha: F, beta: F, limit: F) -> np.ndarray:
    g, linear = np.minimum(g, limit), np.clip(linear, -limit, limit)
    return g / (1 + np.exp(-alpha * g)) * (linear + beta)


def mixed(x: np.ndarray, logits: np.ndarray, k: int, normalised: bool, expert: Any) -> np.ndarray:
    """Each token by itself, and of its experts only the best k."""
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    rows = []
    for token, p in zip(x, probabilities, strict=True):
        best = np.argsort(-p, kind="stable")[:k]
        total = p[best].sum() if normalised else F(1)
        rows.append(sum(p[e] / total * expert(token, e) for e in best))
    return np.stack(rows).astype(F)


E, T, H, I = 4, 5, 32, 16  # experts, tokens, hidden and inner size  # noqa: E741


def experts() -> dict[str, Case]:
    cases = {}
    x, logits = reals(T, H), reals(T, E)
    w1, w2, w3 = reals(E, I, H) / 4, reals(E, H, I) / 4, reals(E, I, H) / 4
    b1, b2, b3 = reals(E, I), reals(E, H), reals(E, I)
    for name, function in ACTIVATIONS.items():

        def expert(t: np.ndarray, e: int, f: Any = function) -> np.ndarray:
            return w2[e] @ f(w1[e] @ t + b1[e]) + b2[e]

        for normalised in (0, 1):
            cases[f"MoE {name}{' normalised' * normalised}"] = Case(
                "MoE", [x, logits, w1, b1, w2, b2],
                [mixed(x, logits, 2, bool(normalised), expert)],
                {"k": 2, "activation_type": name, "normalize_routing_weights": normalised},
                constants=range(2, 6),
            )  # fmt: skip

    def gated(t: np.ndarray, e: int) -> np.ndarray:
        return w2[e] @ (ACTIVATIONS["silu"](w1[e] @ t) * (w3[e] @ t + b3[e]))

    cases["MoE with a gate"] = Case(
        "MoE", [x.reshape(1, T, H), logits, w1, None, w2, None, w3, b3],
        [mixed(x, logits, 1, False, gated).reshape(1, T, H)], {"activation_type": "silu"},
        constants=range(2, 8), peer=False,
    )  # fmt: skip
    parameters = {"activation_alpha": 1.7, "activation_beta": 1.0, "swiglu_limit": 1.5}
    numbers = (F(1.7), F(1), F(1.5))
    wide, wide_b = reals(E, 2 * I, H) / 4, reals(E, 2 * I)
    for fusion in (1, 2):

        def fused(t: np.ndarray, e: int, fusion: int = fusion) -> np.ndarray:
            y = wide[e] @ t + wide_b[e]
            g, linear = (y[::2], y[1::2]) if fusion == 1 else (y[:I], y[I:])
            return w2[e] @ swiglu(g, linear, *numbers) + b2[e]

        cases[f"MoE swiglu, fusion {fusion}"] = Case(
            "MoE", [x, logits, wide, wide_b, w2, b2], [mixed(x, logits, 2, True, fused)],
            {"k": 2, "activation_type": "swiglu", "swiglu_fusion": fusion,
             "normalize_routing_weights": 1, **parameters},
            constants=range(2, 6), peer=fusion == 1,
        )  # fmt: skip

    def apart(t: np.ndarray, e: int) -> np.ndarray:
        return w2[e] @ swiglu(w1[e] @ t, w3[e] @ t, *numbers)

    cases["MoE swiglu of two layers"] = Case(
        "MoE", [x, logits, w1, None, w2, None, w3], [mixed(x, logits, 2, False, apart)],
        {"k": 2, "activation_type": "swiglu", **parameters}, constants=range(2, 7), peer=False,
    )  # fmt: skip
    return cases


def quantised_experts() -> dict[str, Case]:
    cases = {}
    x, logits, b1 = reals(T, H), reals(T, E), reals(E, I)
    for bits in (4, 8):
        q1, q2 = codes(bits, E, I, H), codes(bits, E, H, I)
        middle = 1 << (bits - 1)
        attrs = {"k": 2, "activation_type": "silu", "expert_weight_bits": bits,
                 "normalize_routing_weights": 1, "weights_prepacked": 0}  # fmt: skip
        for block, columns in ((0, (1, 1)), (16, (2, 1))):
            s1, s2 = (scales(*q.shape[:2], c) for q, c in zip((q1, q2), columns, strict=True))
            w1, w2 = weights(q1, s1, middle), weights(q2, s2, middle)

            def expert(
                t: np.ndarray, e: int, w1: np.ndarray = w1, w2: np.ndarray = w2
            ) -> np.ndarray:
                return w2[e] @ ACTIVATIONS["silu"](w1[e] @ t + b1[e])

            shapes = [s if block else s[..., 0] for s in (s1, s2)]
            cases[f"QMoE of {bits} bits, blocks of {block}"] = Case(
                "QMoE", [x, logits, packed(q1, bits), shapes[0], b1, packed(q2, bits), shapes[1]],
                [mixed(x, logits, 2, True, expert)],
                {**attrs, **({"block_size": block} if block else {})}, constants=range(2, 7),
                peer=(bits, block) != (8, 16),  # there ONNX Runtime quantises the activations
            )  # fmt: skip
    z1, z2 = codes(4, E, I), codes(4, E, H)
    q1, q2, s1, s2 = codes(4, E, I, H), codes(4, E, H, I), scales(E, I), scales(E, H)
    w1, w2 = weights(q1, s1[..., None], z1[..., None]), weights(q2, s2[..., None], z2[..., None])

    def uneven(t: np.ndarray, e: int) -> np.ndarray:
        return w2[e] @ np.maximum(w1[e] @ t, 0)

    cases["QMoE with zero points"] = Case(
        "QMoE",
        [x, logits, packed(q1, 4), s1, None, packed(q2, 4), s2, None, None, None, None,
         packed(z1, 4), packed(z2, 4)],
        [mixed(x, logits, 2, True, uneven)],
        {"k": 2, "normalize_routing_weights": 1, "weights_prepacked": 0}, constants=range(2, 13),
    )  # fmt: skip
    given = reals(T, E)
    best = np.argmax(logits, 1)
    cases["QMoE weighed by other numbers"] = Case(
        "QMoE",
        [x, logits, packed(q1, 4), s1, None, packed(q2, 4), s2, *[None] * 6, None, given],
        [np.stack([given[t, e] * uneven_of(x[t], q1[e], s1[e], q2[e], s2[e])
                   for t, e in enumerate(best)])],
        {"weights_prepacked": 0}, constants=range(2, 7), peer=False,
    )  # fmt: skip
    return cases


def uneven_of(t: np.ndarray, q1: np.ndarray, s1: np.ndarray, q2: np.ndarray, s2: np.ndarray) -> Any:
    return weights(q2, s2[:, None], 8) @ np.maximum(weights(q1, s1[:, None], 8) @ t, 0)


CASES = {
    **products(),
    **four_bit_floats(),
    **embeddings(),
    **experts(),
    **quantised_experts(),
}


@by_case(CASES)
def test_results_are_those_of_the_formula(case):
    case.assert_close(case.ours(), case.want)


@by_case(CASES, peer=True)
def test_results_are_those_of_onnx_runtime(case):
    case.assert_close(case.ours(), case.onnx_runtime())


@pytest.mark.parametrize(
    "attrs", [{"use_sparse_mixer": 1}, {"quant_type": "fp4"}, {"weights_prepacked": 1}], ids=str
)
def test_what_is_not_supported_is_named(attrs):
    case = CASES["QMoE of 4 bits, blocks of 0"]
    with pytest.raises(UnsupportedError, match=next(iter(attrs))):
        replace(case, attrs={**case.attrs, **attrs}).ours()
