"""The interface that ONNX's own tests drive."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_helpers import model

import tilth
from tilth.onnx import backend

SUM = "g (float[n] x, float y) => (float[n] z) { z = Add(x, y) }"


def test_a_prepared_model_takes_and_gives_lists_for_any_shape():
    prepared = backend.prepare(model(SUM), "CPU")
    for n in (1, 3):
        (z,) = prepared.run([np.ones(n, np.float32), np.float32(2)])
        assert z.tolist() == [3] * n


def test_models_run_at_once():
    (z,) = backend.run_model(model(SUM), [np.ones(2, np.float32), np.float32(1)])
    assert z.tolist() == [2, 2]


def test_the_number_of_inputs_is_checked():
    with pytest.raises(tilth.InputError, match="got 1 value"):
        backend.prepare_callable(model(SUM))([np.ones(2, np.float32)])


def test_devices_are_those_of_this_machine():
    assert backend.supports_device("CPU")
    assert not backend.supports_device("TOASTER")


def test_inputs_that_shapes_depend_on_are_compiled_for_their_values():
    prepared = backend.prepare(
        model("g (float[n] x, int64[k] shape) => (float[a,b] y) { y = Reshape(x, shape) }")
    )
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, 2], [2, 3]):
        (y,) = prepared.run([x, np.array(shape)])
        assert y.tolist() == x.reshape(shape).tolist()
    assert not prepared.report.host_ops
