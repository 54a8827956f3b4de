"""Operators of com.microsoft on text and features, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilth.onnx.session as ours

onnxruntime = pytest.importorskip("onnxruntime")
TEXTS = np.array(["one two.  three", "", "a-b;c", "über straße.x"], object)


_TYPES = {
    np.dtype(object): TensorProto.STRING,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
}


def results(op_type: str, *inputs: np.ndarray, to: int, **attrs: Any) -> list[np.ndarray]:
    """What ONNX Runtime and we give for a model of one node."""
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(op_type, names, ["y"], domain="com.microsoft", **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, _TYPES[x.dtype], x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("y", to, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = dict(zip(names, inputs, strict=True))
    return [
        runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feeds
        )[0]
        for runtime in (onnxruntime, ours)
    ]


@pytest.mark.parametrize(
    "attrs",
    [
        {"separators": [" ", "[.]"]},
        {"separators": [" ", "[.]"], "mark": 1},
        {"separators": [" ", "[.]", ";", "-"], "mincharnum": 2},
        {"separators": [""]},
        {"separators": [""], "mark": 1},
        {"separators": ["o t", "t"]},
        {"separators": ["t", "o t"]},
        {"separators": [" +"]},
        {"tokenexp": "[a-z]+"},
        {"tokenexp": "[a-zA-Z0-9_]+", "mincharnum": 3, "mark": 1},
        {"tokenexp": "."},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_tokens_are_those_of_onnx_runtime(attrs, shape):
    attrs = {"mark": 0, "pad_value": "#", "mincharnum": 1} | attrs
    want, got = results("Tokenizer", TEXTS.reshape(shape), to=TensorProto.STRING, **attrs)
    assert (got.shape, got.tolist()) == (want.shape, want.tolist())


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_of_all_rows(rng, metric, dtype):
    x, y = (rng.standard_normal((n, 5)).astype(dtype) for n in (7, 4))
    to = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
    want, got = results("CDist", x, y, to=to, metric=metric)
    np.testing.assert_allclose(got, want, 1e-4)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("seed", [0, 42])
def test_hashes_of_strings_and_numbers(positive, seed):
    to = TensorProto.UINT32 if positive else TensorProto.INT32
    keys = [TEXTS, np.array([[3, -4], [5, 2**31 - 1]], np.int32), np.array([3, -(2**40)])]
    for x in keys:
        want, got = results("MurmurHash3", x, to=to, positive=positive, seed=seed)
        assert (got.dtype, got.tolist()) == (want.dtype, want.tolist())
