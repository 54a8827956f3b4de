"""Sessions: running, what they tell of a model, what they refuse, and under which names."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_helpers import model

import tilth
import tilth.onnx.session as ort

TWO = """agraph (float[n,3] x, float[3] w) => (float[n,3] y, float[n,3] z)
         { y = Add(x, w) z = Mul(x, w) }"""
NEGATED = "agraph (float[n,3] x) => (float[n,3] y) { y = Neg(x) }"


def session(text: str = TWO, *args, opset: int = 20, **domains) -> ort.InferenceSession:
    return ort.InferenceSession(model(text, opset, **domains).SerializeToString(), *args)


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def feeds(x) -> dict[str, np.ndarray]:
    return {"x": x, "w": np.array([1, 2, 3], np.float32)}


# Running


@pytest.mark.parametrize("names", [None, []])
def test_all_outputs_come_in_the_order_of_the_model(feeds, names):
    y, z = session().run(names, feeds)
    assert np.array_equal(y, feeds["x"] + feeds["w"])
    assert np.array_equal(z, feeds["x"] * feeds["w"])


def test_outputs_come_in_the_order_of_their_names(feeds):
    z, y, again = session().run(["z", "y", "z"], feeds)
    assert np.array_equal(z, again)
    assert np.array_equal(y, feeds["x"] + feeds["w"])


def test_a_session_is_made_from_a_path_bytes_or_a_proto(tmp_path, x):
    proto = model(NEGATED)
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (
        tmp_path / "m.onnx",
        str(tmp_path / "m.onnx"),
        proto.SerializeToString(),
        proto,
    ):
        (y,) = ort.InferenceSession(source).run(None, {"x": x})
        assert np.array_equal(y, -x)


def test_every_size_of_a_symbol_runs(x):
    s = session(NEGATED)
    for n in (2, 1, 0, 7, 2):
        fed = np.resize(x, (n, 3))
        (y,) = s.run(None, {"x": fed})
        assert np.array_equal(y, -fed)


def test_a_shape_may_depend_on_what_is_fed(x):
    s = session("agraph (float[n,m] x, int64[k] s) => (float[a,b] y) { y = Reshape(x, s) }")
    for shape in ((3, 2), (6, 1), (3, 2)):
        (y,) = s.run(None, {"x": x, "s": np.array(shape)})
        assert np.array_equal(y, x.reshape(shape))


def test_a_static_model_whose_shapes_depend_on_values_is_made_without_them(x):
    s = session("agraph (float[2,3] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }")
    assert s.run(None, {"x": x, "s": np.array([1, 6])})[0].shape == (1, 6)


def test_sessions_run_in_many_threads_at_once(x):
    s, wrong = session(NEGATED), []

    def work(n: int) -> None:
        fed = np.full((n, 3), n, np.float32)
        for _ in range(20):
            (y,) = s.run(None, {"x": fed})
            if not np.array_equal(y, -fed):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_callback_gets_the_results_of_an_asynchronous_run(x):
    done, told = threading.Event(), []

    def callback(results, user_data, error) -> None:
        told.append((results, user_data, error))
        done.set()

    s = session(NEGATED)
    s.run_async(None, {"x": x}, callback, "mine")
    assert done.wait(60)
    (((y,), user_data, error),) = told
    assert (user_data, error) == ("mine", "")
    assert np.array_equal(y, -x)

    done.clear()
    s.run_async(None, {"x": x[0]}, callback, None)
    assert done.wait(60)
    assert told[1][0] == []
    assert "expected 2 dimensions" in told[1][2]


# Feeds: as lenient as ONNX Runtime


@pytest.mark.parametrize(
    "fed",
    [
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2).T.copy().T.reshape(2, 3),
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2] / 2,
    ],
    ids=["list", "big endian", "fortran", "strided"],
)
def test_lists_and_arrays_of_any_layout_are_taken(fed):
    (y,) = session(NEGATED).run(None, {"x": fed})
    assert np.array_equal(y, -np.asarray(fed, np.float32))


def test_a_list_takes_the_type_of_the_input():
    s = session("agraph (int64[n] k, float s) => (int64[n] a, float b) { a = Neg(k) b = Neg(s) }")
    a, b = s.run(None, {"k": [1, 2], "s": np.float32(3)})
    assert (a.tolist(), a.dtype, b.item()) == ([-1, -2], np.int64, -3)


@pytest.mark.parametrize(
    "fed",
    [
        np.array(["a", "é"]),
        np.array(["a", "é"], object),
        ["a", "é"],
        np.array([b"a", "é".encode()]),
    ],
    ids=["U", "object", "list", "S"],
)
def test_strings_of_any_kind_are_taken(fed):
    (y,) = session("agraph (string[n] x) => (string[n] y) { y = Identity(x) }").run(
        None, {"x": fed}
    )
    assert (y.tolist(), y.dtype) == (["a", "é"], object)


WRONG_FEEDS = [
    ({"w": None}, "input 'w': expected an array or a list"),
    ({"w": (1.0, 2.0, 3.0)}, "input 'w': expected an array or a list"),
    ({"w": np.zeros(4, np.float32)}, "input 'w': dimension 0 must be 3, not 4"),
    ({"x": np.zeros(3, np.float32)}, "input 'x': expected 2 dimensions, got 1"),
    ({"x": np.zeros((2, 3))}, "input 'x': expected dtype f32, got f64"),
    ({"x": [["a", "b", "c"]]}, "input 'x': could not convert string"),
    ({"k": np.zeros(1)}, "unknown input 'k'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_FEEDS)
def test_wrong_feeds_are_invalid_arguments(feeds, change, message):
    with pytest.raises(ort.InvalidArgument, match=message):
        session().run(None, feeds | change)


def test_a_missing_input_is_also_a_value_error(x):
    for kind in (ValueError, ort.InvalidArgument, tilth.InputError):
        with pytest.raises(kind, match=r"'w' \(tensor\(float\)\)"):
            session().run(None, {"x": x})


@pytest.mark.parametrize("names", ["y", ["q"]])
def test_wrong_output_names_are_invalid_arguments(feeds, names):
    with pytest.raises(ort.InvalidArgument):
        session().run(names, feeds)


def test_feeds_must_be_named(x):
    with pytest.raises(ort.InvalidArgument, match="must map input names"):
        session().run(None, [x])


# What a session tells


def test_ends_have_names_types_and_shapes():
    text = "agraph (float[n,3] x, int64[?,2] k, bool b) => (float[n,3] y) { y = Neg(x) }"
    s = session(text)
    told = [(a.name, a.type, a.shape) for a in s.get_inputs()]
    assert told == [
        ("x", "tensor(float)", ["n", 3]),
        ("k", "tensor(int64)", [None, 2]),
        ("b", "tensor(bool)", []),
    ]
    assert [(a.name, a.type, a.shape) for a in s.get_outputs()] == [
        ("y", "tensor(float)", ["n", 3])
    ]


def test_a_type_that_the_file_leaves_out_is_inferred(x):
    proto = model(NEGATED)
    proto.graph.output[0].ClearField("type")
    s = ort.InferenceSession(proto)
    assert s.get_outputs()[0].type == "tensor(float)"
    assert np.array_equal(s.run(None, {"x": x})[0], -x)
    with pytest.raises(tilth.ModelError, match="has no type"):
        tilth.load(proto)


def test_types_are_written_as_onnx_runtime_writes_them():
    from onnx import TensorProto, helper

    from tilth.onnx.session_types import type_text

    tensor = helper.make_tensor_type_proto
    sequence, optional = helper.make_sequence_type_proto, helper.make_optional_type_proto
    map_ = helper.make_map_type_proto(TensorProto.INT64, tensor(TensorProto.FLOAT, None))
    written = {
        "tensor(double)": tensor(TensorProto.DOUBLE, None),
        "tensor(float16)": tensor(TensorProto.FLOAT16, None),
        "tensor(bfloat16)": tensor(TensorProto.BFLOAT16, None),
        "tensor(uint8)": tensor(TensorProto.UINT8, None),
        "tensor(string)": tensor(TensorProto.STRING, None),
        "tensor(float8e4m3fn)": tensor(TensorProto.FLOAT8E4M3FN, None),
        "seq(tensor(float))": sequence(tensor(TensorProto.FLOAT, None)),
        "optional(tensor(int64))": optional(tensor(TensorProto.INT64, None)),
        "map(int64,tensor(float))": map_,
        "seq(map(int64,tensor(float)))": sequence(map_),
        "sparse_tensor(float)": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, None),
    }
    assert [type_text(proto) for proto in written.values()] == list(written)


def test_metadata_are_those_of_the_file():
    proto = model(NEGATED)
    proto.producer_name, proto.model_version, proto.doc_string = "me", 7, "what it does"
    onnx.helper.set_model_props(proto, {"author": "someone"})
    meta = ort.InferenceSession(proto).get_modelmeta()
    assert (meta.producer_name, meta.version, meta.description) == ("me", 7, "what it does")
    assert (meta.graph_name, meta.custom_metadata_map) == ("agraph", {"author": "someone"})


# Initialisers that are inputs too

DEFAULTED = "agraph (float[n] x, float[1] w = {2}) => (float[n] y) { y = Mul(x, w) }"


def test_an_input_with_a_default_may_be_left_out_or_fed():
    s = session(DEFAULTED)
    assert [a.name for a in s.get_inputs()] == ["x"]
    assert [(a.name, a.shape) for a in s.get_overridable_initializers()] == [("w", [1])]
    x = np.array([1, 2], np.float32)
    assert s.run(None, {"x": x})[0].tolist() == [2, 4]
    assert s.run(None, {"x": x, "w": np.array([5], np.float32)})[0].tolist() == [5, 10]
    assert s.run(None, {"x": x})[0].tolist() == [2, 4]


def test_initialisers_may_be_given_by_the_caller():
    options = ort.SessionOptions()
    own = ort.OrtValue.ortvalue_from_numpy(np.array([7], np.float32))
    options.add_initializer("w", own)
    (y,) = session(DEFAULTED, options).run(None, {"x": np.array([1, 2], np.float32)})
    assert y.tolist() == [7, 14]
    options.add_initializer("v", own)
    with pytest.raises(ort.InvalidArgument, match="no initialiser 'v'"):
        session(DEFAULTED, options)


# Providers


def test_providers_that_are_not_there_are_skipped_with_a_warning(x):
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not available"):
        s = session(NEGATED, None, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert s.get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning):
        assert session(NEGATED, None, ["None"]).get_providers() == ["CPUExecutionProvider"]


def test_options_of_providers_are_kept():
    s = session(NEGATED, None, [("CPUExecutionProvider", {"a": "b"})])
    assert s.get_provider_options() == {"CPUExecutionProvider": {"a": "b"}}
    s.set_providers(["CPUExecutionProvider"], [{"c": "d"}])
    assert s.get_provider_options() == {"CPUExecutionProvider": {"c": "d"}}


def test_the_reference_interpreter_is_a_provider(x):
    s = session(NEGATED, None, ["TilthReferenceExecutionProvider"])
    assert np.array_equal(s.run(None, {"x": x})[0], -x)
    assert set(s.get_providers()) <= set(ort.get_available_providers())


@pytest.mark.parametrize(
    ("providers", "options"),
    [("CPUExecutionProvider", None), (["CPUExecutionProvider"], [{}, {}])],
)
def test_malformed_providers_are_invalid_arguments(providers, options):
    with pytest.raises(ort.InvalidArgument):
        session(NEGATED, None, providers, options)


# Errors


def test_what_is_no_model_has_an_error_of_its_own(tmp_path):
    with pytest.raises(ort.NoSuchFile):
        ort.InferenceSession(tmp_path / "none.onnx")
    with pytest.raises(ort.InvalidProtobuf):
        ort.InferenceSession(b"no model")
    with pytest.raises(ort.InvalidGraph):
        session("agraph (float[n] x) => (float[n] y) { y = Add(x, k) }")
    with pytest.raises(TypeError):
        ort.InferenceSession(3)


def test_all_missing_operators_are_told_at_once():
    text = "agraph (float[n] x) => (float[n] y) { a = Foo(x) y = Bar(a) }"
    with pytest.raises(ort.NotImplemented, match=r"(?s)Bar.*Foo"):
        session(text)


def test_a_static_model_that_contradicts_itself_is_refused_when_loaded():
    with pytest.raises(ort.InvalidGraph):
        session("agraph (float[2] x, float[3] k) => (float[3] y) { y = Add(x, k) }")


def test_shapes_that_do_not_go_together_fail_the_run():
    s = session("agraph (float[n] x, float[m] k) => (float[p] y) { y = Add(x, k) }")
    with pytest.raises(ort.Fail, match="do not broadcast"):
        s.run(None, {"x": np.zeros(2, np.float32), "k": np.zeros(3, np.float32)})


def test_errors_are_also_those_of_tilth():
    pairs = {
        ort.InvalidArgument: tilth.InputError,
        ort.NoSuchFile: tilth.ModelError,
        ort.InvalidProtobuf: tilth.ModelError,
        ort.InvalidGraph: tilth.ModelError,
        ort.NotImplemented: tilth.UnsupportedError,
        ort.EPFail: tilth.DeviceError,
        ort.EngineError: tilth.CompileError,
        ort.Fail: tilth.TilthError,
    }
    assert all(issubclass(name, kind) for name, kind in pairs.items())
    assert ort.capi.onnxruntime_pybind11_state.InvalidArgument is ort.InvalidArgument


# Profiling


def test_a_trace_of_all_runs_is_written(tmp_path, x):
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "trace_")
    s = session(NEGATED, options)
    s.run(None, {"x": x})
    s.run(None, {"x": x})
    events = json.loads(Path(s.end_profiling()).read_text())
    assert [e["name"] for e in events if e["cat"] == "Session"] == ["model_run"] * 2
    kernels = [e for e in events if e["cat"] == "Node"]
    assert kernels
    assert all(e["args"]["provider"] == "CPUExecutionProvider" for e in kernels)
    assert s.end_profiling() == ""
    assert session(NEGATED).end_profiling() == ""


def test_the_module_answers_like_onnx_runtime():
    assert ort.get_device() == "CPU"
    assert ort.get_version_string() == ort.__version__
    assert tilth.__version__ in ort.get_build_info()
    ort.set_seed(3)
    ort.disable_telemetry_events()
    ort.preload_dlls()
