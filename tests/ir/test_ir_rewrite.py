"""The rewrite engine: patterns, captures, fixed points, read counts and its bounds."""

import numpy as np
import pytest
from ir_samples import body, graph_of, tensor

from tilth.ir.equality import equal
from tilth.ir.errors import CompileError, VerifyError
from tilth.ir.graph import Graph, Value, constant_of, make_constant, toposort
from tilth.ir.ops import op
from tilth.ir.rewrite import P, Rule, any_, constant, once, rewrite, splat, tagged
from tilth.ir.types import TensorType, f32, i64
from tilth.ir.verify import verify

x, y = any_("x"), any_("y")
DOUBLE_NEGATION = Rule("double negation", P.negate(P.negate(x)), lambda x: x)
TO_ABS = Rule("sqrt of square", P.sqrt(P.multiply(x, x)), lambda x: op.abs(x))


@pytest.fixture
def a():
    return tensor(f32, 2, 3, name="a")


@pytest.fixture
def b():
    return tensor(f32, 2, 3, name="b")


def ops(graph):
    return [node.op for node in graph.nodes]


def rewritten(rule, build, *inputs):
    graph, fired = rewrite(graph_of(build, *inputs), (rule,))
    verify(graph)
    assert set(fired) <= {rule.name}
    return graph


def fires(pattern, value):
    """Whether a pattern matches a node of the graph that computes `value`."""
    hits = []
    inputs = tuple(Value(n) for n in toposort([value.node]) if n.op == "input")
    rewrite(Graph(inputs, (value,)), (Rule("probe", pattern, lambda node: hits.append(node)),))
    return bool(hits)


def test_a_match_is_replaced_by_what_the_function_gives(a):
    graph, fired = rewrite(graph_of(lambda a: op.negate(op.negate(a)), a), (DOUBLE_NEGATION,))
    assert graph.outputs == (a,)
    assert fired == {"double negation": 1}


def test_a_graph_without_matches_stays_the_same_object(a):
    graph = graph_of(op.negate, a)
    assert rewrite(graph, (DOUBLE_NEGATION,)) == (graph, {})


def test_a_name_met_twice_must_be_one_value(a, b):
    assert ops(rewritten(TO_ABS, lambda a: op.sqrt(op.multiply(a, a)), a)) == ["abs"]
    unchanged = rewritten(TO_ABS, lambda a, b: op.sqrt(op.multiply(a, b)), a, b)
    assert ops(unchanged) == ["multiply", "sqrt"]


def test_operands_of_commutative_ops_match_in_either_order(a):
    two = make_constant(np.float32(2))
    for pair in [(a, two), (two, a)]:
        assert fires(P.multiply(any_(), splat(2)), op.multiply(*pair))
    assert not fires(P.subtract(splat(2), any_()), op.subtract(a, two))


def test_a_failed_order_leaves_no_captures_behind(a):
    rule = Rule(
        "negated factor",
        P.multiply(P.negate(x).named("inner"), constant("c")),
        lambda inner, x, c: x,
    )
    c = make_constant(np.ones((2, 3), np.float32))
    assert rewritten(rule, lambda a: op.multiply(c, op.negate(a)), a).outputs == (a,)


def test_splat_asks_for_one_number_everywhere(a):
    for number, matches in [(1.0, True), (2.0, False)]:
        value = op.multiply(a, make_constant(np.full((2, 3), number, np.float32)))
        assert fires(P.multiply(any_(), splat(1)), value) == matches
    assert not fires(P.multiply(any_(), splat(1)), op.multiply(a, a))


def test_attributes_match_by_value_or_predicate(a):
    total = op.reduce(a, kind="sum", axes=(1,))
    assert fires(P.reduce(any_(), kind="sum"), total)
    assert not fires(P.reduce(any_(), kind="max"), total)
    assert fires(P.reduce(any_(), axes=lambda axes: len(axes) == 1), total)
    assert not fires(P.reduce(any_(), axes=lambda axes: 0 in axes), total)


def test_operand_counts_must_agree_unless_left_open(a):
    joined = op.concatenate(a, a, a, axis=0)
    assert fires(P.concatenate, joined)
    assert fires(P.concatenate(any_(), ...), joined)
    assert fires(P.concatenate(..., axis=0), joined)
    assert not fires(P.concatenate(any_(), any_()), joined)
    assert not fires(P.concatenate(*[any_()] * 4, ...), joined)


def test_several_ops_and_tags_and_conditions(a, b):
    assert fires(P["maximum", "minimum"](x, x), op.minimum(a, a))
    assert fires(P[tagged("elementwise")], op.add(a, b))
    assert not fires(P[tagged("movement")], op.add(a, b))
    small = any_().where(lambda v: v.tensor.size < 10)
    assert fires(P.negate(small), op.negate(a))
    assert not fires(P.negate(small), op.negate(tensor(f32, 11)))


def test_a_rule_may_name_ops_or_a_predicate_instead_of_a_pattern(a):
    for pattern in [("negate", "abs"), lambda node: node.op == "negate"]:
        assert fires(pattern, op.negate(a))
        assert not fires(pattern, op.sqrt(a))


