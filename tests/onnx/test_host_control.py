"""Control flow and maps on the host, where bodies or results have no static types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.parser
import pytest
from onnx_helpers import model

import tilth
import tilth.onnx.session as ort

FLOAT, INT64, STRING = 1, 7, 8
X = np.array([[[1, -2, 3], [-1, 0, -1]], [[-4, 1, 1], [2, 2, 2]]], np.float32)

# Adds the sum of a row to the state, twice where it is not above zero: If has two shapes.
BODY = """body (float state, float[n] row) => (float new, float out) {
    zero = Constant<value=float {0.0}>()
    sum = ReduceSum<keepdims=0>(row)
    over = Greater(sum, zero)
    kept = If (over) <
        then_branch = t () => (float[p] a) { a = Identity(row) },
        else_branch = e () => (float[q] b) { b = Concat<axis=0>(row, row) }>
    total = ReduceSum<keepdims=0>(kept)
    new = Add(state, total)
    out = Identity(new)
}"""


def running(rows: np.ndarray) -> np.ndarray:
    sums = rows.sum(1)
    return np.cumsum(np.where(sums > 0, sums, 2 * sums))


def tensors(*ports: tuple[str, int, list]) -> list[onnx.ValueInfoProto]:
    return [oh.make_tensor_value_info(*port) for port in ports]


def batched_scan(lengths: bool = False, **attributes: object) -> onnx.ModelProto:
    """Scan as of opset 8: state h [b], sequences x [b, t, n]."""
    names = ["len" if lengths else "", "h", "x"]
    body = onnx.parser.parse_graph(BODY)
    node = oh.make_node("Scan", names, ["last", "ys"], body=body, num_scan_inputs=1, **attributes)
    inputs = tensors(("h", FLOAT, ["b"]), ("x", FLOAT, ["b", "t", "n"]))
    inputs += tensors(("len", INT64, ["b"])) if lengths else []
    outputs = tensors(("last", FLOAT, ["b"]), ("ys", FLOAT, ["b", "t"]))
    graph = oh.make_graph([node], "g", inputs, outputs)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 8)], ir_version=4)


def ml_model(nodes: list, inputs: list, outputs: list) -> onnx.ModelProto:
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("ai.onnx.ml", 3)]
    graph = oh.make_graph(nodes, "g", inputs, outputs)
    return oh.make_model(graph, opset_imports=opsets, ir_version=8)


def of_maps(name: str, key: int = STRING, sequence: bool = True) -> onnx.ValueInfoProto:
    kind = oh.make_map_type_proto(key, oh.make_tensor_type_proto(FLOAT, []))
    return oh.make_value_info(name, oh.make_sequence_type_proto(kind) if sequence else kind)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_batch_is_scanned_element_by_element(backwards: bool):
    proto = batched_scan(directions=[int(backwards)])
    last, ys = tilth.load(proto)({"h": np.zeros(2, np.float32), "x": X}).values()
    expected = [running(rows[::-1] if backwards else rows) for rows in X]
    np.testing.assert_allclose(ys, expected)
    np.testing.assert_allclose(last, [e[-1] for e in expected])


def test_elements_of_a_batch_have_lengths_of_their_own():
    feeds = {"h": np.ones(2, np.float32), "x": X, "len": np.array([1, 2])}
    last, ys = tilth.load(batched_scan(lengths=True))(feeds).values()
    first, second = 1 + running(X[0]), 1 + running(X[1])
    np.testing.assert_allclose(ys, [[first[0], 0], second])
    np.testing.assert_allclose(last, [first[0], second[-1]])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_scan_with_a_body_that_depends_on_data(length: int):
    text = f"g (float h, float[t,n] x) => (float last, float[t] ys) {{ last, ys = Scan<num_scan_inputs=1, body = {BODY}>(h, x) }}"  # noqa: E501
    feeds = {"h": np.zeros((), np.float32), "x": X[0, :length]}
    last, ys = tilth.load(model(text))(feeds).values()
    np.testing.assert_allclose(ys, running(X[0, :length]))
    assert last == (running(X[0, :length])[-1] if length else 0)


def test_slices_of_a_vector_are_scalars():
    text = """g (float h, float[t] x) => (float last) {
        last = Scan<num_scan_inputs=1, body = b (float s, float e) => (float new) {
            found = NonZero(e)
            count = Size(found)
            number = Cast<to=1>(count)
            new = Add(s, number)
        }>(h, x)
    }"""
    x = np.array([1, 0, 3], np.float32)
    assert tilth.load(model(text))({"h": np.zeros((), np.float32), "x": x})["last"] == 2


def test_a_branch_may_give_a_sequence():
    text = """g (bool c, float[n] x) => (float[m] y) {
        items = If (c) <
            then_branch = t () => (seq(float[n]) a) { a = SequenceConstruct(x, x) },
            else_branch = e () => (seq(float[n]) b) { z = Neg(x) b = SequenceConstruct(z) }>
        y = ConcatFromSequence<axis=0>(items)
    }"""
    run = tilth.load(model(text))
    x = np.array([1, 2], np.float32)
    assert run({"c": np.array(True), "x": x})["y"].tolist() == [1, 2, 1, 2]
    assert run({"c": np.array(False), "x": x})["y"].tolist() == [-1, -2]


def test_a_map_for_each_row():
    zip_map = oh.make_node(
        "ZipMap", ["f"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]
    )
    nodes = [
        oh.make_node("NonZero", ["x"], ["found"]),
        oh.make_node("Transpose", ["found"], ["pairs"]),
        oh.make_node("Cast", ["pairs"], ["f"], to=FLOAT),
        zip_map,
        oh.make_node("Identity", ["z"], ["y"]),
    ]
    proto = ml_model(nodes, tensors(("x", FLOAT, ["n", "m"])), [of_maps("y")])
    expected = [{"a": 0, "b": 1}, {"a": 1, "b": 0}]
    feeds = {"x": np.array([[0, 2], [3, 0]], np.float32)}
    assert tilth.load(proto)(feeds)["y"] == expected
    assert ort.InferenceSession(proto).run(None, feeds) == [expected]


@pytest.mark.parametrize(
    ("operator", "fed", "expected"),
    [
        (
            oh.make_node("DictVectorizer", ["x"], ["v"], string_vocabulary=["a", "b", "c"]),
            {"c": 1.5, "a": 0.5},
            [[0.5, 0, 1.5]],
        ),
        (oh.make_node("CastMap", ["x"], ["v"]), {4: 1.5, 2: 0.5}, [[0.5, 1.5]]),
        (
            oh.make_node("CastMap", ["x"], ["v"], map_form="SPARSE", max_map=3),
            {2: 1.5, 0: 0.5},
            [[0.5, 0, 1.5]],
        ),
        (
            oh.make_node("CastMap", ["x"], ["v"], cast_to="TO_INT64"),
            {1: 1.5, 0: 2.5},
            [[2, 1]],
        ),
    ],
)
def test_maps_are_fed_as_dictionaries(operator: onnx.NodeProto, fed: dict, expected: list):
    operator.domain = "ai.onnx.ml"
    nodes = [operator, oh.make_node("Identity", ["v"], ["y"])]
    key = STRING if isinstance(next(iter(fed)), str) else INT64
    dtype = INT64 if any(a.name == "cast_to" for a in operator.attribute) else FLOAT
    inputs = [of_maps("x", key, sequence=False)]
    proto = ml_model(nodes, inputs, tensors(("y", dtype, [1, None])))
    run = tilth.load(proto)
    assert run({"x": fed})["y"].tolist() == expected
    assert [h.why for h in run.report.host_ops] == ["it takes or gives a map"]
    with pytest.raises(tilth.InputError, match="cannot take a list"):
        run({"x": [1]})


def test_labels_must_be_as_many_as_columns():
    node = oh.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[1])
    proto = ml_model([node], tensors(("x", FLOAT, ["n", "m"])), [of_maps("z", INT64)])
    run = tilth.load(proto)
    assert run({"x": np.ones((1, 1), np.float32)})["z"] == [{1: 1.0}]
    with pytest.raises(tilth.ModelError, match="2 columns, but 1 labels"):
        run({"x": np.ones((1, 2), np.float32)})
    del node.attribute[:]
    proto = ml_model([node], tensors(("x", FLOAT, ["n", "m"])), [of_maps("z", INT64)])
    with pytest.raises(tilth.ModelError, match="neither classlabels_strings nor"):
        tilth.load(proto)({"x": np.ones((1, 1), np.float32)})
