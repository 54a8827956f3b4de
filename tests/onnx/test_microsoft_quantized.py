"""Quantised operators of com.microsoft, against their formulas and against ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import node_case
import numpy as np
import pytest
from node_case import Case, by_case, dequantised

from tilth import UnsupportedError

F = np.float32
RNG = np.random.default_rng(7)
reals, integers = partial(node_case.reals, RNG), partial(node_case.integers, RNG)


def scale(value: float) -> np.ndarray:
    return np.array(value, F)


def quantised(x: np.ndarray, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    info = np.iinfo(z.dtype)
    return np.clip(np.rint(x.astype(F) / s) + z.astype(F), info.min, info.max).astype(z.dtype)


def off(q: np.ndarray, z: np.ndarray) -> np.ndarray:
    return q.astype(np.int64) - z.astype(np.int64)


A_SCALE, B_SCALE, C_SCALE = scale(0.021), scale(0.037), scale(0.043)


def zeros(dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = (3, 130, 120) if dtype == np.uint8 else (-5, 7, 11)
    return tuple(np.array(v, dtype) for v in values)  # type: ignore[return-value]


def binary(dtype: Any) -> dict[str, Case]:
    a, b, (za, zb, zc) = integers(dtype, 3, 4, 5), integers(dtype, 4, 1), zeros(dtype)
    ra, rb = dequantised(a, A_SCALE, za), dequantised(b, B_SCALE, zb)
    operands = [a, A_SCALE, za, b, B_SCALE, zb, C_SCALE, zc]
    wide = scale(0.9)
    factor = F(A_SCALE * B_SCALE) / wide
    product = off(a, za) * off(b, zb)
    which = RNG.random((4, 5)) < 0.5
    chosen = np.where(which, ra, rb)
    nothing = np.array(0, dtype)
    joined = np.concatenate([ra, dequantised(b.reshape(1, 4, 1), B_SCALE, zb).repeat(3, 0)], 2)
    return {
        "QLinearAdd": Case(
            "QLinearAdd", operands, [quantised(ra + rb, C_SCALE, zc)], quanta=1
        ),
        "QLinearMul": Case(
            "QLinearMul", [*operands[:6], wide, zc],
            [quantised(product.astype(F) * factor, F(1), zc)],
        ),
        "QLinearMul without zero points": Case(
            "QLinearMul", [a, A_SCALE, None, b, B_SCALE, None, wide],
            [quantised((off(a, nothing) * off(b, nothing)).astype(F) * factor, F(1), nothing)],
            peer=False,
        ),
        "MulInteger": Case("MulInteger", [a, za, b, zb], [product.astype(np.int32)], peer=False),
        "QLinearWhere": Case(
            "QLinearWhere", [which, a, A_SCALE, za, b, B_SCALE, zb, C_SCALE, zc],
            [quantised(chosen, C_SCALE, zc)], quanta=1,
        ),
        "QLinearConcat": Case(
            "QLinearConcat",
            [C_SCALE, zc, a, A_SCALE, za, b.reshape(1, 4, 1).repeat(3, 0), B_SCALE, zb],
            [quantised(joined, C_SCALE, zc)], {"axis": 2}, constants=(0, 1, 3, 4, 6, 7),
        ),
    }  # fmt: skip


def unary(dtype: Any) -> dict[str, Case]:
    x, (zx, zy, zp) = integers(dtype, 2, 6, 7, 8), zeros(dtype)
    r = dequantised(x, A_SCALE, zx)
    axis = (2, 3)
    mean = off(x, zx).sum(axis) * (A_SCALE / (C_SCALE * F(56)))
    tiny = scale(1 / 256)
    low = np.array(np.iinfo(dtype).min, dtype)
    e = np.exp(r - r.max(3, keepdims=True))
    flat = np.exp(r - r.max((2, 3), keepdims=True))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(r, ((0, 0), (0, 0), (1, 1), (0, 0))), (3, 2), axis
    )[:, :, ::2, ::2]
    operands = [x, A_SCALE, zx, C_SCALE, zy]
    pooled = quantised(windows.mean((4, 5), dtype=F), C_SCALE, zy)
    pool = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0], "count_include_pad": 1}
    last = x.transpose(0, 2, 3, 1).copy()
    largest = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis).max((4, 5))
    return {
        "QLinearLeakyRelu": Case(
            "QLinearLeakyRelu", operands,
            [quantised(np.where(r < 0, r * F(0.2), r), C_SCALE, zy)], {"alpha": 0.2}, quanta=1,
        ),
        "QLinearSigmoid": Case(
            "QLinearSigmoid", [x, A_SCALE, zx, tiny, zp],
            [quantised(1 / (1 + np.exp(-r)), tiny, zp)], quanta=1,
        ),
        "QLinearSoftmax": Case(
            "QLinearSoftmax", [x, A_SCALE, zx, tiny, low],
            [quantised(e / e.sum(3, keepdims=True), tiny, low)], {"axis": 3, "opset": 13}, quanta=1,
        ),
        "QLinearSoftmax of old": Case(
            "QLinearSoftmax", [x, A_SCALE, zx, tiny, low],
            [quantised(flat / flat.sum((2, 3), keepdims=True), tiny, low)],
            {"axis": 2, "opset": 12}, quanta=1,
        ),
        "QLinearGlobalAveragePool": Case(
            "QLinearGlobalAveragePool", operands,
            [quantised(mean.reshape(2, 6, 1, 1), F(1), zy)], quanta=1,
        ),
        "QLinearGlobalAveragePool, channels last": Case(
            "QLinearGlobalAveragePool", [last, *operands[1:]],
            [quantised(mean.reshape(2, 1, 1, 6), F(1), zy)], {"channels_last": 1}, quanta=1,
        ),
        "QLinearAveragePool": Case("QLinearAveragePool", operands, [pooled], pool, quanta=1),
        "QLinearAveragePool, channels last": Case(
            "QLinearAveragePool", [last, *operands[1:]],
            [pooled.transpose(0, 2, 3, 1).copy()], {**pool, "channels_last": 1}, quanta=1,
        ),
        "NhwcMaxPool": Case(
            "NhwcMaxPool", [last], [largest.transpose(0, 2, 3, 1).copy()], {"kernel_shape": [3, 2]}
        ),
        "QuantizeLinear": Case("QuantizeLinear", [r, C_SCALE, zy], [quantised(r, C_SCALE, zy)]),
        "DequantizeLinear": Case("DequantizeLinear", [x, A_SCALE, zx], [r]),
    }  # fmt: skip


def without_peer() -> dict[str, Case]:
    """Operators that ONNX Runtime has no kernel for on CPUs."""
    x, z = integers(np.int8, 3, 4, 5), np.array(-5, np.int8)
    mean = off(x, z).sum((0, 2)) * (A_SCALE / (C_SCALE * F(15)))
    image, w, bias = reals(1, 6, 7, 3), reals(4, 3, 3, 3), reals(4)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (1, 2))
    y = np.einsum("nhwcij,ocij->nhwo", windows, w) + bias
    residual = reals(*y.shape)
    wide = integers(np.uint8, 3, 4, 5)
    return {
        "QLinearReduceMean": Case(
            "QLinearReduceMean", [x, A_SCALE, z, C_SCALE, z], [quantised(mean, F(1), z)],
            {"axes": [0, 2], "keepdims": 0}, quanta=1,
        ),
        "QLinearReduceMean, dimensions kept": Case(
            "QLinearReduceMean", [x, A_SCALE, z, C_SCALE, z],
            [quantised(mean, F(1), z).reshape(1, 4, 1)], {"axes": [0, -1], "keepdims": 1}, quanta=1,
        ),
        "ReduceSumInteger, signed": Case(
            "ReduceSumInteger", [x], [x.sum((0, 1), dtype=np.int32)],
            {"axes": [0, 1], "keepdims": 0},
        ),
        "ReduceSumInteger, unsigned": Case(
            "ReduceSumInteger", [wide], [wide.sum(1, dtype=np.uint32, keepdims=True)],
            {"axes": [1], "keepdims": 1},
        ),
        "NhwcConv": Case("NhwcConv", [image, w, bias], [y], constants=(1, 2)),
        "NhwcFusedConv with an activation": Case(
            "NhwcFusedConv", [image, w, bias, residual], [np.maximum(y + residual, 0)],
            {"activation": "Relu"}, constants=(1, 2),
        ),
        "NhwcFusedConv without": Case("NhwcFusedConv", [image, w], [y - bias], constants=(1,)),
        "MatMulInteger16, unsigned": Case(
            "MatMulInteger16", [wide.astype(np.uint16), wide[0].T.astype(np.uint16)],
            [wide.astype(np.uint32) @ wide[0].T.astype(np.uint32)],
        ),
    }  # fmt: skip


def products(left: Any, right: Any, cut: int = 1) -> dict[str, Case]:
    """A contraction of 40, in which the sums are far beyond 16 bits; weights divided by `cut`."""
    a, b = integers(left, 3, 40), integers(right, 40, 6) // cut
    za, zb = zeros(left)[0], integers(right, 6)
    sb = (0.02 + RNG.random(6) / 50).astype(F)
    total = (off(a, za) @ off(b, zb)).astype(np.int32)
    bias, c = reals(6), integers(np.int8, 6).astype(np.int32) * 100
    zy = zeros(left)[2]
    sy = scale(0.9)
    factor = A_SCALE * sb
    x = reals(2, 3, 40)
    xs = F((max(x.max(), 0) - min(x.min(), 0)) / F(255))
    xz = np.clip(np.rint(-x.min() / xs), 0, 255).astype(np.uint8)
    dynamic = (off(quantised(x, xs, xz), xz) @ off(b, zb)).astype(F) * (xs * sb)
    return {
        "QGemm": Case(
            "QGemm", [a, A_SCALE, za, b.T.copy(), sb, zb, c, sy, zy],
            [quantised((total + c).astype(F) * (F(0.5) * A_SCALE * sb / sy), F(1), zy)],
            {"alpha": 0.5, "transB": 1}, constants=(3, 4, 5), quanta=1,
        ),
        "QGemm to floats": Case(
            "QGemm", [a.T.copy(), A_SCALE, za, b, B_SCALE, np.array(zb[0]), None],
            [(off(a, za) @ off(b, zb[0])).astype(F) * (A_SCALE * B_SCALE)], {"transA": 1},
        ),
        "MatMulIntegerToFloat": Case(
            "MatMulIntegerToFloat", [a, b, A_SCALE, sb, za, zb, bias],
            [total.astype(F) * factor + bias], constants=(1, 3, 5),
        ),
        "MatMulIntegerToFloat, plain": Case(
            "MatMulIntegerToFloat", [a, b, A_SCALE, B_SCALE],
            [(a.astype(np.int64) @ b.astype(np.int64)).astype(F) * (A_SCALE * B_SCALE)],
        ),
        "DynamicQuantizeMatMul": Case(
            "DynamicQuantizeMatMul", [x, b, sb, zb, bias], [dynamic + bias], constants=(1, 2, 3)
        ),
    }  # fmt: skip


def sixteen() -> dict[str, Case]:
    a, b = integers(np.int16, 2, 3, 8) // 8, integers(np.int16, 8, 4) // 8
    want = a.astype(np.int32) @ b.astype(np.int32)
    cases = {"MatMulInteger16": Case("MatMulInteger16", [a, b], [want])}
    for dtype in (np.uint16, np.int16):
        x, z, s = reals(3, 50) * 30, np.array(100, dtype), scale(0.0005)
        y = quantised(x, s, z)
        cases[f"QuantizeLinear {np.dtype(dtype)}"] = Case("QuantizeLinear", [x, s, z], [y])
        cases[f"DequantizeLinear {np.dtype(dtype)}"] = Case(
            "DequantizeLinear", [y, s, z], [dequantised(y, s, z)]
        )
    columns = (0.01 + RNG.random(5)).astype(F)
    x, z = reals(4, 5, 6) * 20, integers(np.uint8, 5)
    y = quantised(x, columns[:, None], z[:, None])
    cases["QuantizeLinear per axis"] = Case("QuantizeLinear", [x, columns, z], [y], {"axis": 1})
    return cases


def convolutions(cut: int = 1) -> dict[str, Case]:
    x, w = integers(np.uint8, 2, 5, 6, 7), integers(np.int8, 8, 5, 3, 3) // cut
    zx, zw, zy = np.array(120, np.uint8), np.zeros(8, np.int8), np.array(128, np.uint8)
    sw, sy = (0.01 + RNG.random(8) / 50).astype(F), scale(0.5)
    bias = RNG.integers(-5000, 5000, 8).astype(np.int32)
    padded = np.pad(off(x, zx), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    total = np.einsum("nchwij,ocij->nohw", windows, off(w, zw[0])) + bias[:, None, None]
    y = quantised(total.astype(F) * (A_SCALE * sw / sy)[:, None, None], F(1), zy)
    operands = [x, A_SCALE, zx, w, sw, zw, sy, zy, bias]
    pads = {"pads": [1, 1, 1, 1]}
    last = [x.transpose(0, 2, 3, 1).copy(), *operands[1:]]
    return {
        "QLinearConv": Case("QLinearConv", operands, [y], pads, constants=range(1, 9)),
        "QLinearConv, channels last": Case(
            "QLinearConv", last, [y.transpose(0, 2, 3, 1).copy()],
            {**pads, "channels_last": 1}, constants=range(1, 9),
        ),
    }  # fmt: skip


CASES = {
    **{f"{name} {np.dtype(d)}": c for d in (np.uint8, np.int8) for name, c in binary(d).items()},
    **{f"{name} {np.dtype(d)}": c for d in (np.uint8, np.int8) for name, c in unary(d).items()},
    **{f"{n} u8 s8": c for n, c in products(np.uint8, np.int8).items()},
    **{f"{n} u8 u8": c for n, c in products(np.uint8, np.uint8).items()},
    **{f"{n} s8 s8": c for n, c in products(np.int8, np.int8).items()},
    **sixteen(),
    **convolutions(),
    **{name: replace(case, peer=False) for name, case in without_peer().items()},
}


# Sums of two products of bytes that fit 16 bits: in ONNX Runtime they saturate where the processor
# has no instruction for sums of four.
NARROW = {
    **{f"{n} u8 s8": c for n, c in products(np.uint8, np.int8, cut=2).items()},
    **{f"{n} s8 s8": c for n, c in products(np.int8, np.int8, cut=2).items()},
    **convolutions(cut=2),
}


@by_case(CASES)
def test_results_are_those_of_the_formula(case):
    case.assert_close(case.ours(), case.want)


@by_case({**CASES, **NARROW}, peer=True)
def test_results_are_those_of_onnx_runtime(case):
    case.assert_close(case.ours(), case.onnx_runtime())


def test_four_bit_elements():
    x, z = reals(3, 20) * 4, np.array(7, ml_dtypes.uint4)
    y = np.clip(np.rint(x / A_SCALE / 20) + 7, 0, 15).astype(ml_dtypes.uint4)
    case = Case("QuantizeLinear", [x, A_SCALE * F(20), z], [y], constants=(1, 2))
    assert (case.ours()[0] == y).mean() > 0.99  # ties fall where the rounding of the scale says


def test_a_scale_per_column_of_the_activations_is_refused():
    a, b = integers(np.uint8, 3, 4), integers(np.uint8, 4, 5)
    case = Case("MatMulIntegerToFloat", [a, b, np.ones(4, F), B_SCALE], [reals(3, 5)])
    with pytest.raises(UnsupportedError, match="per column of A"):
        case.ours()
