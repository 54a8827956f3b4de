"""Placement: regions per device, as few as possible, with every transfer visible."""

import numpy as np
import pytest
from graph_samples import feeds, graph, graphs, tensor, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.compiler.place import place
from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import make_constant
from tilth.ir.interpreter import interpret
from tilth.ir.ops.table import op
from tilth.ir.verify import verify

x = tensor(3)
ANYWHERE = lambda node, device: None  # noqa: E731


def run(g, placement):
    """What the regions compute, one after the other."""
    values = dict(zip(g.inputs, feeds(g), strict=True))
    for region in placement.regions:
        verify(region.graph)
        results = interpret(region.graph, [values[v] for v in region.inputs])
        values.update(zip(region.outputs, results, strict=True))
    return [values[v] for v in g.outputs]


def only(**ops_of):
    return lambda node, device: None if node.op in ops_of[device] else f"no {node.op}"


def test_supported_graph_is_one_region():
    g = graph(op.add(op.tanh(x), op.sine(x)))
    placement = place(g, ["cpu", "reference"], ANYWHERE)
    assert [r.device for r in placement.regions] == ["cpu"]
    assert not placement.reasons


def test_unsupported_node_goes_to_the_next_device_with_its_reason():
    g = graph(op.sine(op.tanh(op.sine(x))))
    no_tanh = lambda n, d: "no tanh" if (n.op, d) == ("tanh", "cpu") else None  # noqa: E731
    placement = place(g, ["cpu", "reference"], no_tanh)
    assert [r.device for r in placement.regions] == ["cpu", "reference", "cpu"]
    assert list(placement.reasons.values()) == [("cpu: no tanh",)]
    np.testing.assert_array_equal(run(g, placement), interpret(g, feeds(g)))


def test_independent_chains_share_regions():
    chains = [op.sine(op.tanh(op.sine(v))) for v in (x, tensor(3, name="y"))]
    placement = place(graph(*chains), ["a", "b"], only(a={"sine"}, b={"tanh"}))
    assert [r.device for r in placement.regions] == ["a", "b", "a"]


def test_first_region_may_be_on_the_less_preferred_device():
    g = graph(op.add(op.sine(op.tanh(x)), op.sine(x)))
    placement = place(g, ["a", "b"], only(a={"sine", "add"}, b={"tanh"}))
    assert [r.device for r in placement.regions] == ["b", "a"]


def test_override_names_a_device():
    g = graph(op.sine(op.tanh(x)))
    chosen = lambda node: "b" if node.op == "tanh" else None  # noqa: E731
    placement = place(g, ["a", "b"], ANYWHERE, chosen)
    assert [r.device for r in placement.regions] == ["b", "a"]


def test_nodes_that_run_nowhere_are_all_listed():
    g = graph(op.tanh(op.sine(x, name="first"), name="second"))
    with pytest.raises(UnsupportedError, match=r"first \(sine\).*\n.*second \(tanh\)"):
        place(g, ["a"], only(a=set()))


def test_regions_hold_the_constants_they_read():
    w = weights(3)
    g = graph(op.tanh(op.add(op.sine(op.add(x, w)), w)))
    placement = place(g, ["a", "b"], only(a={"add", "tanh"}, b={"sine"}))
    assert all(v.op != "constant" for r in placement.regions for v in r.inputs)
    np.testing.assert_array_equal(run(g, placement), interpret(g, feeds(g)))


def test_output_that_is_a_constant_or_an_input_is_served():
    g = graph(make_constant(np.float32(3)), x)
    placement = place(g, ["cpu"], ANYWHERE)
    assert len(run(g, placement)) == 2


@settings(max_examples=60)
@given(graphs(), st.randoms(use_true_random=False))
def test_any_placement_of_any_graph_gives_the_same_answer(g, random):
    device = {node: random.choice("ab") for node in g.nodes}
    placement = place(g, ["a", "b"], ANYWHERE, device.__getitem__)
    for got, wanted in zip(run(g, placement), interpret(g, feeds(g)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for first, second in zip(placement.regions, placement.regions[1:], strict=False):
        assert first.device != second.device
