"""Large weights stay in the model's file; whatever else a file says is parsed as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import tilth
from tilth import ModelError
from tilth.onnx.load import load_model
from tilth.onnx.wire import LARGE, WireError, without_large_tensors

ROWS = LARGE // 32  # of a [ROWS, 8] weight that is just large


def model(*weights: onnx.TensorProto) -> onnx.ModelProto:
    """x [1, ROWS] times w0 [ROWS, 8]; other weights are not used."""
    ends = [helper.make_tensor_value_info("x", 1, [1, ROWS])]
    ends.append(helper.make_tensor_value_info("y", 1, [1, 8]))
    node = helper.make_node("MatMul", ["x", "w0"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], list(weights))
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def weight(name: str = "w0", rows: int = ROWS) -> onnx.TensorProto:
    values = np.random.default_rng(0).random((rows, 8), np.float32)
    return numpy_helper.from_array(values, name)


def save(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def parsed(data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.ParseFromString(without_large_tensors(memoryview(data), "m.onnx"))
    return proto


def attempt(data: bytes) -> onnx.ModelProto | None:
    """The parsed model, None if it is none."""
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError:
        return None


def test_large_weights_are_cut_out_and_referred_to():
    proto = model(weight(), weight("small", ROWS - 1))
    data = proto.SerializeToString()
    large, small = parsed(data).graph.initializer
    assert small == proto.graph.initializer[1]
    assert not large.HasField("raw_data")
    told = {entry.key: entry.value for entry in large.external_data}
    start, length = int(told["offset"]), int(told["length"])
    assert told["location"] == "m.onnx"
    assert data[start : start + length] == proto.graph.initializer[0].raw_data


def test_all_else_stays_as_it_is():
    proto = model(weight())
    found = parsed(proto.SerializeToString())
    del found.graph.initializer[:], proto.graph.initializer[:]
    assert found == proto


def test_weights_in_other_forms_are_left_alone():
    fields = helper.make_tensor("w0", 1, [ROWS, 8], np.ones(ROWS * 8, np.float32))
    external = onnx.TensorProto(name="w1", data_type=1, dims=[1], data_location=1)
    external.external_data.add(key="location", value="l" * LARGE)
    proto = model(fields, external)
    assert parsed(proto.SerializeToString()) == proto


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_an_error_or_parse_like_the_whole(data: st.DataObject):
    whole = bytearray(model(weight()).SerializeToString())
    position = data.draw(st.integers(0, 60) | st.integers(len(whole) - 80, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        rest = without_large_tensors(memoryview(whole), "m.onnx")
    except WireError:
        return
    expected, found = attempt(bytes(whole)), attempt(rest)
    assert (expected is None) == (found is None)
    if expected is not None and found is not None:
        assert found.graph.node == expected.graph.node
        assert len(found.graph.initializer) == len(expected.graph.initializer)


@pytest.mark.parametrize("end", [1, 40, -1, -LARGE])
def test_a_file_that_ends_early_is_no_model(tmp_path: Path, end: int):
    path = save(tmp_path / "m.onnx", model(weight()))
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ModelError, match="truncated or of another format"):
        load_model(path)


def test_large_weights_are_mapped_not_copied(tmp_path: Path):
    proto = model(weight())
    found = load_model(save(tmp_path / "m.onnx", proto))
    array = found.weight("w0")
    assert not array.flags.owndata and not array.flags.writeable
    np.testing.assert_array_equal(array, numpy_helper.to_array(proto.graph.initializer[0]))
    assert len(found.stamps) == 1


@pytest.mark.parametrize("name", ["m.onnx", "a b+c.onnx", "c:d.onnx", "a\\b.onnx", "\udcff.onnx"])
@pytest.mark.parametrize("offset", range(4))
def test_results_do_not_depend_on_names_and_alignment(tmp_path: Path, name: str, offset: int):
    proto = model(weight())
    proto.producer_name = "p" * offset
    x = np.random.default_rng(1).random((1, ROWS), np.float32)
    for device in ("cpu", "reference"):
        loaded = tilth.load(save(tmp_path / name, proto))
        y = loaded.compile(device, cache=False)({"x": x})["y"]
        exact = x.astype(np.float64) @ numpy_helper.to_array(proto.graph.initializer[0])
        np.testing.assert_allclose(y, exact, rtol=1e-4)


def test_a_file_is_found_through_links(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "m.onnx").symlink_to(save(tmp_path / "blobs" / "b", model(weight())))
    assert load_model(tmp_path / "m.onnx").weight("w0").shape == (ROWS, 8)


def test_the_digest_does_not_tell_where_weights_lie(tmp_path: Path):
    proto = model(weight())
    digests = [load_model(save(tmp_path / name, proto)).digest for name in ("a.onnx", "b.onnx")]
    outside = onnx.ModelProto.FromString(proto.SerializeToString())
    onnx.save(outside, tmp_path / "c.onnx", save_as_external_data=True, location="w.bin")
    digests.append(load_model(tmp_path / "c.onnx").digest)
    digests += [load_model(proto).digest, load_model(proto.SerializeToString()).digest]
    assert len(set(digests)) == 1
    other = weight()
    other.raw_data = other.raw_data[:-1] + b"\0"
    assert load_model(model(other)).digest not in digests


def test_a_file_that_is_deleted_or_replaced_stays_usable(tmp_path: Path):
    path = save(tmp_path / "m.onnx", model(weight()))
    loaded = tilth.load(path)
    save(tmp_path / "other.onnx", model(weight(rows=ROWS))).replace(path)
    x = np.ones((1, ROWS), np.float32)
    y = loaded.compile(cache=False)({"x": x})["y"]
    path.unlink()
    np.testing.assert_array_equal(loaded.compile(cache=False)({"x": x})["y"], y)


def test_a_file_without_large_weights_may_be_written_to(tmp_path: Path):
    path = save(tmp_path / "m.onnx", model(weight(rows=1)))
    loaded = load_model(path)
    path.write_bytes(b"")
    assert loaded.weight("w0").shape == (1, 8)
    loaded.files.require_unchanged()


def test_a_file_that_is_written_to_has_to_be_loaded_again(tmp_path: Path):
    path = save(tmp_path / "m.onnx", model(weight()))
    loaded = tilth.load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="changed since it was loaded; load it again"):
        loaded.compile(cache=False)
