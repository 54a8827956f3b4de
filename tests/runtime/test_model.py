"""The public face: load, look, call, compile; executables are kept, cached, and never stale."""

import logging
import subprocess
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import tilth
from tilth.onnx.compile import Compiler
from tilth.runtime.cache import default_cache
from tilth.runtime.executable import VARIANTS_KEPT
from tilth.runtime.target import TARGETS

FLOAT = onnx.TensorProto.FLOAT


def dense_model(scale: float = 1.0, batch: int | str = "batch") -> onnx.ModelProto:
    """y = tanh(x W) for x [batch, 4] and a 4 x 3 W."""
    weights = (np.arange(12, dtype=np.float32).reshape(4, 3) - 6) * scale / 6
    graph = oh.make_graph(
        [oh.make_node("MatMul", ["x", "w"], ["h"]), oh.make_node("Tanh", ["h"], ["y"])],
        "dense",
        [oh.make_tensor_value_info("x", FLOAT, [batch, 4])],
        [oh.make_tensor_value_info("y", FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10)


def answer(x: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return np.tanh(x @ ((np.arange(12, dtype=np.float32).reshape(4, 3) - 6) * scale / 6))


@pytest.fixture(autouse=True)
def cache_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=["reference", "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a model go to the interpreter: nothing to wait for."""
    monkeypatch.setitem(TARGETS, "cpu", TARGETS["reference"])
    tilth.runtime.target.target.cache_clear()
    yield
    tilth.runtime.target.target.cache_clear()


def test_a_model_says_what_it_takes_and_gives():
    model = tilth.load(dense_model())
    assert [str(p) for p in model.inputs] == ["x: f32[batch,4]"]
    assert [str(p) for p in model.outputs] == ["y: f32[batch,3]"]
    assert repr(model) == "<tilth.Model dense (x: f32[batch,4]) -> (y: f32[batch,3])>"


def test_a_path_bytes_and_a_proto_are_the_same_model(tmp_path: Path):
    proto = dense_model()
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    models = [tilth.load(source) for source in (proto, proto.SerializeToString(), path, str(path))]
    assert len({model.digest() for model in models}) == 1
    assert [model.name for model in models] == ["dense", "dense", "net", "net"]


def test_a_call_compiles_and_answers():
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    outputs = tilth.load(dense_model())({"x": x})
    assert list(outputs) == ["y"]
    np.testing.assert_allclose(outputs["y"], answer(x), rtol=1e-5)


def test_compile_binds_symbols_by_name_or_by_an_input_shape(device: str):
    model = tilth.load(dense_model())
    x = np.ones((3, 4), np.float32)
    for shapes in ({"batch": 3}, {"x": (3, 4)}):
        executable = model.compile(device, shapes=shapes)
        assert [str(p) for p in executable.outputs] == ["y: f32[3,3]"]
        np.testing.assert_allclose(executable({"x": x})["y"], answer(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"other": 1}, "no symbol 'other'; its inputs are x"),
        ({"other": (1, 4)}, "no input 'other'; its inputs are x"),
        ({"x": (1, 5)}, "says 4, got 5"),
        ({"x": (1,)}, "rank 2"),
        ({"x": (1, 4), "batch": 2}, "'batch' is 2, but 1 in the shape of input 'x'"),
        ({"batch": -1}, "-1 is no extent"),
        ({"x": (-1, 4)}, "-1 is no extent"),
    ],
)
def test_shapes_that_contradict_the_model_are_refused(wanted: dict, told: str):
    with pytest.raises(tilth.InputError, match=told):
        tilth.load(dense_model()).compile("reference", shapes=wanted)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"device": "tpu"}, tilth.DeviceError),
        ({"threads": -1}, tilth.InputError),
        ({"precision": "half"}, tilth.InputError),
    ],
)
def test_other_wishes_that_cannot_be_met_are_refused(arguments: dict, error: type):
    with pytest.raises(error):
        tilth.load(dense_model(batch=1)).compile(**arguments)


def test_wrong_feeds_are_refused_by_the_model_too():
    model = tilth.load(dense_model())
    with pytest.raises(tilth.InputError, match=r"missing input x: f32\[batch,4\]"):
        model({})
    with pytest.raises(tilth.InputError, match="expected dtype f32, got f64"):
        model({"x": np.ones((1, 4))})
    with pytest.raises(tilth.InputError, match="dimension 1 must be 4, not 5"):
        model({"x": np.ones((1, 5), np.float32)})


def test_the_second_compilation_comes_from_the_cache(device: str, tmp_path: Path):
    x = np.ones((1, 4), np.float32)
    cold = tilth.load(dense_model(batch=1)).compile(device)
    onnx.save(dense_model(batch=1), tmp_path / "renamed.onnx")
    warm = tilth.load(tmp_path / "renamed.onnx").compile(device)
    assert (cold.report.from_cache, warm.report.from_cache) == (False, True)
    assert (cold.report.model, warm.report.model) == ("dense", "renamed")
    assert warm.report.kernels == cold.report.kernels
    np.testing.assert_allclose(warm({"x": x})["y"], answer(x), rtol=1e-5)


