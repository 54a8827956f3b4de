"""The interpreter: runs graphs, control flow and fusions, and holds every result to its type."""

import gc
import weakref

import numpy as np
import pytest
from ir_samples import body, graph_of, run, run_all, tensor

from tilth.ir.errors import InputError, VerifyError
from tilth.ir.graph import Graph, inline, make_constant
from tilth.ir.interpreter import decomposition, evaluate, interpret
from tilth.ir.ops import REFERENCE, make, op
from tilth.ir.types import TensorType, f32, i32

ONE = np.ones((2, 3), np.float32)
X = TensorType(f32, (2, 3))
COUNT = TensorType(i32, ())


def sum_graph():
    return graph_of(op.add, tensor(f32, 2, 3, name="a"), tensor(f32, 2, 3, name="b"))


def test_inputs_come_in_order_or_by_name():
    by_name = interpret(sum_graph(), {"b": 2 * ONE, "a": ONE})
    np.testing.assert_array_equal(by_name, interpret(sum_graph(), [ONE, 2 * ONE]))


def test_wrong_inputs_are_refused():
    with pytest.raises(InputError, match="has 2 inputs, got 1"):
        interpret(sum_graph(), [ONE])
    with pytest.raises(InputError, match="inputs are"):
        interpret(sum_graph(), {"a": ONE, "c": ONE})
    with pytest.raises(InputError, match=r"input 'b' is f32\[2,3\], got float64\[2, 3\]"):
        interpret(sum_graph(), [ONE, ONE.astype(np.float64)])
    with pytest.raises(InputError, match=r"got float32\[3\]"):
        interpret(sum_graph(), [ONE, ONE[0]])


def test_outputs_are_contiguous_and_may_repeat_inputs_and_constants():
    x = tensor(f32, 2, 3)
    graph = Graph((x,), (op.transpose(x, permutation=(1, 0)), x, make_constant(ONE)))
    transposed, same, constant = interpret(graph, [ONE])
    assert transposed.flags.c_contiguous
    np.testing.assert_array_equal(same, constant)


def test_a_result_of_the_wrong_type_is_refused(monkeypatch):
    monkeypatch.setitem(REFERENCE, "add", lambda x, y: (x + y).astype(np.float64))
    with pytest.raises(VerifyError, match=r"<add .* gave float64\[2, 3\] instead of f32\[2,3\]"):
        interpret(sum_graph(), [ONE, ONE])


def test_dead_values_are_freed(monkeypatch):
    alive = []

    def observed(x):
        gc.collect()
        result = np.negative(x)
        alive.append(weakref.ref(result))
        return result

    monkeypatch.setitem(REFERENCE, "negate", observed)
    x = tensor(f32, 2, 3)
    value = x
    for _ in range(5):
        value = op.negate(value)
    interpret(Graph((x,), (value,)), [ONE])
    assert sum(ref() is not None for ref in alive) <= 1


def test_evaluate_runs_one_node():
    node = make("top_k", tensor(f32, 3), k=1, axis=0)
    values, indices = evaluate(node, [np.array([1, 3, 2], np.float32)])
    assert (values, indices) == ([3], [1])


def test_decompositions_are_shared_between_equal_nodes():
    x = tensor(f32, 2, 3)
    first, second = make("softmax", x, axis=1), make("softmax", op.negate(x), axis=1)
    assert decomposition(first) is decomposition(second)
    assert decomposition(first) is not decomposition(make("softmax", x, axis=0))


def test_if_runs_one_branch():
    attrs = {"then": body(op.negate, X), "else": body(op.abs, X)}
    for pred, expected in [(True, -ONE), (False, ONE)]:
        result = run(lambda p, x: op.if_(p, x, **attrs), np.array(pred), ONE)
        np.testing.assert_array_equal(result, expected)


def test_while_runs_until_its_condition_fails():
    below = body(lambda n: op.compare(n, make_constant(np.int32(100)), direction="LT"), COUNT)
    double = body(lambda n: op.add(n, n), COUNT)
    result = run(lambda n: op.while_(n, cond=below, body=double), np.int32(3))
    assert result == 192


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_carries_state_and_stacks_results(reverse):
    row = TensorType(f32, (3,))
    step = body(lambda c, x: (op.add(c, x), op.add(c, x)), row, row)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    last, sums = run_all(
        lambda c, x: op.scan(c, x, body=step, carries=1, reverse=reverse), 0 * x[0], x
    )
    order = x[::-1] if reverse else x
    expected = np.cumsum(order, axis=0)
    np.testing.assert_array_equal(sums, expected[::-1] if reverse else expected)
    np.testing.assert_array_equal(last, expected[-1])


def test_scan_over_nothing_gives_its_initial_state():
    row = TensorType(f32, (3,))
    step = body(lambda c, x: (op.add(c, x), x), row, row)
    last, stacked = run_all(
        lambda c, x: op.scan(c, x, body=step, carries=1), ONE[0], np.zeros((0, 3), np.float32)
    )
    np.testing.assert_array_equal(last, ONE[0])
    assert stacked.shape == (0, 3)


def test_a_fusion_means_its_body_and_decomposes_to_it():
    fused = body(lambda a, b: op.exponential(op.add(a, b)), X, X)
    inputs = tensor(f32, 2, 3, name="a"), tensor(f32, 2, 3, name="b")
    fusion = make("fusion", *inputs, kind="elementwise", body=fused)
    by_reference = interpret(Graph(inputs, fusion.outputs), [ONE, ONE])
    inlined = Graph(inputs, inline(fused, inputs))
    assert [n.op for n in inlined.nodes] == ["add", "exponential"]
    np.testing.assert_array_equal(by_reference, interpret(inlined, [ONE, ONE]))


def test_sub_graphs_must_fit_their_operands():
    x, p, n = tensor(f32, 2, 3), tensor(i32), tensor(i32)
    negated, counted = body(op.negate, X), body(op.negate, COUNT)
    pred = op.compare(p, p, direction="EQ")
    for message, build in {
        "then takes": lambda: op.if_(pred, x, **{"then": counted, "else": negated}),
        "is not bool": lambda: op.if_(p, x, **{"then": negated, "else": negated}),
        "attributes are then and else": lambda: op.if_(pred, x, then=negated),
        "is not a Graph": lambda: op.while_(n, cond="true", body=counted),
        "is not bool$": lambda: op.while_(n, cond=counted, body=counted),
        "leaves no sequence": lambda: op.scan(x, body=negated, carries=1),
        "body takes": lambda: op.scan(x, body=negated, carries=0),
        "is not one of": lambda: op.fusion(x, kind="magic", body=negated),
    }.items():
        with pytest.raises(VerifyError, match=message):
            build()
