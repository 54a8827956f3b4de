"""The text form: readable, and what is printed parses back to an equal graph."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_samples import body, samples, tensor

from tilth.ir.equality import arrays_equal, equal
from tilth.ir.errors import ModelError
from tilth.ir.graph import Graph, inline, make_constant, make_input
from tilth.ir.interpreter import decomposition
from tilth.ir.ops import DECOMPOSE, make, op
from tilth.ir.text import INLINE_ELEMENTS, parse, to_text
from tilth.ir.types import (
    DTYPES,
    OptionalType,
    SequenceType,
    TensorType,
    bf16,
    f32,
    i64,
    string,
)
from tilth.ir.verify import verify


def round_trip(graph: Graph) -> Graph:
    constants: dict[str, np.ndarray] = {}
    return parse(to_text(graph, constants), constants)


def test_the_text_reads_like_this():
    x = tensor(f32, 2, 3)
    half = make_constant(np.float32(0.5))
    scaled = op.multiply(x, half, name="scale", source="model.py:7")
    values, _ = op.top_k(scaled, k=2, axis=1)
    assert (
        to_text(Graph((x,), (values,), ("y",)))
        == """\
graph main(%x: f32[2,3]) {
  %0 = constant {value = dense f32[] [0.5]} : f32[]
  %1 = multiply(%x, %0) : f32[2,3] @ "scale" from "model.py:7"
  %2, %3 = top_k(%1) {k = 2, axis = 1, largest = true} : f32[2,2], i64[2,2]
  return y = %2
}
"""
    )


def test_sub_graphs_are_nested():
    x = tensor(f32, 2)
    fused = body(op.negate, TensorType(f32, (2,)))
    assert (
        to_text(Graph((x,), (op.fusion(x, kind="elementwise", body=fused),)))
        == """\
graph main(%x: f32[2]) {
  %0 = fusion(%x) {kind = "elementwise", body = graph main(%a0: f32[2]) {
    %0 = negate(%a0) : f32[2]
    return output0 = %0
  }} : f32[2]
  return output0 = %0
}
"""
    )


def graph_of_everything() -> Graph:
    inputs, outputs = [], []
    for i, node in enumerate(samples()):
        own = [make_input(v.type, f"{node.op}.{i}/{v.node.name}") for v in node.inputs]
        inputs += own
        outputs += make(node.op, *own, name=f'"{node.op}" {i}', source="a\nb", **node.attrs).outputs
        if node.op in DECOMPOSE:
            outputs += inline(decomposition(node), own)
    return Graph(tuple(inputs), tuple(outputs), name="every op")


def test_a_graph_of_every_op_survives_the_round_trip():
    graph = graph_of_everything()
    back = round_trip(graph)
    assert equal(graph, back)
    assert to_text(back) == to_text(graph)
    verify(back)


@given(
    st.sampled_from([f32, *(d for d in DTYPES.values() if d.kind in ("float", "complex"))]),
    hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(width=32)),
)
@settings(max_examples=60)
def test_float_constants_survive(dtype, array):
    with np.errstate(all="ignore"):
        graph = Graph((), (make_constant(array.astype(dtype.numpy)),))
    assert equal(graph, round_trip(graph))


@given(st.sampled_from([d for d in DTYPES.values() if d.is_integer]), st.data())
@settings(max_examples=60)
def test_integer_constants_survive(dtype, data):
    low = 0 if dtype.kind == "uint" else -(2 ** (dtype.bits - 1))
    high = low + 2**dtype.bits - 1
    numbers = data.draw(st.lists(st.integers(low, high), max_size=INLINE_ELEMENTS))
    wide = np.uint64 if dtype.kind == "uint" else np.int64
    graph = Graph((), (make_constant(np.array(numbers, wide).astype(dtype.numpy)),))
    assert equal(graph, round_trip(graph))


@given(st.lists(st.text(max_size=5), max_size=3))
def test_strings_survive(texts):
    graph = Graph((), (make_constant(np.array(texts, object)),))
    assert equal(graph, round_trip(graph))


@given(st.floats())
def test_float_attributes_survive(alpha):
    graph = Graph((x := tensor(f32, 2),), (op.elu(x, alpha=alpha),))
    assert equal(graph, round_trip(graph))


@given(st.text(), st.text(), st.text())
def test_any_name_survives(graph_name, input_name, output_name):
    x = tensor(f32, 2, name=input_name)
    graph = Graph((x,), (op.negate(x, name=input_name),), (output_name,), graph_name)
    assert equal(graph, round_trip(graph))


@pytest.mark.parametrize(
    "type_",
    [
        TensorType(f32, ("batch", 3, "a + b", "inf")),
        SequenceType(TensorType(bf16, ())),
        OptionalType(SequenceType(TensorType(string, (2,)))),
    ],
)
def test_every_kind_of_type_survives(type_):
    x = make_input(type_, "x")
    assert equal(Graph((x,), (x,)), round_trip(Graph((x,), (x,))))


def test_large_constants_are_kept_beside_the_text():
    array = np.arange(1000.0)
    constants: dict[str, np.ndarray] = {}
    text = to_text(Graph((), (make_constant(array), make_constant(array.copy()))), constants)
    ((digest, kept),) = constants.items()
    assert text.count(digest) == 2
    assert len(text) < 400
    np.testing.assert_array_equal(kept, array)


GOOD = "graph g(%x: f32[2]) {\n  %0 = negate(%x) : f32[2]\n  return y = %0\n}\n"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("graph", "graf", "line 1: expected 'graph', found 'graf"),
        ("f32[2])", "f33[2])", "line 1: expected an attribute value or a dtype"),
        ("(%x)", "(%y)", "line 2: expected a value defined above instead of %y"),
        (": f32[2]\n", ": f32[2], f32[2]\n", "expected 1 types"),
        ("y = %0\n}", "y = %0\n", "expected ','"),
        ("}", "} }", "line 4: expected the end of the text"),
        ("%0\n", "%0 ?\n", "line 3: expected a token"),
        ("negate(%x)", "constant {value = dense f32[2] #abc}", "digest of a known constant"),
    ],
)
def test_broken_text_is_refused_with_its_line(good, bad, message):
    parse(GOOD)
    with pytest.raises(ModelError, match=message):
        parse(GOOD.replace(good, bad, 1))


def test_equal_sees_every_difference():
    def graph(**changes):
        given = {"op": "elu", "alpha": 1.0, "name": "n", "input": "x", "output": "y", "array": 0.0}
        given |= changes
        x = tensor(f32, 2, name=given["input"])
        attrs = {"alpha": given["alpha"]}
        activated = make(given["op"], x, name=given["name"], **attrs).outputs[0]
        result = op.add(activated, make_constant(np.float32(given["array"])))
        return Graph((x,), (result,), (given["output"],))

    assert equal(graph(), graph())
    assert equal(graph(alpha=math.nan), graph(alpha=math.nan))
    for change in (
        {"op": "leaky_relu"},
        {"alpha": 2.0},
        {"alpha": 1},
        {"name": "m"},
        {"input": "z"},
        {"output": "z"},
        {"array": -0.0},
    ):
        assert not equal(graph(), graph(**change))


def test_arrays_are_equal_when_their_bits_are_or_both_are_nan():
    nan = np.array([np.nan], np.float32)
    assert arrays_equal(nan, -nan)
    assert not arrays_equal(nan, 0 * nan.astype(np.float64))
    assert not arrays_equal(np.zeros(1), -np.zeros(1))
    assert not arrays_equal(np.zeros(1, i64.numpy), np.zeros(2, i64.numpy))
