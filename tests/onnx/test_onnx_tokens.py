"""The Tokenizer of com.microsoft, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilth.onnx.session as ours

onnxruntime = pytest.importorskip("onnxruntime")
TEXTS = np.array(["one two.  three", "", "a-b;c", "über straße.x"], object)


def tokenizer(shape: tuple[int, ...], **attrs: Any) -> bytes:
    attrs = {"mark": 0, "pad_value": "#", "mincharnum": 1} | attrs
    node = helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, shape)],
        [helper.make_tensor_value_info("y", TensorProto.STRING, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


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
    model, x = tokenizer(shape, **attrs), TEXTS.reshape(shape)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    (got,) = ours.InferenceSession(model).run(None, {"x": x})
    assert (got.shape, got.tolist()) == (want.shape, want.tolist())
