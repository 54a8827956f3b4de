"""Control flow inside one program: branches and loops, nested, on one thread and on several."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_check import check_program

from tilth.cpu import build
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.ops.helpers import broadcast_to, matmul, scalar

TRUE, FALSE = np.array(True), np.array(False)


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request, monkeypatch):
    """All threads take part, however small the work."""
    monkeypatch.setattr(build, "_is_tiny", lambda items: False)
    return request.param


def graph(build, *like: Value) -> Graph:
    """A sub-graph over inputs of the types of these values."""
    inputs = tuple(make_input(v.type, f"a{i}") for i, v in enumerate(like))
    results = build(*inputs)
    return Graph(inputs, (results,) if isinstance(results, Value) else tuple(results))


def if_(pred, then, otherwise, *captures):
    return op.if_(
        pred, *captures, **{"then": graph(then, *captures), "else": graph(otherwise, *captures)}
    )


def while_(cond, body, *state):
    return op.while_(*state, cond=graph(cond, *state), body=graph(body, *state))


def scan(body, carried, sequences, reverse=False):
    slices = [make_input(s.tensor.with_shape(s.shape[1:]), "s") for s in sequences]
    inner = graph(body, *carried, *slices)
    return op.scan(*carried, *sequences, body=inner, carries=len(carried), reverse=reverse)


def counting(limit):
    """A condition on a counter, the first of the state."""
    return lambda i, *rest: op.compare(i, scalar(limit, i), direction="LT")


def one_more(i):
    return op.add(i, scalar(1, i))


# -- branches ------------------------------------------------------------------------------------
@pytest.mark.parametrize("pred", [TRUE, FALSE])
def test_a_branch_computes_one_of_two(pred, threads, rng):
    x, y = rng.standard_normal((2, 70, 33)).astype(np.float32)

    def build(pred, x, y):
        first, second = if_(
            pred,
            lambda x, y: (op.softmax(op.add(x, y), axis=1), x),
            lambda x, y: (op.transpose(op.reshape(y, shape=(33, 70)), permutation=(1, 0)), y),
            *(x, y),
        )
        return op.negate(first), second

    report = check_program(build, pred, x, y, threads=threads)
    assert [k.name for k in report.kernels] == ["if", "elementwise"]


def test_a_branch_on_what_was_computed_just_before(threads, rng):
    x = rng.standard_normal((50, 40)).astype(np.float32)

    def build(x):
        total = op.reduce(x, kind="sum", axes=(0, 1))
        pred = op.compare(total, scalar(0, x), direction="GT")
        return if_(pred, lambda x: op.exponential(x), lambda x: x, op.multiply(x, x))

    for array in (x, x + 1, x - 1):
        check_program(build, array, threads=threads)


def test_branches_in_branches(threads):
    x = np.arange(6, dtype=np.float32)

    def build(p, q, x):
        def inner(q, x):
            return if_(q, lambda x: op.negate(x), lambda x: op.add(x, x), x)

        return if_(p, inner, lambda q, x: op.sqrt(x), q, x)

    for p in (TRUE, FALSE):
        for q in (TRUE, FALSE):
            check_program(build, p, q, x, threads=threads)


def test_results_land_where_a_consumer_wants_them(threads, rng):
    x = rng.standard_normal((4, 20)).astype(np.float32)

    def build(p, x):
        chosen = if_(p, lambda x: op.tanh(x), lambda x: x, x)
        return op.concatenate(x, chosen, x, axis=0)

    check_program(build, TRUE, x, threads=threads)
    check_program(build, FALSE, x, threads=threads)


# -- while ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("turns", [0, 1, 2, 7])
def test_a_while_loop_carries_state(turns, threads, rng):
    x = rng.standard_normal((40, 40)).astype(np.float32) / 8
    w = rng.standard_normal((40, 40)).astype(np.float32) / 8

    def build(i, x, w):
        return while_(
            counting(turns), lambda i, x, w: (one_more(i), op.tanh(matmul(x, w)), w), i, x, w
        )

    check_program(build, np.array(0, np.int64), x, w, threads=threads)


def test_a_while_loop_until_data_says_so(threads):
    """The least power of two that is not below x, for each start."""

    def build(x, p):
        def going(x, p):
            return op.compare(p, x, direction="LT")

        return while_(going, lambda x, p: (x, op.multiply(p, scalar(2, p))), x, p)

    for x in (0.5, 1.0, 5.0, 1e6):
        check_program(build, np.array(x, np.float32), np.array(1, np.float32), threads=threads)


def test_states_that_change_places(threads, rng):
    x, y = rng.standard_normal((2, 30)).astype(np.float32)

    def build(i, x, y):
        results = while_(counting(5), lambda i, x, y: (one_more(i), y, x), i, x, y)
        return results[1:]

    check_program(build, np.array(0, np.int64), x, y, threads=threads)


def test_a_loop_reads_what_was_made_before_it_in_every_turn(threads, rng):
    """What lives before, in and after a loop must keep its memory during all of it."""
    x = rng.standard_normal((64, 64)).astype(np.float32)

    def build(i, x):
        before, kept = op.exponential(x), op.tanh(x)

        def body(i, s, before):
            temporary = op.transpose(op.softmax(op.add(s, before), axis=1), permutation=(1, 0))
            return one_more(i), op.reverse(op.softmax(temporary, axis=1), axes=(0,)), before

        _, s, _ = while_(counting(6), body, i, x, before)
        return op.add(s, kept)

    check_program(build, np.array(0, np.int64), x, threads=threads)


# -- scan ----------------------------------------------------------------------------------------
@settings(max_examples=12)
@given(
    length=st.integers(1, 6),
    reverse=st.booleans(),
    sequences=st.integers(1, 2),
    carries=st.integers(0, 2),
    data=st.data(),
)
def test_scans_of_any_kind(length, reverse, sequences, carries, data):
    rng = np.random.default_rng(0)
    invariant = data.draw(st.booleans(), label="invariant")
    used = 1 + data.draw(st.integers(0, 2), label="threads")
    arrays = rng.standard_normal((carries + sequences, length, 5, 9)).astype(np.float32)
    states, sequence_arrays = arrays[:carries, 0], arrays[carries:]

    def build(*values):
        def body(*inner):
            state, slices = inner[:carries], inner[carries:]
            mixed = slices[0]
            for other in (*state, *slices[1:]):
                mixed = op.add(mixed, op.sine(other))
            after = [s if invariant and i == 0 else op.tanh(mixed) for i, s in enumerate(state)]
            return (*after, mixed, slices[-1])

        return scan(body, values[:carries], values[carries:], reverse)

    check_program(build, *states, *sequence_arrays, threads=used)


def test_a_scan_over_no_slices(threads, rng):
    def build(h, xs):
        return scan(lambda h, x: (op.add(h, x), op.negate(x)), [h], [xs])

    h = rng.standard_normal(4).astype(np.float32)
    check_program(build, h, np.zeros((0, 4), np.float32), threads=threads)


def test_a_recurrent_layer(threads, rng):
    """Weights that a loop leaves alone are packed; steps of a transposed sequence are views."""
    xs = rng.standard_normal((20, 7, 30)).astype(np.float32)
    w = make_constant(rng.standard_normal((30, 30)).astype(np.float32) / 6)
    h = rng.standard_normal((20, 30)).astype(np.float32)

    def build(h, xs):
        def body(h, w, x):
            after = op.tanh(op.add(matmul(h, w), x))
            return after, w, after

        h, _, ys = scan(body, [h, w], [op.transpose(xs, permutation=(1, 0, 2))])
        return h, op.transpose(ys, permutation=(1, 0, 2))

    report = check_program(build, h, xs, threads=threads)
    names = [k.name for k in report.kernels]
    assert names.count("scan") == 1
    scan_row = next(k for k in report.kernels if k.name == "scan")
    assert scan_row.algorithm.startswith("7 x ")


def test_a_composite_that_becomes_a_loop_is_compiled(threads, rng):
    """Loops that appear when composites are taken apart go through all passes too."""
    xs = rng.standard_normal((3, 4, 8)).astype(np.float32)

    def build(xs):
        def outer(h, x):
            def inner(g, y):
                return op.add(g, op.gelu(y)), op.softmax(g, axis=0)

            g, ys = scan(inner, [h], [x])
            return g, ys

        start = broadcast_to(make_constant(np.float32(0.5)), (8,))
        return scan(outer, [start], [xs])

    check_program(build, xs, threads=threads)


def test_loops_with_branches_inside(threads, rng):
    xs = rng.standard_normal((9, 33)).astype(np.float32)

    def build(h, xs):
        def body(h, x):
            total = op.reduce(x, kind="sum", axes=(0,))
            pred = op.compare(total, scalar(0, x), direction="GT")
            after = if_(pred, lambda h, x: op.add(h, x), lambda h, x: h, h, x)
            return after, op.multiply(after, x)

        return scan(body, [h], [xs])

    check_program(build, np.zeros(33, np.float32), xs, threads=threads)


def test_types_of_states_other_than_floats(threads):
    def build(i, going, seen):
        def body(i, going, seen):
            more = op.compare(i, scalar(3, i), direction="LT")
            return one_more(i), more, op.or_(seen, op.not_(more))

        return while_(lambda i, going, seen: going, body, i, going, seen)

    check_program(build, np.array(0, np.int64), TRUE, np.zeros(5, bool), threads=threads)
