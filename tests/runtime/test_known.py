"""A model that was compiled before is recognised by its file's stamp and not read again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilth
from tilth import ModelError
from tilth.ir.types import f32
from tilth.onnx import register_op, unregister_op
from tilth.runtime import known
from tilth.runtime.cache import Cache, default_cache
from tilth.runtime.known import KnownModel, Stamp, recall, remember
from tilth.runtime.ports import Port

X = np.ones((2, 3), np.float32)


def save(path: Path, scale: float, **options) -> Path:
    """A model that multiplies x [n, 3] with a constant."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    weight = numpy_helper.from_array(np.full((3,), scale, np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path, **options)
    return path


@pytest.fixture(autouse=True)
def cache_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def settled(monkeypatch):
    """Files need no time to settle."""
    monkeypatch.setattr(known, "SETTLED", -1)


@pytest.fixture
def path(tmp_path: Path, settled) -> Path:
    """A model that was compiled, and is known."""
    found = save(tmp_path / "net.onnx", 2.0)
    tilth.load(found)({"x": X})
    return found


def is_read(model: tilth.Model) -> bool:
    return model._origin.is_read


def test_a_known_model_is_not_read(path: Path):
    model = tilth.load(path)
    np.testing.assert_array_equal(model({"x": X})["y"], 2 * X)
    assert not is_read(model)
    assert model.name == "net"
    assert repr(model) == "<tilth.Model net (x: f32[n,3]) -> (y: f32[n,3])>"


def test_it_is_read_for_what_the_cache_does_not_hold(path: Path):
    model = tilth.load(path)
    assert model({"x": X[:1]})["y"].shape == (1, 3)
    assert is_read(model)


def test_a_known_model_and_a_read_one_have_the_same_digest(path: Path):
    assert tilth.load(path).digest() == tilth.load(path.read_bytes()).digest()


def test_it_is_known_by_any_spelling_of_its_path(path: Path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert not is_read(tilth.load("net.onnx"))


@pytest.mark.parametrize("times_kept", [False, True])
def test_a_changed_file_is_read(path: Path, times_kept: bool):
    before = path.stat()
    save(path, 3.0)
    assert path.stat().st_size == before.st_size
    if times_kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(tilth.load(path)({"x": X})["y"], 3 * X)


def test_a_changed_file_is_an_error_when_it_has_to_be_read_later(path: Path):
    model = tilth.load(path)
    save(path, 3.0)
    with pytest.raises(ModelError, match="changed since it was loaded"):
        model({"x": X[:1]})


def test_external_data_is_watched_too(tmp_path: Path, settled):
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    path = save(tmp_path / "net.onnx", 2.0, **external)
    tilth.load(path)({"x": X})
    assert not is_read(tilth.load(path))
    (tmp_path / "w.bin").write_bytes(np.full(3, 5, np.float32).tobytes())
    np.testing.assert_array_equal(tilth.load(path)({"x": X})["y"], 5 * X)


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path):
    path = save(tmp_path / "net.onnx", 2.0)
    tilth.load(path)({"x": X})
    assert is_read(tilth.load(path))


def test_only_a_settled_file_is_remembered(tmp_path: Path):
    cache, path = Cache(tmp_path / "cache"), save(tmp_path / "net.onnx", 2.0)
    ends = (Port("x", f32, ("n", 3)), Port("s", None, None, "map"))
    now = time.time_ns()
    for age, expected in ((1, False), (3, True)):
        os_stamp = Stamp.of(path)
        taken = max(now, os_stamp.changed) + age * 10**9
        stamp = Stamp(*(getattr(os_stamp, f) for f in Stamp.__slots__[:-1]), taken)
        remember(cache, KnownModel(path, (stamp,), "digest", ends, ends[:1]))
        found = recall(cache, path)
        assert (found is not None) == expected
    assert found is not None
    assert (found.inputs, found.digest, found.path) == (ends, "digest", path)


def test_no_cache_no_memory(path: Path, monkeypatch):
    monkeypatch.setenv("TILTH_CACHE", "0")
    assert is_read(tilth.load(path))


def test_a_deleted_file_is_unknown(path: Path):
    path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        tilth.load(path)


def test_operators_of_ones_own_are_looked_for_in_known_models(path: Path):
    register_op("own", "Twice", handler=lambda cx, x: x)
    try:
        model = tilth.load(path)
        model({"x": X})
        assert is_read(model)
    finally:
        unregister_op("own", "Twice")


def test_starting_from_the_cache_imports_nothing_that_compiles(path: Path):
    code = (
        "import sys, numpy, tilth; "
        "tilth.load(sys.argv[1])({'x': numpy.ones((2, 3), numpy.float32)}); "
        "heavy = 'onnx', 'llvmlite', 'tilth.onnx.importer', 'tilth.cpu.kernels'; "
        "print(*(name for name in heavy if name in sys.modules))"
    )
    environment = os.environ | {"TILTH_CACHE_DIR": str(default_cache().root)}
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run(command, check=True, env=environment)  # the cache gets to know the machine
    assert subprocess.check_output(command, text=True, env=environment).split() == []
