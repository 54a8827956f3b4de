"""Operators of com.microsoft: plain formulas, whole graphs in one region, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from microsoft_formulas import (
    HEADS,
    SHARED,
    SIZE,
    attended,
    close,
    f32,
    gelu,
    heads_of,
    i32,
    i64,
    layer_norm,
    silu,
    tanh_gelu,
)
from microsoft_models import feeds_of, node_model, run_node
from onnx import helper

import tilth
from tilth.ir.errors import ModelError, UnsupportedError


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
