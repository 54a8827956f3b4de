"""Operators of the user's own: by rules, by a handler, from installed packages."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from onnx_helpers import model, run

import tilth
from tilth.ir.graph import Value, make_constant
from tilth.ir.ops import OPS, op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType
from tilth.onnx import register_op, supported_ops, unregister_op
from tilth.onnx.custom import ENTRY_POINTS, load_entry_points
from tilth.onnx.session import InferenceSession

DOMAIN = "my.ops"
CUBE = "agraph (float[n] x) => (float[n] y) { y = my.ops.Scale <factor=3.0> (x) }"


def same_type(x: TensorType, *, factor: float = 2.0) -> TensorType:
    """x times a number"""
    return x


def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    return x * np.float32(factor)


def scale_lowered(x: Value, *, factor: float) -> Value:
    return op.multiply(x, scalar(factor, x))


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(4, dtype=np.float32)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = set(OPS)
    yield
    for domain, name, _ in supported_ops():
        if domain == DOMAIN:
            unregister_op(domain, name)
    assert set(OPS) == before


def test_an_operator_nobody_knows_is_refused():
    with pytest.raises(tilth.UnsupportedError, match=r"my\.ops::Scale"):
        run(model(CUBE, **{DOMAIN: 1}), np.zeros(4, np.float32))


def test_a_reference_runs_on_the_host_and_the_report_says_so(x):
    register_op(DOMAIN, "Scale", infer=same_type, reference=scale)
    loaded = tilth.load(model(CUBE, **{DOMAIN: 1}))
    assert loaded({"x": x})["y"].tolist() == [0, 3, 6, 9]
    (host_op,) = loaded.compile(shapes={"n": 4}).report.host_ops
    assert host_op.op == "custom.my_ops.Scale"


def test_without_infer_the_types_depend_on_data(x):
    register_op(DOMAIN, "Positive", reference=lambda x: x[x > 0])
    text = """agraph (float[n] x) => (float[m] y)
              { a = Neg(x) b = my.ops.Positive (a) y = Add(b, b) }"""
    session = InferenceSession(model(text, **{DOMAIN: 1}))
    assert session.run(None, {"x": -x})[0].tolist() == [2, 4, 6]
    assert session.run(None, {"x": x})[0].tolist() == []


def test_without_infer_lists_come_and_go(x):
    register_op(DOMAIN, "Split", reference=lambda x, count: (list(np.split(x, count)),))
    text = "agraph (float[4] x) => (seq(float[n]) y) { y = my.ops.Split <count = 2> (x) }"
    (parts,) = InferenceSession(model(text, **{DOMAIN: 1})).run(None, {"x": x})
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3]]


def test_a_lowering_is_compiled(x):
    register_op(DOMAIN, "Scale", infer=same_type, reference=scale, lowering=scale_lowered)
    executable = tilth.load(model(CUBE, **{DOMAIN: 1})).compile(shapes={"n": 4})
    assert executable({"x": x})["y"].tolist() == [0, 3, 6, 9]
    assert not executable.report.host_ops
    assert [r.device for r in executable.report.regions] == ["cpu"]


def test_attributes_have_the_defaults_of_infer(x):
    register_op(DOMAIN, "Scale", infer=same_type, lowering=scale_lowered)
    text = "agraph (float[n] x) => (float[n] y) { y = my.ops.Scale (x) }"
    assert run(model(text, **{DOMAIN: 1}), x)[0].tolist() == [0, 2, 4, 6]


def test_a_tensor_attribute_is_an_array(x):
    def shifted(x: Value, *, by: np.ndarray) -> Value:
        return op.add(x, make_constant(by))

    register_op(DOMAIN, "Shift", infer=lambda x, *, by: x, lowering=shifted)
    text = "agraph (float[4] x) => (float[4] y) { y = my.ops.Shift <by = float[1] {5}> (x) }"
    assert run(model(text, **{DOMAIN: 1}), x)[0].tolist() == [5, 6, 7, 8]


def test_a_handler_builds_what_it_likes(x):
    def scaled(cx, x: Value) -> Value:
        return op.multiply(x, scalar(cx.attr("factor"), x))

    register_op(DOMAIN, "Scale", handler=scaled)
    assert run(model(CUBE, **{DOMAIN: 1}), x)[0].tolist() == [0, 3, 6, 9]


def test_each_version_has_its_own_rules(x):
    register_op(DOMAIN, "Scale", infer=same_type, reference=scale)
    register_op(DOMAIN, "Scale", since=3, infer=same_type, reference=lambda x, factor: -x)
    assert run(model(CUBE, **{DOMAIN: 2}), x)[0].tolist() == [0, 3, 6, 9]
    assert run(model(CUBE, **{DOMAIN: 3}), x)[0].tolist() == [0, -1, -2, -3]


def test_several_results_and_operands_left_out(x):
    def types(x: TensorType, y: TensorType | None = None) -> tuple[TensorType, TensorType]:
        return x, x

    register_op(DOMAIN, "Two", infer=types, reference=lambda x, y=None: (x + 1, x - 1))
    text = "agraph (float[n] x) => (float[n] a, float[n] b) { a, b = my.ops.Two (x, ) }"
    a, b = run(model(text, **{DOMAIN: 1}), x)
    assert (a.tolist(), b.tolist()) == ([1, 2, 3, 4], [-1, 0, 1, 2])


def test_operands_that_do_not_fit_are_told_with_the_node(x):
    def picky(x: TensorType, *, factor: float) -> TensorType:
        raise ValueError("five elements are needed")

    register_op(DOMAIN, "Scale", infer=picky, reference=scale)
    with pytest.raises(tilth.ModelError, match=r"my\.ops::Scale.*five elements are needed"):
        run(model(CUBE, **{DOMAIN: 1}), x)


def test_what_it_compiles_to_is_never_taken_from_the_disk(x):
    """The rules are not part of the model: other rules must give other results."""
    proto = model(CUBE, **{DOMAIN: 1})
    register_op(DOMAIN, "Scale", infer=same_type, lowering=scale_lowered)
    assert tilth.load(proto)({"x": x})["y"].tolist() == [0, 3, 6, 9]
    unregister_op(DOMAIN, "Scale")
    register_op(DOMAIN, "Scale", infer=same_type, lowering=lambda x, factor: op.negate(x))
    assert tilth.load(proto)({"x": x})["y"].tolist() == [0, -1, -2, -3]


def test_registering_twice_is_an_error():
    register_op(DOMAIN, "Scale", infer=same_type, reference=scale)
    with pytest.raises(ValueError, match="already registered"):
        register_op(DOMAIN, "Scale", infer=same_type, reference=scale)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "needs a reference"),
        ({"infer": same_type}, "needs a reference"),
        ({"lowering": scale_lowered}, "needs a reference, infer and a lowering"),
        ({"reference": scale, "since": 2}, "one reference, since version 1"),
        ({"handler": scale, "infer": same_type}, "no use for other rules"),
    ],
)
def test_incomplete_rules_are_an_error(rules, message):
    with pytest.raises(ValueError, match=message):
        register_op(DOMAIN, "Scale", **rules)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml"])
def test_the_domains_of_the_standard_are_not_for_users(domain):
    with pytest.raises(ValueError, match="of the standard"):
        register_op(domain, "Scale", infer=same_type, reference=scale)


class Entry:
    """An entry point of an installed package."""

    name = "entry"

    def __init__(self, register):
        self.register = register

    def load(self):
        return self.register


@pytest.fixture
def install(monkeypatch):
    """Pretend that a package with these entry points is installed."""

    def pretend(*entries: Entry) -> None:
        known = {ENTRY_POINTS: entries}
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: known[group])
        load_entry_points.cache_clear()

    yield pretend
    load_entry_points.cache_clear()


def test_installed_packages_bring_operators_along(install, x):
    install(Entry(lambda: register_op(DOMAIN, "Scale", infer=same_type, reference=scale)))
    assert run(model(CUBE, **{DOMAIN: 1}), x)[0].tolist() == [0, 3, 6, 9]


def test_a_broken_package_does_not_stop_others(install, x, caplog):
    def broken() -> None:
        raise RuntimeError("no such file")

    install(
        Entry(broken),
        Entry(lambda: register_op(DOMAIN, "Scale", infer=same_type, reference=scale)),
    )
    with caplog.at_level(logging.WARNING, logger="tilth"):
        assert run(model(CUBE, **{DOMAIN: 1}), x)[0].tolist() == [0, 3, 6, 9]
    assert "entry point 'entry' of tilth.onnx_ops failed: no such file" in caplog.text
