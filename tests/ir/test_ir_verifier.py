"""The verifier: every rule of a graph, broken once; the error names the node."""

from dataclasses import replace

import numpy as np
import pytest
from ir_samples import body, graph_of, samples, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.graph import Graph, Node, Value, freeze, make_constant, make_input
from tilth.ir.ops import make, op
from tilth.ir.types import TensorType, f32, i32
from tilth.ir.verify import verify

X = TensorType(f32, (2, 3))


def graph_with(node: Node, *inputs: Value) -> Graph:
    return Graph(inputs, node.outputs)


@pytest.mark.parametrize("node", samples(), ids=lambda n: n.op)
def test_valid_nodes_pass(node):
    verify(Graph(tuple(dict.fromkeys(v for v in node.inputs)), node.outputs))


def test_a_value_from_another_graph_is_refused():
    x = tensor(f32, 2, name="theirs")
    with pytest.raises(VerifyError, match=r"<input theirs.*it is an input of another graph"):
        verify(Graph((), (op.negate(x),)))


def test_a_cycle_is_refused():
    x = tensor(f32, 2)
    node = make("negate", x, name="loop")
    object.__setattr__(node, "inputs", (Value(node),))
    with pytest.raises(VerifyError, match=r"<negate loop.*the graph has a cycle"):
        verify(graph_with(node))


def test_a_missing_result_is_refused():
    x = tensor(f32, 2)
    node = replace(make("negate", x, name="n"), inputs=(Value(x.node, 1),))
    with pytest.raises(VerifyError, match=r"<negate n.*no result of its node"):
        verify(graph_with(node, x))
    with pytest.raises(VerifyError, match=r"output .* is no result of its node"):
        verify(Graph((x,), (Value(x.node, 1),)))


def test_an_input_must_be_an_input_node():
    computed = op.negate(tensor(f32, 2))
    with pytest.raises(VerifyError, match="is the result of an op"):
        verify(Graph((computed,), (computed,)))


def test_names_must_be_unique():
    x, y = tensor(f32, 2, name="x"), tensor(f32, 2, name="x")
    with pytest.raises(VerifyError, match="input names repeat: x, x"):
        verify(Graph((x, y), (op.add(x, y),)))
    with pytest.raises(VerifyError, match="output names repeat: y, y"):
        verify(Graph((x,), (x, x), ("y", "y")))


def test_every_output_needs_a_name():
    x = tensor(f32, 2)
    with pytest.raises(VerifyError, match="1 outputs have 2 names"):
        verify(Graph((x,), (x,), ("a", "b")))


def test_an_unknown_op_is_refused():
    x = tensor(f32, 2)
    with pytest.raises(VerifyError, match=r"<conv2d first.*unknown op 'conv2d'"):
        verify(graph_with(Node("conv2d", (x,), freeze({}), (x.type,), "first"), x))


def test_stated_types_must_be_the_inferred_ones():
    x = tensor(f32, 2)
    node = replace(make("negate", x, name="n"), types=(TensorType(f32, (3,)),))
    with pytest.raises(VerifyError, match=r"<negate n.*the op gives \(f32\[2\],\)"):
        verify(graph_with(node, x))


def test_attributes_must_be_complete_and_of_legal_kinds():
    x = tensor(f32, 2, 3)
    node = make("arg_reduce", x, kind="max", axis=1)
    with pytest.raises(VerifyError, match="attributes are missing: last"):
        verify(graph_with(replace(node, attrs=freeze({"kind": "max", "axis": 1})), x))
    for bad in (np.int64(1), [1, 0], {"axis": 1}, np.array([1, 0])):
        attrs = dict(freeze({})) | {"permutation": bad}
        node = replace(make("transpose", x, permutation=(1, 0)), attrs=attrs)
        with pytest.raises(VerifyError, match=r"permutation = .* is no attribute value"):
            verify(graph_with(node, x))


def test_broken_op_rules_are_found():
    x = tensor(f32, 2, 3)
    node = replace(make("reshape", x, shape=(6,), name="r"), attrs=freeze({"shape": (7,)}))
    with pytest.raises(VerifyError, match=r"<reshape r.*has 6 elements"):
        verify(graph_with(node, x))


def test_constants_must_match_their_type():
    node = replace(make_constant(np.zeros(3, np.float32), "c").node, types=(TensorType(i32, (3,)),))
    with pytest.raises(VerifyError, match=r"<constant c.*the op gives \(f32\[3\],\)"):
        verify(graph_with(node))


def test_sub_graphs_are_verified():
    stranger = tensor(f32, 2, 3, name="stranger")
    leaking = body(lambda a: op.add(a, stranger), X)
    x, pred = tensor(f32, 2, 3), make_constant(np.array(True))
    value = op.if_(pred, x, **{"then": leaking, "else": body(op.negate, X)}, name="branch")
    with pytest.raises(VerifyError, match=r"<if branch.*<input stranger.*another graph"):
        verify(Graph((x,), (value,)))


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (lambda: body(lambda a, b: op.negate(a), X, X), "does not read its input 'a1'"),
        (
            lambda: body(
                lambda a, b: op.add(a, op.add(b, make_constant(np.ones((2, 3), np.float32)))), X, X
            ),
            "must be an operand",
        ),
        (
            lambda: body(
                lambda a, b: op.fusion(a, b, kind="elementwise", body=body(op.add, X, X)), X, X
            ),
            "fusion inside a fusion",
        ),
    ],
)
def test_fusion_bodies_keep_their_form(fused, message):
    x, y = tensor(f32, 2, 3, name="x"), tensor(f32, 2, 3, name="y")
    graph = graph_of(lambda x, y: op.fusion(x, y, kind="elementwise", body=fused()), x, y)
    with pytest.raises(VerifyError, match=message):
        verify(graph)


def test_fusion_operands_must_have_the_types_of_the_body():
    x = make_input(TensorType(f32, (3, 2)), "x")
    fused = body(op.negate, X)
    node = Node("fusion", (x,), freeze({"kind": "elementwise", "body": fused}), (X,), "f")
    with pytest.raises(VerifyError, match=r"<fusion f.*body takes"):
        verify(graph_with(node, x))
