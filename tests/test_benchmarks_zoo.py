"""The zoo's own networks: exported as they are, they run on Tilth as ONNX Runtime runs them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import tilth

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_network_is_written_with_statistics_of_its_norms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    zoo, networks = (importlib.import_module(name) for name in ("zoo", "zoo_networks"))
    path = tmp_path / "small.onnx"

    def small():
        parts = networks.conv(2, 8), networks.Scale(8, 4), networks.C2f(8, 8, 1, True)
        return torch.nn.Sequential(*parts), networks.pixels(2, 6, 6)

    zoo.write(small, path)
    x = np.random.default_rng(0).random((1, 2, 6, 6), np.float32)
    model = tilth.load(path)
    (name,) = [port.name for port in model.inputs]
    (got,) = model({name: x}).values()
    (expected,) = onnxruntime.InferenceSession(path).run(None, {name: x})
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
