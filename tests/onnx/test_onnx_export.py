"""Export: what was imported, or built, comes out as ONNX that is valid and means the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_samples import graphs
from hypothesis import given, settings
from ir_samples import body, random_array, sample, tensor
from onnx_helpers import model

import tilth
from tilth.cli import main
from tilth.compiler.pipeline import run_shared
from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, make_constant
from tilth.ir.interpreter import interpret
from tilth.ir.ops import OPS, op
from tilth.ir.types import TensorType, bool_, f16, f32, i8, i32, u8
from tilth.onnx import export, import_graph
from tilth.onnx.export import export_model, save_model
from tilth.runtime.target import Options

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
# ONNX has nothing for these.
WITHOUT_COUNTERPART = {"popcnt", "shift_right_arithmetic", "rng_bits", "index_of"}


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {v.node.name: random_array(rng, v.tensor) for v in graph.inputs}


def valid(graph: Graph, opset: int | None = None) -> onnx.ModelProto:
    proto = export_model(graph, opset)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def require_close(found, expected, tolerance: float = 1e-5) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if b.dtype.kind in "fcV":
            a, b = a.astype(np.float64), b.astype(np.float64)
            np.testing.assert_allclose(a, b, tolerance, tolerance * np.abs(b).max(initial=0))
        else:
            np.testing.assert_array_equal(a, b)


def round_trip(graph: Graph, opset: int | None = None) -> None:
    """The exported graph, imported again, gives the same."""
    feeds = feeds_of(graph)
    again = import_graph(valid(graph, opset))
    assert again.input_names == graph.input_names
    assert again.output_names == graph.output_names
    require_close(interpret(again, feeds), interpret(graph, feeds))


def runs_in_onnxruntime(graph: Graph) -> None:
    ort = pytest.importorskip("onnxruntime")
    feeds = feeds_of(graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(valid(graph, export.OLDEST_OPSET).SerializeToString(), options)
    require_close(session.run(None, feeds), interpret(graph, feeds), 1e-4)


@pytest.mark.parametrize("name", sorted(OPS.keys() - WITHOUT_COUNTERPART))
def test_every_op_comes_back(name: str):
    node = sample(name)
    graph = Graph(tuple(dict.fromkeys(node.inputs)), node.outputs, name="of_an_op")
    round_trip(graph)


@pytest.mark.parametrize("name", sorted(OPS.keys() - WITHOUT_COUNTERPART - {"bitcast_convert"}))
def test_every_op_comes_back_at_the_oldest_opset(name: str):
    node = sample(name)
    round_trip(Graph(tuple(dict.fromkeys(node.inputs)), node.outputs), export.OLDEST_OPSET)


@pytest.mark.parametrize("name", sorted(WITHOUT_COUNTERPART))
def test_what_onnx_does_not_have_is_refused_by_name(name: str):
    node = sample(name)
    with pytest.raises(UnsupportedError, match=f"no counterpart of <{name}"):
        export_model(Graph(tuple(dict.fromkeys(node.inputs)), node.outputs))


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_any_graph_comes_back(graph: Graph):
    round_trip(graph)
    round_trip(run_shared(graph, Options(1)).graph)


@settings(max_examples=20, deadline=None)
@given(graphs(image=True))
def test_any_image_graph_comes_back(graph: Graph):
    round_trip(graph)


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_any_graph_runs_in_onnxruntime(graph: Graph):
    runs_in_onnxruntime(graph)


# Cases with an answer of their own


def x32(*shape: int, name: str = "x"):
    return tensor(f32, *shape, name=name)


GENERAL = {
    "gather of blocks": lambda: op.gather(
        x32(2, 5, 6),
        tensor(i32, 2, 3, 2, name="i"),
        offset_dims=(0, 3),
        collapsed_slice_dims=(),
        start_index_map=(2, 1),
        index_vector_dim=2,
        slice_sizes=(1, 2, 3),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    ),
    "scatter of blocks, some outside": lambda: op.scatter(
        x32(4, 5),
        make_constant(np.array([[0, 1], [3, 4], [1, 3]])),
        x32(3, 2, 2, name="u"),
        update_window_dims=(1, 2),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=(0, 1),
        index_vector_dim=1,
        kind="add",
    ),
    "dot over two axes in a batch": lambda: op.dot_general(
        x32(2, 3, 4, 5),
        x32(5, 2, 6, 3, name="y"),
        lhs_batch=(0,),
        rhs_batch=(1,),
        lhs_contract=(1, 3),
        rhs_contract=(3, 0),
    ),
    "integer dot": lambda: op.dot_general(
        tensor(u8, 2, 3),
        tensor(i8, 3, 4, name="w"),
        lhs_contract=(1,),
        rhs_contract=(0,),
        dtype=i32,
    ),
    "dilated convolution of channels last": lambda: op.convolution(
        x32(1, 4, 5, 2),
        x32(3, 3, 2, 4, name="w"),
        padding=((-1, 2), (1, 1)),
        lhs_dilation=(2, 1),
        layout="channels_last",
    ),
    "integer convolution": lambda: op.convolution(
        tensor(i32, 1, 1, 4), tensor(i32, 2, 1, 2, name="w")
    ),
    "window over any axes": lambda: op.reduce_window(
        x32(5, 6),
        kind="sum",
        window=(2, 3),
        strides=(1, 2),
        padding=((1, 0), (-1, 2)),
        base_dilation=(1, 2),
        window_dilation=(2, 1),
    ),
    "max pooling": lambda: op.reduce_window(
        x32(1, 2, 6, 6), kind="max", window=(1, 1, 3, 3), strides=(1, 1, 2, 2)
    ),
    "more cut off than there is": lambda: op.pad(
        x32(2, 3), make_constant(np.float32(7)), low=(-3, 2), high=(3, -1), interior=(0, 2)
    ),
    "a norm without an operator": lambda: op.batch_norm(
        x32(2, 3), *(x32(2, name=n) for n in "sbmv"), axis=0
    ),
    "all": lambda: op.reduce(tensor(bool_, 2, 3), kind="and", axes=(1,)),
    "saturating": lambda: op.convert(
        op.multiply(x32(4), make_constant(np.float32(3e9))), dtype=i32
    ),
    "scan from the end": lambda: op.scan(
        x32(2, name="c"),
        x32(3, 2),
        body=body(lambda c, x: (op.add(c, x), op.multiply(c, c)), *(TensorType(f32, (2,)),) * 2),
        carries=1,
        reverse=True,
    ),
    "empty": lambda: op.concatenate(x32(0, 3), x32(0, 3, name="y"), axis=1),
    "shared": lambda: op.sort(tensor(f16, 3, 2), axis=0, descending=True),
}


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("opset", [None, export.OLDEST_OPSET])
def test_general_forms_come_back(name: str, opset: int | None):
    result = GENERAL[name]()
    outputs = result if isinstance(result, tuple) else (result,)
    inputs = tuple(v for v in outputs[0].node.inputs if v.op == "input")
    if not inputs:
        inputs = tuple(v for v in outputs[0].node.inputs[0].node.inputs if v.op == "input")
    round_trip(Graph(inputs, outputs), opset)


def test_outputs_keep_their_names_whatever_they_are():
    x = x32(2)
    y = op.negate(x)
    constant = make_constant(np.float32([1, 2]), "c")
    graph = Graph((x,), (x, y, y, constant), ("a", "b", "c", "d"))
    round_trip(graph)
    renamed = valid(Graph((x,), (y,), ("y",)))
    assert [n.op_type for n in renamed.graph.node] == ["Neg"]


def test_names_and_source_lines_survive():
    text = "g (float[2] x) => (float[2] y) { [first] a = Neg(x) [second] y = Exp(a) }"
    proto = model(text)
    trace = 'File "net.py", line 7, in forward\n    x = -x\n'
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    first, second = import_graph(valid(import_graph(proto))).nodes
    assert (first.name, first.source) == ("first", "net.py:7: x = -x")
    assert second.name == "second"


def test_a_weight_used_twice_is_stored_once():
    w = make_constant(np.ones((8, 16), np.float32), "w")
    x = x32(8, 16)
    proto = valid(Graph((x,), (op.add(op.multiply(x, w), w),)))
    assert [t.name for t in proto.graph.initializer] == ["w"]


def test_a_convolution_takes_its_bias_back():
    text = """g (float[1,1,4,4] x, float[2,1,3,3] w) => (float[1,2,2,2] y) <float[2] b = {1, 2}> {
        y = Conv(x, w, b)
    }"""
    proto = valid(run_shared(import_graph(model(text)), Options(1)).graph)
    assert [n.op_type for n in proto.graph.node] == ["Conv"]
    assert [list(t.dims) for t in proto.graph.initializer] == [[2]]


def test_an_impossible_opset_is_refused():
    x = x32(2)
    with pytest.raises(UnsupportedError, match="opset 9: models are exported for 21 to"):
        export_model(Graph((x,), (op.negate(x),)), 9)


def test_big_weights_go_into_a_file_beside_the_model(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(export, "_INLINE_BYTES", 1000)
    weights = np.arange(600, dtype=np.float32).reshape(20, 30)
    x = x32(4, 20)
    product = op.dot_general(x, make_constant(weights, "w"), lhs_contract=(1,), rhs_contract=(0,))
    graph = Graph((x,), (op.multiply(product, make_constant(np.float32(2))),))
    path = tmp_path / "m.onnx"
    save_model(graph, path)
    assert path.stat().st_size < 1000
    assert (tmp_path / "m.onnx.data").stat().st_size >= weights.nbytes
    onnx.checker.check_model(str(path), full_check=True)
    feeds = feeds_of(graph)
    (found,) = tilth.load(path).compile(device="reference")(feeds).values()
    require_close([found], interpret(graph, feeds))


# Models


def test_the_digit_classifier_comes_back():
    graph = import_graph(str(DIGITS), {p.name: _shape(p) for p in tilth.load(DIGITS).inputs})
    for each in (graph, run_shared(graph, Options(1)).graph):
        round_trip(each)
        runs_in_onnxruntime(each)


def _shape(port) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in port.shape)


def test_inspect_writes_the_simplified_model(tmp_path: Path, capsys):
    text = """g (float[2,3] x) => (float[6] y) <float[3] w = {1,2,3}> {
        s = Shape(x)  p = ReduceProd<keepdims=1>(s)  v = Neg(w)  u = Neg(v)
        a = Add(x, u)  t = Transpose<perm=[1,0]>(a)  r = Transpose<perm=[1,0]>(t)  y = Reshape(r, p)
    }"""
    onnx.save(model(text), tmp_path / "m.onnx")
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path / "m.onnx"), "--optimise", str(tmp_path / "o.onnx")])
    assert not end.value.code
    assert "o.onnx: 2 nodes, from 8" in capsys.readouterr().err.replace("\n", "")
    optimised = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(optimised, full_check=True)
    assert [n.op_type for n in optimised.graph.node] == ["Add", "Reshape"]
