"""Feeds from files and from nowhere."""

import json
from pathlib import Path

import numpy as np
import pytest

import tilth
from tilth.ir import types
from tilth.onnx.load import Port
from tilth.tools.inputs import random_feeds, read_input


def test_random_feeds_are_the_same_every_time_and_in_range():
    ports = [
        Port("x", types.f32, ("n", 3)),
        Port("ids", types.i64, (5,)),
        Port("m", types.bool_, (2,)),
    ]
    shapes = {"x": (4, 3), "ids": (5,), "m": (2,)}
    first, second = random_feeds(ports, shapes), random_feeds(ports, shapes)
    assert {n: (a.dtype, a.shape) for n, a in first.items()} == {
        "x": (np.float32, (4, 3)),
        "ids": (np.int64, (5,)),
        "m": (np.bool_, (2,)),
    }
    assert all(np.array_equal(first[n], second[n]) for n in shapes)
    assert first["x"].min() >= 0
    assert first["x"].max() < 1
    assert 0 <= first["ids"].min() <= first["ids"].max() < 100


@pytest.mark.parametrize("dtype", [types.i4, types.u2, types.i8, types.u8])
def test_random_integers_fit_narrow_types(dtype: types.DType):
    array = random_feeds([Port("x", dtype, (1000,))], {"x": (1000,)})["x"].astype(int)
    assert array.min() >= 0
    assert array.max() < min(100, 2 ** (dtype.bits - (dtype.kind == "int")))


def test_there_are_no_random_strings():
    with pytest.raises(tilth.InputError, match="feed it from a file"):
        random_feeds([Port("s", types.string, (1,))], {"s": (1,)})


@pytest.mark.parametrize(
    ("shape", "channels_first"),
    [((1, 3, 4, 5), True), (("n", 4, 5, 3), False), ((3, 4, 5), True), ((4, 5, 3), False)],
)
def test_a_picture_takes_the_layout_of_the_input(tmp_path: Path, shape, channels_first: bool):
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    image.fromarray(pixels).save(tmp_path / "p.png")
    tensor = read_input(Port("x", types.f32, shape), tmp_path / "p.png")
    assert tensor.shape == tuple(1 if d == "n" else d for d in shape)
    wanted = np.moveaxis(pixels, -1, 0) if channels_first else pixels
    np.testing.assert_allclose(tensor.reshape(wanted.shape), wanted / 255, rtol=1e-6)


def test_a_picture_for_bytes_stays_0_to_255(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((2, 2), 200, np.uint8)).save(tmp_path / "p.png")
    found = read_input(Port("x", types.u8, (2, 2)), tmp_path / "p.png")
    assert (found.dtype, found.tolist()) == (np.uint8, [[200, 200], [200, 200]])


def test_a_picture_for_something_else_is_refused(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "p.png")
    with pytest.raises(tilth.InputError, match="no single picture"):
        read_input(Port("x", types.f32, (7, 9, 2, 2)), tmp_path / "p.png")


@pytest.mark.parametrize("values", [[1.5], [300], ["a"], [[1], [2, 3]]])
def test_json_that_does_not_fit_the_dtype_is_refused(tmp_path: Path, values: list):
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(tilth.InputError, match="'x'"):
        read_input(Port("x", types.u8, (1,)), tmp_path / "x.json")
