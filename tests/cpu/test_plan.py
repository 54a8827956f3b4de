"""The planner puts values where their consumers want them, and is right wherever it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.compiler.pipeline import run_pipeline
from tilth.cpu.isa import host_isa
from tilth.cpu.memory import assign
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, f32
from tilth.runtime.target import Options

TARGET = CpuTarget()


def x_of(*shape: int, name: str = "x") -> Value:
    return make_input(TensorType(f32, shape), name)


def steps_of(graph: Graph):
    fused = run_pipeline(graph, TARGET.traits, Options()).graph
    return plan(fused, host_isa(), 2)


LAST = {"lhs_contract": (3,), "rhs_contract": (0,)}


def weight(*shape: int) -> Value:
    return make_constant(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def check(graph: Graph) -> None:
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal(v.shape, dtype=np.float32) for v in graph.inputs]
    expected = interpret(graph, feeds)
    fused = run_pipeline(graph, TARGET.traits, Options()).graph
    for threads in (1, 2):
        region = TARGET.compile(fused, Options(threads))
        for found, right in zip(region(feeds), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_what_is_concatenated_is_written_in_place():
    x = x_of(4, 32)
    parts = [op.tanh(x), op.exponential(op.negate(op.abs(x)))]
    graph = Graph((x,), (op.concatenate(*parts, axis=1),))
    assert [s.kernel.name for s in steps_of(graph)] == ["elementwise", "elementwise"]
    check(graph)


def test_concatenations_nest_without_copies():
    x = x_of(2, 3, 3, 8)
    grown = x
    for _ in range(3):
        grown = op.concatenate(grown, op.tanh(grown), axis=3)
    graph = Graph((x,), (op.sqrt(op.abs(grown)),))
    copies = [s for s in steps_of(graph) if s.node.op == "concatenate"]
    assert len(copies) == 1  # the input alone
    check(graph)


def test_padding_is_written_around_its_operand():
    x = x_of(1, 5, 5, 16)
    y = op.pad(op.tanh(x), scalar(0.0, x), low=(0, 1, 1, 0), high=(0, 1, 1, 0))
    graph = Graph((x,), (op.exponential(y),))
    assert [s.node.op for s in steps_of(graph)][1:] == ["pad", "fusion"]
    check(graph)


def test_movement_is_free_where_a_view_says_it():
    x = x_of(6, 4, 16)
    y = op.slice(op.transpose(x, permutation=(1, 0, 2)), start=(1, 0, 0), limit=(3, 6, 8))
    graph = Graph((x,), (op.tanh(op.reshape(y, shape=(2, 6, 2, 4))),))
    assert len(steps_of(graph)) == 1
    check(graph)


def test_a_reshape_across_strides_is_one_copy():
    x = x_of(6, 4)
    y = op.reshape(op.transpose(x, permutation=(1, 0)), shape=(24,))
    graph = Graph((x,), (y,))
    assert len(steps_of(graph)) == 1
    check(graph)


def test_channels_that_lie_apart_are_brought_together_for_a_convolution_of_pixels():
    x = x_of(1, 24, 6, 6)
    turned = op.transpose(
        op.tanh(op.dot_general(x, weight(6, 8), **LAST)), permutation=(0, 2, 3, 1)
    )
    for window, names in ((1, ["elementwise", "convolution"]), (2, ["convolution"])):
        y = op.convolution(turned, weight(window, window, 24, 16), layout="channels_last")
        graph = Graph((x,), (y,))
        assert [s.kernel.name for s in steps_of(graph)] == ["dot_general", *names]
        check(graph)


def test_results_take_over_the_memory_of_operands_that_die():
    x = x_of(64, 64)
    w = make_constant(np.eye(64, dtype=np.float32))
    y = x
    for _ in range(4):
        product = op.dot_general(y, w, lhs_contract=(1,), rhs_contract=(0,))
        y = op.add(product, y)
    graph = Graph((x,), (op.dot_general(y, w, lhs_contract=(1,), rhs_contract=(0,)),))
    assert assign(steps_of(graph)).arena_bytes <= 2 * 64 * 64 * 4
    check(graph)


def test_weights_that_nodes_share_are_laid_out_once():
    x = x_of(1, 256)
    weight = make_constant(np.random.default_rng(0).random((256, 256), np.float32))
    dot = {"lhs_contract": (1,), "rhs_contract": (0,)}
    once = op.tanh(op.dot_general(x, weight, **dot))
    graph = Graph((x,), (op.tanh(op.dot_general(once, weight, **dot)),))
    assert assign(steps_of(graph)).weight_bytes == 256 * 256 * 4
    check(graph)


def test_an_output_may_be_an_input_a_constant_and_given_twice():
    x = x_of(3, 4)
    y = op.tanh(x)
    check(Graph((x,), (x, make_constant(np.arange(3.0, dtype=np.float32)), y, y)))


def test_an_output_may_also_feed_others():
    x = x_of(3, 4)
    y = op.tanh(x)
    check(Graph((x,), (op.concatenate(y, y, axis=0), y, op.exponential(y))))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_tensors_need_no_steps(shape):
    x = x_of(*shape)
    check(Graph((x,), (op.tanh(x), op.concatenate(x, x, axis=0))))


@st.composite
def graphs(draw) -> Graph:
    """Random nets of movement, elementwise ops, concatenations and pads over rank-3 tensors."""
    x = x_of(*(draw(st.integers(1, 5)) for _ in range(3)))
    values = [x]
    for _ in range(draw(st.integers(1, 8))):
        v = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["move", "slice", "reverse", "pad", "join", "map", "flat"]))
        shape = v.shape
        if kind == "move":
            v = op.transpose(v, permutation=tuple(draw(st.permutations(range(3)))))
        elif kind == "slice":
            start = tuple(draw(st.integers(0, d - 1)) for d in shape)
            v = op.slice(v, start=start, limit=shape)
        elif kind == "reverse":
            v = op.reverse(v, axes=(draw(st.integers(0, 2)),))
        elif kind == "pad":
            low, high = (tuple(draw(st.integers(0, 2)) for _ in shape) for _ in range(2))
            v = op.pad(v, scalar(0.5, v), low=low, high=high)
        elif kind == "join":
            other = draw(st.sampled_from([w for w in values if w.shape == shape]))
            v = op.concatenate(v, other, axis=draw(st.integers(0, 2)))
        elif kind == "map":
            v = op.add(op.tanh(v), v)
        else:
            a, b, c = shape
            v = op.reshape(
                v, shape=draw(st.sampled_from([(a * b, c, 1), (c, a, b), (1, a, b * c)]))
            )
        values.append(v)
    count = draw(st.integers(1, min(3, len(values))))
    return Graph((x,), tuple(values[-count:]))


@given(graphs())
def test_any_net_of_movement_keeps_its_meaning(graph):
    check(graph)
