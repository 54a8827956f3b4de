"""Operators of com.microsoft give what ONNX Runtime, whose operators they are, gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from microsoft_models import feeds_of, node_model, run_node

onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
f32, i32, i64 = np.float32, np.int32, np.int64


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


def bits(*shape: int) -> np.ndarray:
    """A mask of 0 and 1 that leaves the first key of every row."""
    mask = (RNG.random(shape) < 0.7).astype(i32)
    mask[..., 0] = 1
    return mask


@dataclass(frozen=True)
class Case:
    """One node. `rows` limits the comparison of outputs after the first along axis 2, per batch
    element."""

    op_type: str
    inputs: list[np.ndarray | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[Any, ...] = (f32,)
    rows: tuple[int, ...] = ()
    domain: str = "com.microsoft"

    def __str__(self) -> str:
        shapes = " ".join("-" if x is None else "x".join(map(str, x.shape)) for x in self.inputs)
        return f"{self.op_type} {shapes} {self.attrs}"


def check(case: Case) -> None:
    proto = node_model(case.op_type, case.inputs, case.outputs, case.domain, **case.attrs)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    want = session.run(None, feeds_of(case.inputs))
    got = run_node(case.op_type, case.inputs, *case.outputs, domain=case.domain, **case.attrs)
    for i, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if i and case.rows:
            ours, theirs = (
                np.concatenate([x[b, :, :n] for b, n in enumerate(case.rows)], 1)
                for x in (ours, theirs)
            )
        np.testing.assert_allclose(ours, theirs, 1e-4, 2e-5)


def products() -> list[Case]:
    cases = [
        Case("FusedMatMul", [f(5, 2, 3, 4), f(6, 2, 3, 5)],
             {"transA": 1, "transB": 1, "transBatchA": 1, "transBatchB": 1}),
        Case("FusedMatMul", [f(4, 2, 3, 5), f(2, 3, 5, 6)], {"transBatchA": 1}),
        Case("FusedMatMul", [f(5), f(6, 5)], {"transB": 1, "alpha": 2.0}),
    ]  # fmt: skip
    for a in (0, 1):
        for b in (0, 1):
            left, right = f(2, 5, 4) if a else f(2, 4, 5), f(2, 6, 5) if b else f(2, 5, 6)
            attrs = {"transA": a, "transB": b, "alpha": 0.5}
            cases += [Case(n, [left, right], attrs) for n in ("FusedMatMul", "TransposeMatMul")]
    of_gemm = {
        "Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (),
        "LeakyRelu": (("alpha", 0.3),), "Elu": (("alpha", 0.7),),
        "ThresholdedRelu": (("alpha", 0.3),), "HardSigmoid": (("alpha", 0.3), ("beta", 0.4)),
        "Selu": (("alpha", 1.6), ("gamma", 1.2)),
    }  # fmt: skip
    for name, parameters in of_gemm.items():
        attrs = {"transB": 1, "alpha": 0.5, "beta": 2.0, "activation": name}
        attrs |= {f"activation_{k}": v for k, v in parameters}
        cases.append(Case("FusedGemm", [f(3, 4), f(5, 4), f(5)], attrs))
    of_conv = {
        "": (), "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": (0.2,), "Clip": (-0.5, 0.7),
        "HardSigmoid": (0.2, 0.5), "HardSwish": (),
    }  # fmt: skip
    for name, numbers in of_conv.items():
        attrs = {"pads": [1] * 4, "kernel_shape": [3, 3]}
        attrs |= {"activation": name} if name else {}
        attrs |= {"activation_params": numbers} if numbers else {}
        inputs = [f(1, 4, 6, 6), f(8, 4, 3, 3), f(8), f(1, 8, 6, 6)]
        cases += [Case("FusedConv", inputs[:n], attrs) for n in (3, 4)]
    return cases


def activations() -> list[Case]:
    x, bias = f(2, 3, 8), f(8)
    return [
        Case("Gelu", [x]),
        Case("BiasGelu", [x, bias]),
        Case("FastGelu", [x]),
        Case("FastGelu", [x, bias]),
        *(Case("QuickGelu", [x], {"alpha": alpha}) for alpha in (1.702, 1.0)),
        Case("ScaledSiLU", [x], {"alpha": 1.3}),
        Case("ScaledSiLU", [x, np.array(0.3, f32)]),
        Case("GatedAdd", [x, f(2, 3, 8), f(2, 3, 1)]),
    ]


def normalizations() -> list[Case]:
    x, line = (2, 3, 8), f(8)
    words, kinds = RNG.integers(0, 10, (2, 4)).astype(i32), RNG.integers(0, 2, (2, 4)).astype(i32)
    tables = [f(10, 8), f(6, 8), f(2, 8)]
    places = np.array([[1, 2, 0, 3]], i32)
    total, epsilon = (f32, None, None, f32), {"epsilon": 1e-5}
    return [
        Case("SkipLayerNormalization", [f(*x), f(*x), line, line, line], epsilon, total),
        Case("SkipLayerNormalization", [f(*x), f(1, 3, 8), line, line]),
        Case("SkipLayerNormalization", [f(*x), f(3, 8), line], {}, total),
        Case("SkipSimplifiedLayerNormalization", [f(*x), f(*x), line, line], epsilon, total),
        Case("SkipSimplifiedLayerNormalization", [f(3, 8), f(3, 8), line]),
        Case("SimplifiedLayerNormalization", [f(*x), line], epsilon, (f32, f32), domain=""),
        Case("SimplifiedLayerNormalization", [f(*x), f(3, 8)], {"axis": 1}, domain=""),
        *(
            Case("GatedRMSNorm", [f(*x), f(4), f(*x)], {"activation": name})
            for name in ("silu", "sigmoid")
        ),
        Case(
            "EmbedLayerNormalization",
            [words, kinds, *tables, line, line, bits(2, 4)],
            epsilon,
            (f32, i32, f32),
        ),
        Case(
            "EmbedLayerNormalization",
            [words, None, *tables[:2], None, line, line, None, places],
            {},
            (f32, i32),
        ),
    ]


def attention() -> list[Case]:
    batch, heads, length, size = 2, 4, 5, 16
    x, weights, bias = f(batch, length, size), f(size, 3 * size) * 0.3, f(3 * size)
    past, present = f(2, batch, heads, 3, size // heads), (f32, f32)
    cases = [
        Case("Attention", [x, weights, bias]),
        Case("Attention", [x, weights, bias, np.array([3, 5], i32)]),
        Case("Attention", [x, weights, bias, np.array([3, 5, 1, 0], i32)]),
        Case("Attention", [x, weights, bias, bits(2, 5)], {"mask_filter_value": -1.0}),
        Case("Attention", [x, weights, bias, bits(2, 5, 5)], {"mask_filter_value": -1.0}),
        Case("Attention", [x, weights, bias, bits(2, 5), None, f(2, 4, 5, 5)]),
        Case("Attention", [x, weights, bias, None, None, f(1, 1, 5, 5)], {"scale": 0.3}),
        Case("Attention", [x, weights, bias], outputs=present),
        Case("Attention", [x, weights, bias, None, past], outputs=present),
        Case("Attention", [x[:, :1], weights, bias, None, past], outputs=present),
        Case("Attention", [x, weights, bias, None, past[:, :, :, :0]], outputs=present),
        Case("Attention", [x, weights, bias, bits(2, 8), past], outputs=present),
        Case("Attention", [x, f(16, 40), f(40)], {"qkv_hidden_sizes": [16, 16, 8]}),
    ]
    for case in cases:
        case.attrs["num_heads"] = heads
    return cases + [
        Case(c.op_type, c.inputs, c.attrs | {"unidirectional": 1}, c.outputs) for c in cases
    ]


def multi_head_attention() -> list[Case]:
    q, k, v = f(2, 5, 16), f(2, 7, 16), f(2, 7, 8)
    own, old = [f(2, 5, 16), f(2, 5, 16)], [f(2, 4, 3, 4), f(2, 4, 3, 4)]
    none = [f(2, 4, 0, 4), f(2, 4, 0, 4)]
    name, present = "MultiHeadAttention", (f32, f32, f32)
    cases = [
        Case(name, [q, k, v]),
        Case(name, [q, k, v, f(40)]),
        Case(name, [q, f(2, 4, 7, 4), f(2, 4, 7, 4), f(48)]),
        Case(name, [q, k, v, None, bits(2, 7)]),
        Case(name, [q, k, v, None, np.array([3, 6], i32)]),
        Case(name, [q, k, v, None, bits(2, 5, 7)]),
        Case(name, [q, k, v, None, None, f(1, 4, 5, 7)], {"scale": 0.2}),
        Case(name, [q, *own, None, bits(2, 5)], outputs=(*present, f32)),
        Case(name, [q, *own], outputs=present),
        Case(name, [q, *own, f(48), bits(2, 8), None, *old], outputs=present),
        Case(name, [q, *own, None, None, None, *none], outputs=present),
        Case(name, [q[:, :1], *(x[:, :1] for x in own), None, None, f(2, 1, 1, 4), *old],
             outputs=present),
    ]  # fmt: skip
    for case in cases:
        case.attrs["num_heads"] = 4
    # Where there are more keys than queries, the last query sees all of them in ONNX Runtime.
    square = [c for c in cases if c.inputs[1].shape[1] == c.inputs[0].shape[1]]
    return cases + [
        Case(c.op_type, c.inputs, c.attrs | {"unidirectional": 1}, c.outputs) for c in square
    ]


HEADS, SHARED, SIZE = 6, 2, 16
KINDS = ({}, {"scale": 0.2}, {"softcap": 1.5}, {"smooth_softmax": 1}, {"causal": 0},
         {"local_window_size": 2}, {"local_window_size": 2, "softcap": 1.0})  # fmt: skip


def grouped(
    batch: int,
    new: int,
    cache: int | None,
    lengths: list[int],
    *extra: np.ndarray | None,
    packed: bool = False,
    **attrs: Any,
) -> Case:
    """A GroupQueryAttention node for sequences that have these lengths afterwards."""
    if packed:
        qkv = [f(batch, new, (HEADS + 2 * SHARED) * SIZE), None, None]
    else:
        qkv = [f(batch, new, n * SIZE) for n in (HEADS, SHARED, SHARED)]
    past = [None if cache is None else f(batch, SHARED, cache, SIZE) for _ in range(2)]
    ends, total = np.array(lengths, i32) - 1, np.array(max(lengths), i32)
    attrs |= {"num_heads": HEADS, "kv_num_heads": SHARED}
    outputs = (f32, f32, f32, *((f32,) if "qk_output" in attrs else ()))
    rows = () if "qk_output" in attrs else tuple(lengths)
    return Case("GroupQueryAttention", [*qkv, *past, ends, total, *extra], attrs, outputs, rows)


def group_query_attention() -> list[Case]:
    cases = [
        grouped(1, 5, None, [5], packed=True),
        grouped(2, 5, 8, [5, 5]),
        grouped(2, 5, 0, [5, 5]),
        grouped(2, 5, None, [5, 5], None, None, None, f(2, 1, 5, 5)),
        grouped(2, 5, None, [5, 5], None, None, None, f(1, HEADS, 5, 5), softcap=1.0),
        grouped(2, 5, None, [5, 5], None, None, None, None, f(HEADS)),
        grouped(2, 1, 6, [6, 4], None, None, None, None, f(HEADS)),
        *(grouped(2, 5, None, [5, 5], qk_output=n, softcap=c) for n in (1, 2) for c in (0.0, 1.0)),
    ]
    for kind in KINDS:
        cases += [
            grouped(2, 5, None, [5, 5], **kind),
            grouped(2, 1, 4, [5, 5], **kind),
            grouped(2, 1, 8, [5, 3], **kind),
            grouped(1, 3, 4, [7], **kind),
        ]
    tables, some = [f(20, SIZE // 2), f(20, SIZE // 2)], np.array([[2], [7]], i64)
    for interleaved in (0, 1):
        turn = {"do_rotary": 1, "rotary_interleaved": interleaved}
        cases += [
            grouped(2, 5, None, [5, 5], *tables, **turn),
            grouped(2, 5, None, [5, 5], *tables, packed=True, **turn),
            grouped(2, 1, 6, [6, 4], *tables, **turn),
            grouped(1, 3, 4, [7], *tables, **turn),
            grouped(2, 1, 6, [6, 4], *tables, some, **turn),
            grouped(1, 3, None, [3], *tables, np.array([[2, 5, 6]], i64), **turn),
        ]
    return cases


def rotary() -> list[Case]:
    tables, name = [f(10, 4), f(10, 4)], "RotaryEmbedding"
    places, first = np.array([[0, 1, 2], [3, 4, 9]], i64), np.array([4], i64)
    part = {"num_heads": 3, "rotary_embedding_dim": 8}
    return [
        case
        for way in ({}, {"interleaved": 1})
        for case in (
            Case(name, [f(2, 3, 24), places, *tables], way),
            Case(name, [f(2, 5, 3, 8), first, *tables], way | {"scale": 2.0}),
            Case(name, [f(2, 3, 48), first, *tables], way | part),
            Case(name, [f(2, 3, 3, 16), first, *tables], way | part),
        )
    ]


def multimodal_rotary() -> list[Case]:
    tables, places = [f(10, 6), f(10, 6)], RNG.integers(0, 10, (3, 2, 4)).astype(i64)
    whole, part = {"num_heads": 2}, {"num_heads": 3, "rotary_embedding_dim": 12}
    return [
        Case(
            "MRotaryEmbedding",
            [x, places, *tables],
            heads | {"mrope_layout": layout, "mrope_section": counts, "interleaved": layout},
        )
        for x, heads in ((f(2, 4, 24), whole), (f(2, 3, 4, 16), part))
        for layout, counts in ((0, [2, 1, 3]), (1, [2, 2, 2]), (1, [3, 2, 1]), (0, [6, 0, 0]))
    ]


def linear_attention() -> list[Case]:
    both, key, value, beta = (f32, f32), f(2, 4, 16) / 3, f(2, 4, 12), RNG.random((2, 4, 2))
    decays = [-RNG.random((2, 4, n)).astype(f32) for n in (2, 16)]
    past, beta, name = f(2, 2, 8, 6), beta.astype(f32), "LinearAttention"
    gates = {
        "linear": [[]], "gated": [[d] for d in decays], "delta": [[None, beta]],
        "gated_delta": [[decays[0], beta], [decays[1], beta[:, :, :1]]],
    }  # fmt: skip
    return [
        Case(
            name,
            [f(2, 4, heads * 8), key, value, state, *gate],
            {"update_rule": rule, "q_num_heads": heads, "kv_num_heads": 2},
            both,
        )
        for rule, choices in gates.items()
        for gate in choices
        for heads, state in ((2, None), (4, past), (1, past))
    ]


def causal_convolution() -> list[Case]:
    x, w, bias, both = f(2, 6, 5), f(6, 1, 3), f(6), (f32, f32)
    name, silu = "CausalConvWithState", {"activation": "silu"}
    return [
        Case(name, [x, w], outputs=both),
        Case(name, [x, w, bias, f(2, 6, 2)], silu, both),
        Case(name, [x[:, :, :1], w, bias, f(2, 6, 4)], {"dilation": 2}, both),
        Case(name, [f(2, 5, 6), w, None, f(2, 2, 6)], {"channels_last": 1}, both),
        Case(name, [f(2, 5, 2, 3), w, bias, f(2, 2, 2, 3)], silu | {"channels_last": 1}, both),
    ]


def others() -> list[Case]:
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [-0.2, 0.3, 1.3, 0.5]], f32)
    tokens = np.array([[1, 2, 3, 1, 2, 4, 1, 2], [5] * 8], i64)
    grid = (RNG.random((1, 4, 3, 2)) * 2.4 - 1.2).astype(f32)
    regular = f(2, 3, 4, 4) + 3 * np.eye(4, dtype=f32)
    return [
        Case("GatherND", [f(2, 3, 4), np.array([[0, 1], [1, -2]], i32)]),
        Case("Pad", [f(3, 4), np.array([1, 2, 0, 1], i64), np.array([2.0], f32)]),
        Case("Pad", [f(3, 4), np.array([1, 2, 0, 1], i64)], {"mode": "reflect"}),
        Case("Trilu", [f(3, 4, 4), np.array(1, i64)], {"upper": 0}),
        *(
            Case("GridSample", [f(1, 2, 5, 6), grid], {"mode": m})
            for m in ("bilinear", "nearest", "bicubic")
        ),
        Case("Range", [np.array(1.0, f32), np.array(5.0, f32)]),
        Case("Range", [np.array([n], i64) for n in (1, 7, 2)], outputs=(i64,)),
        Case("ExpandDims", [f(3, 4), np.array(-1, i32)]),
        Case(
            "ConvTransposeWithDynamicPads",
            [f(1, 3, 5, 5), f(3, 2, 3, 3), np.array([1, 1, 0, 1], i64), f(2)],
            {"strides": [2, 2]},
        ),
        Case("UnfoldTensor", [f(2, 7, 3)], {"dim": 1, "size": 3, "step": 2}),
        *(Case("NGramRepeatBlock", [tokens, f(2, 8)], {"ngram_size": n}) for n in (1, 2, 3, 9)),
        Case("Inverse", [regular]),
        Case("Inverse", [np.eye(4, dtype=f32)[[2, 0, 3, 1]]]),
        *(
            Case(
                "CropAndResize",
                [f(2, 3, 6, 7), boxes, np.array([0, 1, 1], i32), np.array(size, i32)],
                {"mode": mode, "extrapolation_value": -1.5},
            )
            for mode in ("bilinear", "nearest")
            for size in ([3, 4], [1, 1])
        ),
    ]


@pytest.mark.parametrize(
    "case",
    [
        *products(),
        *activations(),
        *normalizations(),
        *rotary(),
        *multimodal_rotary(),
        *linear_attention(),
        *causal_convolution(),
        *others(),
    ],
    ids=str,
)
def test_a_node_gives_what_onnx_runtime_gives(case):
    check(case)


@pytest.mark.parametrize("case", [*attention(), *multi_head_attention()], ids=str)
def test_attention_gives_what_onnx_runtime_gives(case):
    check(case)


@pytest.mark.parametrize("case", group_query_attention(), ids=str)
def test_grouped_attention_gives_what_onnx_runtime_gives(case):
    """Caches are compared as far as there is something in them."""
    check(case)
