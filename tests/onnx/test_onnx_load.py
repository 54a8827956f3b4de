"""Loading: every way a file can be broken is one ModelError that says where."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_helpers import model

from tilth.ir.errors import ModelError, TilthError
from tilth.ir.types import f32
from tilth.onnx import Port, check, import_graph, load_model

RELU = "g (float[2,N] x) => (float[2,N] y) { y = Relu(x) }"


def refused(source, *words: str) -> None:
    """Loading raises one ModelError that has these words."""
    with pytest.raises(ModelError) as caught:
        load_model(source)
    for word in words:
        assert word in str(caught.value)


def broken(text: str, change) -> onnx.ModelProto:
    proto = model(text)
    change(proto)
    return proto


# What a source may be


def test_a_path_bytes_and_a_proto_are_the_same_model(tmp_path):
    proto = model(RELU)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for source in (path, str(path), proto.SerializeToString(), proto):
        assert [str(p) for p in load_model(source).inputs] == ["x: f32[2,N]"]


def test_the_proto_is_not_changed():
    proto = model(RELU)
    before = proto.SerializeToString(deterministic=True)
    import_graph(proto, {"x": (2, 3)})
    assert proto.SerializeToString(deterministic=True) == before


def test_other_objects_are_refused():
    refused(42, "int", "path, bytes or a ModelProto")


# Broken files


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx", "No such file")


def test_an_empty_file():
    refused(b"", "empty")


def test_a_truncated_file():
    data = model(RELU).SerializeToString()
    refused(data[: len(data) // 2], "not an ONNX model", "truncated")


def test_a_pointer_in_place_of_the_file():
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull")


@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_never_do_worse_than_an_error(data: bytes):
    with pytest.raises(ModelError):
        load_model(data)


@given(st.data())
def test_a_model_with_a_changed_byte_loads_or_is_refused(data):
    blob = bytearray(model(RELU).SerializeToString())
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TilthError):
        import_graph(bytes(blob), {"x": (2, 3)})


# Broken models


def test_no_opset_import():
    refused(broken(RELU, lambda m: m.ClearField("opset_import")), "opset_import")


def test_a_newer_format():
    refused(broken(RELU, lambda m: setattr(m, "ir_version", 99)), "IR version 99")


def test_a_dangling_name():
    refused(model("g (float[2] x) => (float[2] y) { y = Add(x, z) }"), "'z'", "(Add)")


def test_a_dangling_output():
    refused(model("g (float[2] x) => (float[2] q) { y = Relu(x) }"), "output 'q'")


def test_a_name_defined_twice():
    refused(model("g (float[2] x) => (float[2] y) { y = Relu(x) y = Abs(x) }"), "'y'", "second")


def test_a_cycle():
    text = "g (float[2] x) => (float[2] c) { b = Add(x, c) c = Relu(b) }"
    refused(model(text), "cycle", "(Add)", "(Relu)")


def test_an_unknown_element_type():
    def change(m):
        m.graph.input[0].type.tensor_type.elem_type = 77

    refused(broken(RELU, change), "'x'", "element type 77")


def test_an_input_without_a_type():
    refused(broken(RELU, lambda m: m.graph.input[0].ClearField("type")), "'x' has no type")


def test_a_weight_that_does_not_fill_its_shape():
    def change(m):
        tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
        tensor.dims[0] = 1000
        m.graph.initializer.append(tensor)

    proto = broken("g (float[3] x) => (float[3] y) { y = Add(x, w) }", change)
    with pytest.raises(ModelError, match=r"'w': holds 12 bytes, but f32\[1000\] takes 4000"):
        import_graph(proto)


def test_a_negative_dimension_of_a_weight():
    def change(m):
        m.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[-3]))

    with pytest.raises(ModelError, match=r"'w': impossible dimensions \[-3\]"):
        import_graph(broken("g (float[3] x) => (float[3] y) { y = Add(x, w) }", change))


def nested(depth: int) -> onnx.ModelProto:
    """`depth` conditionals inside each other."""
    value = helper.make_tensor_value_info
    leaf = helper.make_graph([], "leaf", [], [value("x", TensorProto.FLOAT, [2])])
    graph = leaf
    for i in range(depth):
        node = helper.make_node("If", ["c"], [f"y{i}"], then_branch=graph, else_branch=leaf)
        graph = helper.make_graph([node], "branch", [], [value(f"y{i}", TensorProto.FLOAT, [2])])
    inputs = [value("c", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [2])]
    top = helper.make_graph(graph.node, "top", inputs, graph.output)
    return helper.make_model(top, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_nested_sub_graphs_have_a_limit(monkeypatch):
    assert import_graph(nested(20)).outputs[0].shape == (2,)
    monkeypatch.setattr(check, "MAX_DEPTH", 19)
    refused(nested(20), "nested deeper than 19")


def test_nodes_out_of_order_are_put_in_order():
    text = "g (float[2] x) => (float[2] y) { y = Relu(a) a = Neg(x) }"
    assert [n.op for n in import_graph(model(text)).nodes] == ["negate", "relu"]


# The interface


def test_initialisers_repeated_as_inputs_are_no_inputs():
    text = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    assert [p.name for p in load_model(model(text)).inputs] == ["x"]


def test_dimensions_are_ints_symbols_or_generated_names():
    shape = ["batch", 3, None]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    unranked = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["x"], ["z"])
    imports = [helper.make_opsetid("", 20)]
    graph = helper.make_graph([node], "g", [info], [unranked])
    loaded = load_model(helper.make_model(graph, opset_imports=imports, ir_version=10))
    assert loaded.inputs == (Port("x", f32, ("batch", 3, "x.2")),)
    assert loaded.outputs == (Port("z", f32, None),)
    assert str(loaded.outputs[0]) == "z: f32[?]"


# External data


def save_external(directory, location: str = "w.bin", **entries: int) -> str:
    """A model whose weight w (f32[4]) lies in an external file."""
    proto = model("g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(tensor)
    path = directory / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return str(path)


def external_error(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        import_graph(path)
    return str(caught.value)


def test_external_data_is_mapped_not_copied(tmp_path):
    np.arange(8, dtype=np.float32).tofile(tmp_path / "w.bin")
    weight = load_model(save_external(tmp_path, offset=16, length=16)).weight("w")
    assert weight.tolist() == [4, 5, 6, 7]
    assert not weight.flags.owndata and not weight.flags.writeable


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", ""])
def test_external_data_stays_in_the_directory_of_the_model(tmp_path, location):
    assert "inside the model's directory" in external_error(save_external(tmp_path, location))


def test_a_link_out_of_the_directory_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").symlink_to(tmp_path / "secret")
    assert "leaves the model's directory" in external_error(save_external(tmp_path / "model"))


def test_external_data_that_is_missing(tmp_path):
    assert "'w.bin' is missing" in external_error(save_external(tmp_path))


def test_external_data_that_is_too_short(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(8))
    assert "is the file complete?" in external_error(save_external(tmp_path))


def test_external_data_of_a_model_without_a_path(tmp_path):
    with open(save_external(tmp_path), "rb") as file:
        data = file.read()
    with pytest.raises(ModelError, match="load the model from its path"):
        import_graph(data)


# Element types


@pytest.mark.parametrize("number", [*range(1, 8), *range(9, 27)])
@pytest.mark.parametrize("raw", [True, False])
def test_stored_tensors_of_every_element_type(number: int, raw: bool):
    dtype = helper.tensor_dtype_to_np_dtype(number)
    values = np.array([1, 1, 1, 1, 1] if number == 24 else [1, 0, 1, 1, 0]).astype(dtype)
    if raw:
        tensor = numpy_helper.from_array(values, "w")
    else:
        tensor = helper.make_tensor("w", number, [5], values.tolist())
    proto = model("g () => (float[5] y) { y = Cast<to=1>(w) }")
    proto.graph.initializer.append(tensor)
    weight = load_model(proto).weight("w")
    assert weight.dtype == values.dtype
    assert (weight.astype(np.complex64) == values.astype(np.complex64)).all()


def test_sparse_initialisers_become_dense():
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    indices = numpy_helper.from_array(np.array([[0, 1], [1, 0]], np.int64))
    proto = model("g (float[2,2] x) => (float[2,2] y) { y = Add(x, w) }")
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=values, indices=indices, dims=[2, 2])
    )
    assert load_model(proto).weight("w").tolist() == [[0, 5], [7, 0]]
