"""The benchmarks' reference in double precision, and their models for several samples a call."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

import tilth
from tilth.ir.graph import Graph, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32, f64

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"


@pytest.fixture
def numerics(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("numerics")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("batches")


def test_a_widened_graph_computes_in_double_precision_throughout(numerics: ModuleType):
    """Weights, conversions, and what is inside of a loop."""
    state, x = make_input(TensorType(f32, ()), "state"), make_input(TensorType(f32, ()), "x")
    total = op.add(state, op.divide(x, make_constant(np.float32(3))))
    body = Graph((state, x), (total, total))
    xs = make_input(TensorType(f32, (4,)), "xs")
    zero = op.convert(make_constant(np.int32(0)), dtype=f32)
    graph = Graph((xs,), op.scan(zero, xs, body=body, carries=1, reverse=False))
    wide = numerics.widened(graph)
    assert {v.tensor.dtype for v in (*wide.inputs, *wide.outputs)} == {f64}
    values = np.arange(4) / 7
    last, sums = interpret(wide, [values])
    np.testing.assert_allclose(sums, np.cumsum(values / 3), rtol=1e-15)
    assert last == sums[-1]


def test_errors_are_judged_by_the_rival_and_by_a_bound(numerics: ModuleType):
    def failures(default: float, exact: float, rival: float, winograd: bool = True) -> list[str]:
        return list(numerics.Result("m", default, exact, rival, winograd, 0.0).failures)

    assert failures(9e-5, 9e-7, 5e-7) == []
    assert failures(9e-5, 1e-7, 0.0) == []  # a unit in the last place is no failure
    assert failures(2e-4, 9e-7, 5e-7) == ["2.0e-04 off, more than 1.0e-04"]
    assert failures(2e-6, 9e-7, 5e-7, winograd=False) == ["2.0e-06 off, more than 1.0e-06"]
    assert failures(1e-6, 2e-6, 5e-7) == ["exact is 2.0e-06 off, more than 1.0e-06"]


def test_the_demo_model_is_near_double_precision(numerics: ModuleType):
    pytest.importorskip("onnxruntime")
    result = numerics.measure(DIGITS, samples=2, threads=1)
    assert result.default < 1e-5
    assert not list(result.failures)


def baked() -> onnx.ModelProto:
    """A model for one sample with the batch in every place where exporters leave it."""
    text = """<ir_version: 9, opset_import: ["": 20]>
    g (float[1, 2, 4] x) => (float[1, 3, 5] y)
    <float[5] w = {1, 2, 3, 4, 5}, float[1, 1, 4] token = {1, 2, 3, 4}, int64[2] flat = {3, 4},
     int64[3] back = {1, -1, 4}, int64[3] three = {3, 1, 5}, float[1, 1, 5] h = {1, 2, 3, 4, 5},
     float[1, 5, 4] i = {1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1},
     float[1, 5, 5] r = {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1}>
    {
        tokens = Concat <axis = 1> (x, token)
        rows = Reshape (tokens, flat)
        samples = Reshape (rows, back)
        steps = Transpose <perm = [1, 0, 2]> (samples)
        states, last = RNN <hidden_size = 5> (steps, i, r, "", "", h)
        plain = Reshape (states, three)
        turned = Transpose <perm = [1, 0, 2]> (plain)
        y = Mul (turned, w)
    }"""
    return onnx.parser.parse_model(text)


def test_a_rebatched_model_gives_each_sample_what_the_model_gives(batches, rng):
    x = rng.standard_normal((3, 2, 4)).astype(np.float32)
    one = tilth.load(baked())
    expected = [one({"x": x[i : i + 1]})["y"] for i in range(3)]
    many = tilth.load(batches.rebatched(baked(), 3))
    np.testing.assert_allclose(many({"x": x})["y"], np.concatenate(expected), rtol=1e-6)


@pytest.mark.parametrize("name", ["batches", "numerics"])
def test_tables_of_the_performance_page_are_those_of_the_committed_results(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    readme = importlib.import_module("readme")
    page, part = readme.PARTS[name]
    current = page.read_text() == readme.replace_part(page.read_text(), name, part())
    assert current, f"run `python benchmarks/readme.py {name}`"