def test_once_asks_that_nothing_else_reads_the_value(a):
    rule = Rule("log of exp", P.log(once(P.exponential(x))), lambda x: x)
    assert rewritten(rule, lambda a: op.log(op.exponential(a)), a).outputs == (a,)

    def read_twice(a):
        e = op.exponential(a)
        return op.log(e), e

    assert ops(rewritten(rule, read_twice, a)) == ["exponential", "log"]


def test_once_sees_that_other_readers_went_away(a):
    """The exponential is read by `negate` too, until the difference is gone."""
    rules = (
        Rule("x - x", P.subtract(x, x), lambda x: make_constant(np.zeros(x.shape, np.float32))),
        Rule("log of exp", P.log(once(P.exponential(x))), lambda x: x),
    )

    def shared(a):
        e = op.exponential(a)
        n = op.negate(e)
        return op.add(op.log(e), op.subtract(n, n))

    assert ops(rewrite(graph_of(shared, a), rules)[0]) == ["constant", "add"]


def test_functions_may_ask_for_the_node_and_read_counts(a):
    seen = {}

    def look(node, uses, x):
        seen.update(op=node.op, reads=uses(x))

    def build(a):
        n = op.negate(a)
        return op.abs(n), op.add(n, n)

    rewrite(graph_of(build, a), (Rule("look", P.abs(x), look),))
    assert seen == {"op": "abs", "reads": 3}


def test_new_nodes_are_rewritten_too_and_inherit_name_and_source(a):
    rules = (
        Rule("square", P.power(x, splat(2)), lambda x: op.multiply(x, x)),
        Rule(
            "square of negated", P.multiply(P.negate(x), P.negate(x)), lambda x: op.multiply(x, x)
        ),
    )
    two = make_constant(np.float32(2))
    graph = graph_of(lambda a: op.power(op.negate(a), two, name="p", source="line 1"), a)
    result, fired = rewrite(graph, rules)
    assert fired == {"square": 1, "square of negated": 1}
    (node,) = result.nodes
    assert (node.op, node.name, node.source) == ("multiply", "p", "line 1")


def test_chains_reach_a_fixed_point(a):
    value = a
    for _ in range(2001):
        value = op.negate(value)
    graph, fired = rewrite(Graph((a,), (value,)), (DOUBLE_NEGATION,))
    assert ops(graph) == ["negate"]
    assert fired["double negation"] == 1000


def test_nodes_with_several_results_are_replaced_result_by_result(a):
    def sort_all(x):
        positions = op.iota(dtype=i64, shape=x.shape, axis=1)
        return op.sort(x, positions, axis=1, descending=True)

    rule = Rule("top of all", P.top_k(x, k=3), sort_all)
    graph = rewritten(rule, lambda a: op.top_k(a, k=3, axis=1), a)
    assert ops(graph) == ["iota", "sort"]


def test_sub_graphs_are_rewritten_but_fusion_bodies_are_not(a):
    twice = body(lambda a: op.negate(op.negate(a)), TensorType(f32, (2, 3)))
    true = make_constant(np.array(True))
    branch = op.if_(true, a, **{"then": twice, "else": twice})
    graph, _ = rewrite(Graph((a,), (branch,)), (DOUBLE_NEGATION,))
    assert ops(graph.nodes[-1].attrs["then"]) == []
    fusion = Graph((a,), (op.fusion(a, kind="elementwise", body=twice),))
    assert rewrite(fusion, (DOUBLE_NEGATION,))[0] is fusion


def test_rules_that_undo_each_other_are_named(a, b):
    rules = (
        Rule("there", P.add(x, y), lambda x, y: op.subtract(x, y)),
        Rule("back", P.subtract(x, y), lambda x, y: op.add(x, y)),
    )
    with pytest.raises(CompileError, match=r"do not settle: '(there|back)' \(\d+ times\)"):
        rewrite(graph_of(op.add, a, b), rules)


def test_a_rule_must_keep_the_type(a):
    rule = Rule("shrink", P.negate(x), lambda x: op.reduce(x, kind="sum", axes=(0,)))
    with pytest.raises(VerifyError, match="rule 'shrink' turns <negate"):
        rewrite(graph_of(op.negate, a), (rule,))


def test_mistakes_in_a_table_show_when_it_is_made():
    with pytest.raises(ValueError, match="rule 'r' captures no z"):
        Rule("r", P.negate(x), lambda z: z)
    with pytest.raises(ValueError, match="no such op: negatee"):
        P.negatee(x)
    with pytest.raises(ValueError, match="at the end"):
        P.concatenate(..., x)


def test_constants_can_be_folded_by_a_rule(a):
    def fold(c, d):
        return make_constant(constant_of(c) + constant_of(d))

    rule = Rule(
        "add constants",
        P.add(P.add(x, constant("c")), constant("d")),
        lambda x, c, d: op.add(x, fold(c, d)),
    )
    one = make_constant(np.float32(1))
    graph = rewritten(rule, lambda a: op.add(op.add(op.add(a, one), one), one), a)
    expected = graph_of(lambda a: op.add(a, make_constant(np.float32(3))), a)
    assert equal(graph, expected)
