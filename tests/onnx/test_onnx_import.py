"""Importing: what enters the graph, what is computed on the way, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_helpers import graph, model, op_names, run

from tilth.ir.errors import InputError, LimitError, ModelError, UnsupportedError
from tilth.onnx import import_graph, importer, load_model, supported_ops
from tilth.onnx.context import DataDependentError
from tilth.onnx.specialise import specialise

TWO_INPUTS = """g (float[N,3] x, float[N,M] z) => (float[N,M] y) {
    s = ReduceSum<keepdims = 1>(x)
    y = Add(s, z) }"""


# Binding shapes


def test_symbols_are_bound_by_the_given_shapes():
    g = graph(TWO_INPUTS, shapes={"x": (2, 3), "z": (2, 5)})
    assert [v.shape for v in g.inputs] == [(2, 3), (2, 5)]
    assert g.outputs[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 3), "z": (4, 5)}, "'z', dimension 0: got 4, but 'N' is 2 at input 'x'"),
        ({"x": (2, 4), "z": (2, 5)}, "'x', dimension 1: the model says 3, got 4"),
        ({"x": (2, 3, 1), "z": (2, 5)}, "x: f32\\[N,3\\] has rank 2"),
        ({"x": (2, 3)}, "z: f32\\[N,M\\] has open dimensions"),
        ({"q": (1,)}, "no input 'q'; its inputs are \\['x', 'z'\\]"),
    ],
)
def test_shapes_that_contradict_the_interface(shapes, message):
    with pytest.raises(InputError, match=message):
        graph(TWO_INPUTS, shapes=shapes)


# Evaluating while importing


def test_shape_arithmetic_never_enters_the_graph():
    text = """g (float[N,6] x) => (float[A,B] y) {
        shape = Shape(x)
        zero = Constant<value = int64 {0}>()
        n = Gather(shape, zero)
        axis = Constant<value = int64[1] {0}>()
        row = Unsqueeze(n, axis)
        two = Constant<value = int64[1] {2}>()
        rows = Mul(row, two)
        rest = Constant<value = int64[1] {-1}>()
        target = Concat<axis = 0>(rows, rest)
        y = Reshape(x, target) }"""
    g = graph(text, shapes={"x": (4, 6)})
    assert [n.op for n in g.nodes] == ["reshape"]
    assert g.outputs[0].shape == (8, 3)


def test_large_weights_are_left_to_the_compiler():
    text = """g (float[2] x) => (float[300,300] y) {
        shape = Constant<value_ints = [300, 300]>()
        ones = ConstantOfShape(shape)
        y = Neg(ones) }"""
    assert op_names(graph(text)) == ["broadcast_in_dim", "negate"]


def test_a_shape_that_is_data_is_refused_with_the_input_it_follows_from():
    text = "g (float[6] x, int64[2] s) => (float[A,B] y) { y = Reshape(x, s) }"
    with pytest.raises(DataDependentError, match="target shape depends on what is fed to s") as e:
        graph(text)
    assert e.value.inputs == ("s",)


def test_fixing_an_inputs_value_makes_shapes_that_depend_on_it_static():
    text = "g (float[6] x, int64[2] s) => (float[A,B] y) { y = Reshape(x, s) }"
    feeds = {"x": np.arange(6, dtype=np.float32), "s": np.array([3, 2])}
    special = specialise(load_model(model(text)), feeds)
    assert special.graph.outputs[0].shape == (3, 2)
    assert list(special.fixed) == ["s"]
    assert special.serves(feeds)
    assert not special.serves({**feeds, "s": np.array([2, 3])})


# Refusing


def test_all_unsupported_operators_are_listed_in_one_error():
    text = """g (float[2] x, bool c) => (float[2] y) {
        a = custom.Frobnicate(x)
        [second] b = custom.Frobnicate(a)
        y = If(c) <
          then_branch = then () => (float[2] t) { t = Gradient(b) },
          else_branch = other () => (float[2] e) { e = Relu(b) }> }"""
    with pytest.raises(UnsupportedError) as caught:
        import_graph(model(text, opset=20, custom=3))
    message = str(caught.value)
    assert "custom::Frobnicate (opset 3): a, second" in message
    assert "ai.onnx::Gradient (opset 20): t" in message
    assert "Relu" not in message


def test_an_opset_of_the_future():
    with pytest.raises(UnsupportedError, match=r"opset 999 of 'ai\.onnx'"):
        graph("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=999)


def test_operands_that_do_not_fit_name_the_node():
    text = "g (float[2,3] x, float[4,5] z) => (float[2,5] y) { [mm] y = MatMul(x, z) }"
    with pytest.raises(ModelError, match=r"node 'mm' \(MatMul\)"):
        graph(text)


def test_a_missing_operand_names_the_node():
    text = "g (float[2,3] x) => (float[2,5] y) { [mm] y = MatMul(x) }"
    with pytest.raises(ModelError, match=r"node 'mm' \(MatMul\)"):
        graph(text)


def test_an_operator_set_that_is_not_imported():
    text = "g (float[2] x) => (float[2] y) { [odd] y = ai.onnx.ml.Binarizer(x) }"
    with pytest.raises(ModelError, match=r"'odd'.*no version of operator set 'ai\.onnx\.ml'"):
        graph(text)


def test_an_output_of_another_type_than_declared():
    with pytest.raises(ModelError, match="output 'y' is declared as y: f32"):
        graph("g (int64[2] x) => (float[2] y) { y = Neg(x) }")


# Provenance


def test_nodes_carry_the_name_of_their_onnx_node():
    text = "g (float[2,3] x) => (float[2,3] y) { [scaled] y = Shrink<lambd = 0.1>(x) }"
    assert {n.name for n in graph(text).nodes if n.op != "constant"} == {"scaled"}


def test_a_node_without_a_name_is_called_by_its_operator_and_output():
    g = graph("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert [n.name for n in g.nodes] == ["Relu_y"]


def test_the_source_line_comes_from_the_exporters_stack_trace():
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    trace = (
        'File "net.py", line 3, in f\n  a\nFile "layer.py", line 8, in forward\n    return x.relu()'
    )
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    assert import_graph(proto).nodes[0].source == "layer.py:8: return x.relu()"


# Functions

SCALE_AND_SHIFT = """
<domain: "local", opset_import: ["" : 20]>
affine <scale: float = 2.0>(x, bias) => (y) {
    s = Constant<value_float: float = @scale>()
    scaled = Mul(x, s)
    y = Add(scaled, bias)
}"""


def with_function(body: str, function: str = SCALE_AND_SHIFT):
    return model(body + function, opset=20, local=1)


def test_local_functions_are_inlined_with_their_attributes():
    body = "g (float[2] x) => (float[2] y) { y = local.affine<scale = 3.0>(x, x) }"
    (y,) = run(with_function(body), np.array([1, 2], np.float32))
    assert y.tolist() == [4, 8]


def test_a_function_attribute_has_its_default():
    body = "g (float[2] x) => (float[2] y) { y = local.affine(x, x) }"
    (y,) = run(with_function(body), np.array([1, 2], np.float32))
    assert y.tolist() == [3, 6]


def test_a_function_that_calls_itself():
    function = """<domain: "local", opset_import: ["" : 20, "local" : 1]>
    loop (x) => (y) { y = local.loop(x) }"""
    body = "g (float[2] x) => (float[2] y) { y = local.loop(x) }"
    with pytest.raises(ModelError, match="'loop' calls itself"):
        import_graph(with_function(body, function))


def test_functions_that_double_at_each_level_end_in_an_error(monkeypatch):
    monkeypatch.setattr(importer, "_NODE_FLOOR", 1000)
    levels = "".join(
        f"""<domain: "local", opset_import: ["" : 20, "local" : 1]>
        f{i} (x) => (y) {{ a = local.f{i + 1}(x) y = local.f{i + 1}(a) }}"""
        for i in range(30)
    )
    last = '<domain: "local", opset_import: ["" : 20]> f30 (x) => (y) { y = Relu(x) }'
    body = "g (float[2] x) => (float[2] y) { y = local.f0(x) }"
    with pytest.raises(LimitError, match="far more nodes"):
        import_graph(with_function(body, levels + last))


def test_operators_with_a_handler_are_listed_for_the_documentation():
    ops = {(domain, name): since for domain, name, since in supported_ops()}
    assert ops["", "Softmax"] == (1, 13)
    assert ("ai.onnx.preview.training", "Adam") in ops