def test_another_process_takes_it_from_the_cache(device: str, tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(dense_model(batch=1), path)
    code = (
        "import sys, tilth, numpy as np; exe = tilth.load(sys.argv[1]).compile(sys.argv[2]); "
        "print(exe.report.from_cache, exe({'x': np.ones((1, 4), np.float32)})['y'][0, 2])"
    )
    command = [sys.executable, "-c", code, str(path), device]
    cold, warm = (subprocess.check_output(command, text=True).split() for _ in range(2))
    assert (cold[0], warm[0]) == ("False", "True")
    assert cold[1] == warm[1]


def test_nothing_is_mistaken_for_something_else(device: str):
    """Weights, shapes and precision are part of the key."""
    x = np.ones((2, 4), np.float32)
    for scale in (1.0, 2.0):
        for batch in (1, 2):
            model = tilth.load(dense_model(scale))
            found = model.compile(device, shapes={"batch": batch})({"x": x[:batch]})["y"]
            np.testing.assert_allclose(found, answer(x[:batch], scale), rtol=1e-5)
    assert default_cache().info().entries == 4
    model.compile(device, shapes={"batch": 1}, precision="exact")
    assert default_cache().info().entries == 5


def test_external_data_is_part_of_the_model(tmp_path: Path):
    digests = []
    for i, scale in enumerate((1.0, 2.0)):
        path = tmp_path / str(i) / "net.onnx"
        path.parent.mkdir()
        onnx.save(
            *(dense_model(scale, batch=1), path),
            **{"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0},
        )
        assert (path.parent / "weights.bin").exists()
        digests.append(tilth.load(path).digest())
    assert digests[0] != digests[1]


def test_a_broken_entry_is_compiled_again(device: str, caplog):
    model = tilth.load(dense_model(batch=1))
    model.compile(device)
    (entry,) = default_cache().root.glob("*.tilth")
    entry.write_bytes(entry.read_bytes()[:-10])
    assert not model.compile(device).report.from_cache
    assert "unusable" in caplog.text
    assert model.compile(device).report.from_cache


def test_an_entry_that_cannot_be_restored_is_compiled_again(monkeypatch, caplog):
    model = tilth.load(dense_model(batch=1))
    model.compile("reference")
    with monkeypatch.context() as patch:
        patch.setattr("tilth.Executable.from_state", lambda state: {}["gone"])
        assert not model.compile("reference").report.from_cache
    assert "KeyError" in caplog.text


def test_the_cache_can_be_left_alone(monkeypatch):
    model = tilth.load(dense_model(batch=1))
    model.compile("reference", cache=False)
    assert default_cache().info().entries == 0
    monkeypatch.setenv("TILTH_CACHE", "0")
    assert not model.compile("reference").report.from_cache


def test_progress_names_each_stage():
    stages: list[str] = []
    executable = tilth.load(dense_model(batch=1)).compile("reference", progress=stages.append)
    assert stages[0] == "import"
    assert stages == [stage for stage, _ in executable.report.seconds]


def test_new_shapes_compile_again_and_say_why(interpreted, caplog):
    model = tilth.load(dense_model())
    with caplog.at_level(logging.WARNING, "tilth"):
        model({"x": np.ones((1, 4), np.float32)})
        assert caplog.text == ""
        model({"x": np.ones((2, 4), np.float32)})
        assert "compiling dense again" in caplog.text
        assert "input 'x' is now [2, 4], was [1, 4]" in caplog.text
        caplog.clear()
        model({"x": np.ones((1, 4), np.float32)})
        assert caplog.text == ""


def test_the_least_recently_used_executable_is_dropped(interpreted):
    model = tilth.load(dense_model())
    for batch in range(1, VARIANTS_KEPT + 1):
        model({"x": np.ones((batch, 4), np.float32)})
    model({"x": np.ones((1, 4), np.float32)})
    model({"x": np.ones((99, 4), np.float32)})
    told = "\n".join(model.report.variants)
    assert all(f"x [{n}, 4]" in told for n in (1, 99, *range(3, VARIANTS_KEPT + 1)))
    assert "x [2, 4]" not in told
    assert "1 dropped, of 17 made" in told


def test_threads_that_call_at_once_compile_once(interpreted, monkeypatch):
    model = tilth.load(dense_model())
    compiled = []
    original = Compiler.exact
    monkeypatch.setattr(Compiler, "exact", lambda *a: compiled.append(a) or original(*a))
    x = np.ones((1, 4), np.float32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model({"x": x})["y"], range(40)))
    assert len(compiled) == 1
    for y in found:
        np.testing.assert_allclose(y, answer(x), rtol=1e-5)


def test_the_graph_of_a_model_can_be_seen():
    graph = tilth.load(dense_model()).graph({"batch": 2})
    assert [str(v.type) for v in graph.outputs] == ["f32[2,3]"]
    assert "tanh" in {n.op for n in graph.nodes}


@pytest.mark.parametrize("source", [b"", b"\0" * 100, 3, Path("no-such-file.onnx")])
def test_what_is_no_model_is_refused(source: object):
    with pytest.raises(tilth.ModelError):
        tilth.load(source)


def test_a_call_of_a_model_costs_little_besides_the_kernel():
    model, feeds = tilth.load(dense_model()), {"x": np.ones((1, 4), np.float32)}
    model(feeds)
    rows = [timeit.timeit(lambda: model(feeds), number=2000) / 2000 for _ in range(5)]
    assert min(rows) < 30e-6
