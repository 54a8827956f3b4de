"""What a model may ask for before it runs: memory in proportion to it, and bounded work."""

import numpy as np
import pytest

from tilth.compiler.fold import fold_constants
from tilth.ir.errors import LimitError, TilthError
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.limits import memory_limit, require_memory, require_tensor
from tilth.ir.ops import op
from tilth.ir.types import TensorType, bool_, f32, i64
from tilth.ir.work import bounded_work

GIB = 1 << 30


def test_memory_is_in_proportion_to_weights_and_inputs():
    assert memory_limit(0) == GIB // 2
    assert memory_limit(GIB) == 64 * GIB


def test_the_limit_on_memory_can_be_set(monkeypatch):
    monkeypatch.setenv("TILTH_MEMORY_LIMIT", "1000")
    assert memory_limit(GIB) == 1000
    monkeypatch.setenv("TILTH_MEMORY_LIMIT", "much")
    with pytest.raises(TilthError, match="number of bytes, not 'much'"):
        memory_limit(0)


def test_messages_say_how_much_was_asked_for_and_how_to_allow_it():
    with pytest.raises(LimitError, match=r"takes 4 TiB, over the limit of 512 MiB.*TILTH_MEMORY"):
        require_tensor(TensorType(f32, (1 << 40,)), memory_limit(0))
    with pytest.raises(LimitError, match="99 dimensions; 64 are possible"):
        require_tensor(TensorType(f32, (1,) * 99), memory_limit(0))
    require_memory("nothing", 0, 0)


def endless_loop() -> Value:
    """Counts as long as the count is at least 0."""
    inputs = [make_input(TensorType(i64, ()), "count") for _ in range(2)]
    more = op.compare(inputs[0], make_constant(np.int64(0)), direction="GE")
    after = op.multiply(inputs[1], make_constant(np.int64(1)))
    cond, body = Graph((inputs[0],), (more,)), Graph((inputs[1],), (after,))
    assert more.tensor.dtype == bool_
    return op.while_(make_constant(np.int64(0)), cond=cond, body=body)


def test_interpreting_can_be_bounded():
    graph = Graph((), (endless_loop(),))
    with bounded_work(1_000_000), pytest.raises(LimitError, match="takes too long"):
        interpret(graph, [])


def test_an_inner_bound_counts_against_the_outer_one():
    small = Graph((), (op.negate(make_constant(np.zeros(8))),))
    with bounded_work(35_000):
        for _ in range(3):
            with bounded_work(20_000), pytest.raises(LimitError):
                interpret(Graph((), (endless_loop(),)), [])
        with pytest.raises(LimitError):
            interpret(small, [])


def test_without_a_bound_everything_is_computed():
    (result,) = interpret(Graph((), (op.negate(make_constant(np.ones(1 << 24))),)), [])
    assert result.shape == (1 << 24,)


def test_endless_loops_are_not_folded():
    graph = fold_constants(Graph((), (endless_loop(),)))
    assert [n.op for n in graph.nodes] == ["constant", "while"]


def test_constants_that_double_again_and_again_are_folded_only_so_far():
    value = make_constant(np.ones(1 << 20, np.float32))
    for _ in range(12):
        value = op.concatenate(value, value, axis=0)
    graph = fold_constants(Graph((), (value,)))
    constants = [n.types[0].nbytes for n in graph.nodes if n.op == "constant"]
    assert sum(constants) <= 1 << 28
    assert value.tensor.nbytes == 1 << 34
