"""Options of sessions and runs: what they take, what they do, what is listed as doing nothing."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_helpers import model

import tilth.onnx.session as ort
from tilth.onnx import register_op, unregister_op

NEGATED = "agraph (float[n,3] x) => (float[n,3] y) { y = Neg(x) }"
WITH_EFFECT = {
    *("intra_op_num_threads", "graph_optimization_level", "optimized_model_filepath"),
    *("enable_profiling", "profile_file_prefix", "log_severity_level"),
}


@pytest.fixture
def options() -> ort.SessionOptions:
    return ort.SessionOptions()


def session(options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(model(NEGATED), options)


def test_every_option_either_works_or_is_listed_as_without_effect():
    names = {f.name for f in fields(ort.SessionOptions) if f.init}
    assert names == WITH_EFFECT | set(ort.WITHOUT_EFFECT)
    assert all(why for why in ort.WITHOUT_EFFECT.values())


def test_the_page_lists_the_options_without_effect():
    page = (Path(__file__).parents[2] / "docs" / "session.md").read_text()
    table = page.split("<!-- without-effect:begin -->")[1].split("<!-- without-effect:end -->")[0]
    rows = [f"| `{name}` | {why} |" for name, why in ort.WITHOUT_EFFECT.items()]
    assert table.strip().splitlines()[2:] == rows


def test_options_and_defaults_are_those_of_onnx_runtime(options):
    theirs = pytest.importorskip("onnxruntime").SessionOptions()
    for f in fields(ort.SessionOptions):
        if f.init and f.name != "profile_file_prefix":
            value, own = getattr(theirs, f.name), getattr(options, f.name)
            assert getattr(value, "value", value) == own, f.name


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder"])
def test_enums_have_the_numbers_of_onnx_runtime(name):
    theirs = getattr(pytest.importorskip("onnxruntime"), name)
    ours = getattr(ort, name)
    assert {n: m.value for n, m in theirs.__members__.items()} == {m.name: m.value for m in ours}


def test_an_option_takes_its_type_only(options):
    options.intra_op_num_threads = np.int64(2)
    options.enable_profiling = 1
    options.graph_optimization_level = 1
    assert (options.intra_op_num_threads, options.enable_profiling) == (2, True)
    assert options.graph_optimization_level is ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for name in ("intra_op_num_threads", "enable_profiling", "execution_mode"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            setattr(options, name, "one")
    with pytest.raises(TypeError):
        options.profile_file_prefix = 1


def test_an_unknown_option_is_an_error(options):
    with pytest.raises(AttributeError):
        options.number_of_threads = 2


def test_threads_are_those_that_are_asked_for(options):
    options.intra_op_num_threads = 1
    s = session(options)
    assert s._runner(s._model).report.threads == 1


def test_without_optimisation_kernels_round_like_the_definition(options):
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    s = session(options)
    assert s._runner(s._model).report.precision == "exact"


def test_a_fixed_symbol_shows_in_the_shapes_and_is_checked(options):
    options.add_free_dimension_override_by_name("n", 4)
    options.add_free_dimension_override_by_name("other", 9)
    s = session(options)
    assert s.get_inputs()[0].shape == s.get_outputs()[0].shape == [4, 3]
    assert s.run(None, {"x": np.zeros((4, 3), np.float32)})[0].shape == (4, 3)
    with pytest.raises(ort.InvalidArgument, match="dimension 0 must be 4, not 2"):
        s.run(None, {"x": np.zeros((2, 3), np.float32)})


def test_what_cannot_be_done_is_refused(options):
    with pytest.raises(ort.NotImplemented, match="register_op"):
        options.register_custom_ops_library("ops.so")
    with pytest.raises(ort.NotImplemented):
        options.add_free_dimension_override_by_denotation("DATA_BATCH", 1)


def test_the_optimized_model_is_written_for_exact_shapes(options, tmp_path):
    options.optimized_model_filepath = str(tmp_path / "out.onnx")
    text = """agraph (float[n,3] x) => (float[n,3] y)
              { a = Neg(x) b = Neg(a) c = Neg(b) y = Neg(c) }"""
    with pytest.raises(ort.NotImplemented, match="add_free_dimension_override_by_name"):
        ort.InferenceSession(model(text), options)
    options.add_free_dimension_override_by_name("n", 2)
    ort.InferenceSession(model(text), options)
    written = ort.InferenceSession(tmp_path / "out.onnx")
    assert written.get_inputs()[0].shape == [2, 3]
    assert len(onnx.load(tmp_path / "out.onnx").graph.node) < 4
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(written.run(None, {"x": x})[0], x)


@pytest.mark.parametrize("kind", ["session", "run"])
def test_configuration_entries_are_kept(kind):
    options = ort.SessionOptions() if kind == "session" else ort.RunOptions()
    getattr(options, f"add_{kind}_config_entry")("key", "value")
    assert getattr(options, f"get_{kind}_config_entry")("key") == "value"
    with pytest.raises(RuntimeError, match="no configuration entry 'other'"):
        getattr(options, f"get_{kind}_config_entry")("other")


def test_a_run_that_is_to_terminate_fails(options):
    run_options = ort.RunOptions()
    run_options.terminate = True
    with pytest.raises(ort.Fail, match="terminate"):
        session(options).run(None, {"x": np.zeros((1, 3), np.float32)}, run_options)


@pytest.mark.parametrize(("severity", "shown"), [(-1, True), (1, True), (3, False)])
def test_messages_below_the_severity_of_a_run_are_dropped(caplog, severity, shown):
    """A node that runs on the host is warned of when it is compiled."""
    register_op("log.test", "Same", infer=lambda x: x, reference=lambda x: x)
    try:
        text = "agraph (float[n] x) => (float[n] y) { y = log.test.Same (x) }"
        s = ort.InferenceSession(model(text, **{"log.test": 1}))
        run_options = ort.RunOptions()
        run_options.log_severity_level = severity
        with caplog.at_level(logging.INFO, logger="tilth"):
            s.run(None, {"x": np.zeros(2, np.float32)}, run_options)
    finally:
        unregister_op("log.test", "Same")
    assert ("interpreted" in caplog.text) is shown


def test_severity_is_a_level_of_logging():
    logger = logging.getLogger("tilth")
    before = logger.level
    try:
        ort.set_default_logger_severity(3)
        assert logger.level == logging.ERROR
        with pytest.raises(ort.InvalidArgument):
            ort.set_default_logger_severity(7)
    finally:
        logger.setLevel(before)
