"""Choosing how contractions are computed: candidates, timing them, and remembering the fastest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of, check, layouts
from onnx import TensorProto, helper, numpy_helper

import tilth
from tilth.compiler.driver import compile_graph
from tilth.cpu import tuner
from tilth.cpu.choices import MOST, candidates, lower
from tilth.cpu.harness import aligned, operand
from tilth.cpu.isa import host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import (
    contraction_plan,
    inner_product_plan,
    split_bf16_plan,
    strassen_plan,
    winograd_plan,
)
from tilth.cpu.target import CpuTarget
from tilth.cpu.tuner import Trial, Tuner, measure
from tilth.ir.graph import Graph, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32
from tilth.runtime.cache import Cache, default_cache
from tilth.runtime.devices import parse_device
from tilth.runtime.target import Options


def convolve(x, w, b):
    attrs = {"padding": ((0, 0),) * 2, "groups": 1, "layout": "channels_last"}
    ones = dict.fromkeys(("strides", "lhs_dilation", "rhs_dilation"), (1, 1))
    return op.relu(op.add(op.convolution(x, w, **attrs, **ones), b))


def multiply(x, w):
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))


def numbers(*shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes]


def task_of(build, *shapes, constants=(1, 2), exact=False, threads=2) -> Task:
    body = body_of(build, *shapes)
    operands = [operand(aligned(a), i in constants) for i, a in enumerate(numbers(*shapes))]
    result = operand(np.empty(body.outputs[0].shape, np.float32))
    return Task(body, tuple(operands), (result,), host_isa(), threads, exact)


CONVOLUTION = task_of(convolve, (1, 16, 16, 32), (3, 3, 32, 48), (48,))


@pytest.fixture
def fastest(monkeypatch):
    """Makes one candidate win, and counts how often candidates are timed."""
    calls = []

    def measured(task, choices):
        calls.append(task)
        return [abs(i - 2.0) for i in range(len(choices))]

    monkeypatch.setattr(tuner, "measure", measured)
    return calls


@settings(max_examples=12)
@given(
    case=st.sampled_from(
        [
            (convolve, [(1, 12, 10, 24), (3, 3, 24, 40), (40,)], [1, 2]),
            (convolve, [(1, 9, 33, 3), (2, 3, 3, 40), (40,)], [1, 2]),
            (multiply, [(37, 700), (700, 70)], [1]),
            (multiply, [(37, 300), (300, 70)], []),
            (multiply, [(1, 300), (300, 70)], [1]),
        ]
    ),
    number=st.integers(0, MOST - 1),
    layout=layouts,
)
def test_every_candidate_computes_the_same(case, number, layout):
    build, shapes, constants = case

    def chosen(task):
        found = candidates(task)
        return lower(task, found[number % len(found)])

    layout = "dense" if constants else layout
    lays = [layout, *["dense"] * (len(shapes) - 1)]
    check(
        chosen, body_of(build, *shapes), numbers(*shapes), lays, layout, 2e-5, constants=constants
    )


def test_the_first_candidate_is_what_compiling_takes():
    for task in (CONVOLUTION, task_of(multiply, (64, 300), (300, 70))):
        assert lower(task, candidates(task)[0]).key == lower(task).key


def test_candidates_are_few_and_distinct():
    found = candidates(CONVOLUTION)
    assert len(found) == len(set(found)) <= MOST
    tiles = {split_bf16_plan.Plan} if host_isa().bf16_tiles else set()
    products = {inner_product_plan.Plan, strassen_plan.Plan, winograd_plan.Plan}
    assert {type(c) for c in found} == {contraction_plan.Plan} | products | tiles


def test_exact_leaves_no_choice(fastest):
    task = task_of(multiply, (20, 300), (300, 70), exact=True)
    assert candidates(task) == []
    assert Tuner()(task).key == lower(task).key
    assert not fastest


@pytest.mark.parametrize("threads", [1, 2])
def test_trials_take_time(threads: int):
    task = task_of(multiply, (20, 30), (30, 40), constants=[1], threads=threads)
    first, second = measure(task, candidates(task)[:2])
    assert 0 < first < 0.1
    assert 0 < second < 0.1


def test_weights_come_from_memory_and_data_from_caches():
    data = Trial(CONVOLUTION).data()
    assert len(data) > 1
    assert data[0][0] is data[1][0]
    assert data[0][1] is not data[1][1]


def test_the_fastest_candidate_is_taken(fastest, tmp_path):
    kernel = Tuner()(CONVOLUTION)
    assert kernel.key == lower(CONVOLUTION, candidates(CONVOLUTION)[2]).key


def test_what_was_found_is_remembered_between_processes(fastest, tmp_path):
    kernels = [Tuner(Cache(tmp_path))(CONVOLUTION) for _ in range(2)]
    assert len(fastest) == 1
    assert kernels[0].key == kernels[1].key


def test_other_shapes_and_threads_are_timed_anew(fastest, tmp_path):
    for task in (
        task_of(multiply, (20, 300), (300, 70)),
        task_of(multiply, (21, 300), (300, 70)),
        task_of(multiply, (21, 300), (300, 70), threads=1),
    ):
        Tuner(Cache(tmp_path))(task)
    assert len(fastest) == 3


def test_nothing_is_timed_for_an_empty_result(fastest):
    assert Tuner()(task_of(multiply, (0, 30), (30, 40))).items == 0
    assert not fastest


def test_a_tuned_program_computes_the_same(fastest, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path))
    x = make_input(TensorType(f32, (1, 130, 130, 16)), "x")
    w, b = (make_constant(a) for a in numbers((3, 3, 16, 16), (16,)))
    graph = Graph((x,), (convolve(x, w, b),))
    feeds = {"x": numbers(x.shape)[0]}
    (expected,) = interpret(graph, [feeds["x"]])
    executable = compile_graph(graph, parse_device("cpu"), Options(2, tune=True))
    assert fastest
    assert default_cache().info().entries == 1
    (got,) = executable(feeds).values()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_model_is_tuned_when_asked(fastest, tmp_path):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [64, 64]) for n in "xy"]
    weight = numpy_helper.from_array(numbers((64, 64))[0], "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    opset = helper.make_opsetid("", 17)
    model = tilth.load(helper.make_model(graph, opset_imports=[opset], ir_version=9))
    model.compile()
    assert not fastest
    assert not model.compile(tune=True).report.from_cache
    assert fastest
    assert model.compile(tune=True).report.from_cache


def test_tuned_code_has_another_key():
    target = CpuTarget()
    assert target.fingerprint(Options(2)) != target.fingerprint(Options(2, tune=True))
    assert target.fingerprint(Options(2)) == target.fingerprint(Options(2))
