"""Sessions of models with maps and lists at their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_helpers import model

import tilth.onnx.session as ort

_MAPS = {
    "floats by name": (TensorProto.STRING, TensorProto.FLOAT),
    "integers by number": (TensorProto.INT64, TensorProto.INT64),
    "strings by number": (TensorProto.INT64, TensorProto.STRING),
    "bools by name": (TensorProto.STRING, TensorProto.BOOL),
}


def of_map(kind: str, op_type: str, result: int, **attrs: Any) -> ort.InferenceSession:
    """A model of one node that reads a map."""
    key, value = _MAPS[kind]
    map_type = helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, []))
    fed = onnx.ValueInfoProto(name="x")
    fed.type.CopyFrom(map_type)
    node = helper.make_node(op_type, ["x"], ["y"], domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph(
        [node], "g", [fed], [helper.make_tensor_value_info("y", result, None)]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return ort.InferenceSession(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def test_a_dictionary_becomes_a_row_in_the_order_of_the_vocabulary():
    s = of_map(
        "floats by name", "DictVectorizer", TensorProto.FLOAT, string_vocabulary=["a", "c", "b"]
    )
    assert s.get_inputs()[0].type == "map(string,tensor(float))"
    (y,) = s.run(None, {"x": {"a": 4.0, "b": 8.0, "unknown": 1.0}})
    assert (y.tolist(), y.dtype) == ([[4, 0, 8]], np.float32)


def test_a_dictionary_of_integers_by_number():
    s = of_map("integers by number", "DictVectorizer", TensorProto.INT64, int64_vocabulary=[30, 10])
    assert s.run(None, {"x": {10: 1, 30: 3}})[0].tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({}, [[1.0, 2.0]]),
        ({"map_form": "SPARSE", "max_map": 4}, [[0.0, 1.0, 0.0, 2.0]]),
    ],
)
def test_a_map_is_cast_to_a_row(attrs, expected):
    s = of_map("strings by number", "CastMap", TensorProto.FLOAT, cast_to="TO_FLOAT", **attrs)
    assert s.run(None, {"x": {3: "2", 1: "1"}})[0].tolist() == expected


@pytest.mark.parametrize("fed", [[1.0], {"a": "text"}, None])
def test_what_is_no_such_dictionary_is_an_invalid_argument(fed):
    s = of_map("floats by name", "DictVectorizer", TensorProto.FLOAT, string_vocabulary=["a"])
    with pytest.raises(ort.InvalidArgument, match="input 'x'"):
        s.run(None, {"x": fed})


def test_a_dictionary_of_other_values_is_no_valid_model():
    with pytest.raises(ort.InvalidGraph, match="DictVectorizer takes"):
        of_map("bools by name", "DictVectorizer", TensorProto.FLOAT, string_vocabulary=["a"])


ZIPPED = """agraph (float[n,2] x) => (seq(map(int64, float)) y, float[n,2] z)
            {{ z = Neg(x) y = ai.onnx.ml.ZipMap <{}> (z) }}"""


@pytest.mark.parametrize(
    ("attribute", "labels"),
    [("classlabels_int64s = [7, 9]", [7, 9]), ('classlabels_strings = ["a", "b"]', ["a", "b"])],
)
def test_scores_become_a_dictionary_per_row(attribute, labels):
    s = ort.InferenceSession(model(ZIPPED.format(attribute), **{"ai.onnx.ml": 3}))
    assert s.get_outputs()[0].type == "seq(map(int64,tensor(float)))"
    x = np.array([[1, 2], [3, 4]], np.float32)
    for _ in range(2):  # the second run takes the short way
        y, z = s.run(None, {"x": x})
        assert y == [dict(zip(labels, row, strict=True)) for row in (-x).tolist()]
        assert np.array_equal(z, -x)
    assert s.run(["y"], {"x": x[:0]}) == [[]]


def test_labels_must_be_as_many_as_scores():
    text = ZIPPED.format("classlabels_int64s = [7]")
    s = ort.InferenceSession(model(text, **{"ai.onnx.ml": 3}))
    with pytest.raises(ort.Fail, match="2 columns, but 1 labels"):
        s.run(None, {"x": np.zeros((1, 2), np.float32)})


def test_a_list_of_outputs_is_a_list():
    text = """agraph (float[n] x) => (seq(float[n]) y, float[n] a)
              { a = Neg(x) b = Add(x, x) y = SequenceConstruct(a, b) }"""
    y, a = ort.InferenceSession(model(text)).run(None, {"x": np.array([1, 2], np.float32)})
    assert [array.tolist() for array in y] == [[-1, -2], [2, 4]]
    assert a.tolist() == [-1, -2]


def test_lists_are_fed_as_sequences_and_none_as_an_empty_optional():
    text = """agraph (seq(float[n]) x, optional(float[n]) o) => (float[n] y, bool b)
              { k = Constant <value_int = 1> () y = SequenceAt(x, k) b = OptionalHasElement(o) }"""
    s = ort.InferenceSession(model(text))
    assert [a.type for a in s.get_inputs()] == ["seq(tensor(float))", "optional(tensor(float))"]
    one, two = np.array([1], np.float32), np.array([2, 3], np.float32)
    y, b = s.run(None, {"x": [one, two], "o": None})
    assert (y.tolist(), bool(b)) == ([2, 3], False)
    with pytest.raises(ort.InvalidArgument, match="cannot take a ndarray"):
        s.run(None, {"x": two, "o": None})


def test_a_shape_that_depends_on_data_is_found_when_it_runs():
    s = ort.InferenceSession(model("agraph (float[n] x) => (int64[1,m] y) { y = NonZero(x) }"))
    for fed, found in (([0, 1, 2], [[1, 2]]), ([3, 0], [[0]]), ([0], [[]])):
        assert s.run(None, {"x": np.array(fed, np.float32)})[0].tolist() == found
