"""Small graphs for the tests: builders, comparison by the interpreter, and random ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops.table import op
from tilth.ir.types import TensorType, f32

rng = np.random.default_rng(7)


def tensor(*shape: int, name: str = "x", dtype=f32) -> Value:
    return make_input(TensorType(dtype, shape), name)


def weights(*shape: int) -> Value:
    return make_constant(rng.standard_normal(shape).astype(np.float32))


def graph(*outputs: Value) -> Graph:
    """The graph of these outputs; its inputs are all `input` nodes they reach."""
    reached = {v: None for n in Graph((), outputs).nodes for v in n.inputs}
    inputs = [v for v in (*reached, *outputs) if v.op == "input"]
    return Graph(tuple(dict.fromkeys(inputs)), outputs)


def ops(g: Graph) -> list[str]:
    """The ops of a graph in order, constants left out; fusions by their kind."""
    nodes = [n for n in g.nodes if n.op != "constant"]
    return [n.attrs["kind"] if n.op == "fusion" else n.op for n in nodes]


def count(g: Graph) -> Counter[str]:
    return Counter(ops(g))


def feeds(g: Graph, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    arrays = []
    for value in g.inputs:
        dtype = value.tensor.dtype
        if dtype.is_float:
            arrays.append(draw.standard_normal(value.shape).astype(dtype.numpy))
        else:
            arrays.append(draw.integers(0, 2, value.shape).astype(dtype.numpy))
    return arrays


def assert_same(before: Graph, after: Graph, tolerance: float = 1e-5) -> None:
    """Both give the same outputs on random inputs, relative to the largest element."""
    assert before.input_names == after.input_names
    assert before.output_names == after.output_names
    inputs = feeds(before)
    for a, b in zip(interpret(before, inputs), interpret(after, inputs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(1.0, float(np.abs(a).max(initial=0, where=np.isfinite(a))))
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale)


# --- random graphs: a chain of steps, each on values made so far ---


@st.composite
def graphs(draw, image: bool = False) -> Graph:
    """A graph of up to 14 random ops over f32; of images [N, C, H, W] or of any small shapes."""
    if image:
        shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 4), *[st.integers(3, 6)] * 2))
    else:
        shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    values = [tensor(*shape), tensor(*shape, name="y")]
    steps = [*_STEPS, *([_convolution, _pool, _pool] if image else [])]
    for _ in range(draw(st.integers(4, 14))):
        made = draw(st.sampled_from(steps))(draw, values)
        if made is not None and 0 < made.tensor.size < 4096:
            values.append(made)
    others = draw(st.lists(st.sampled_from(values), max_size=1))
    return graph(values[-1], *others)


_Step = Callable[..., Value | None]


def _any(draw, values: Sequence[Value]) -> Value:
    return draw(st.sampled_from(values[:-5:-1]))  # the newest first, so that chains come about


def _unary(draw, values):
    name = draw(st.sampled_from(["relu", "tanh", "negate", "abs", "logistic", "gelu", "sine"]))
    return getattr(op, name)(_any(draw, values))


def _binary(draw, values):
    x, y = _any(draw, values), _any(draw, values)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return None
    return getattr(op, draw(st.sampled_from(["add", "subtract", "maximum"])))(x, y)


def _with_constant(draw, values):
    x = _any(draw, values)
    kept = draw(st.integers(0, x.tensor.rank))
    shape = [n if draw(st.booleans()) else 1 for n in x.shape[kept:]]
    name = draw(st.sampled_from(["add", "multiply", "subtract", "maximum"]))
    return getattr(op, name)(x, weights(*shape))


def _identity(draw, values):
    x = _any(draw, values)
    one = make_constant(np.ones([1] * draw(st.integers(0, x.tensor.rank)), np.float32))
    return op.multiply(x, one)


def _reduce(draw, values):
    x = _any(draw, values)
    axes = [d for d in range(x.tensor.rank) if draw(st.booleans())]
    y = op.reduce(x, kind=draw(st.sampled_from(["sum", "max"])), axes=axes)
    kept = [1 if d in axes else n for d, n in enumerate(x.shape)]
    return op.reshape(y, shape=kept) if draw(st.booleans()) else y


def _normalised(draw, values):
    x = _any(draw, values)
    if not x.tensor.rank:
        return None
    if draw(st.booleans()):
        return op.softmax(x, axis=draw(st.integers(0, x.tensor.rank - 1)))
    last = x.shape[-1]
    return op.layer_norm(x, weights(last), weights(last), axis=x.tensor.rank - 1, epsilon=0.1)


def _transpose(draw, values):
    x = _any(draw, values)
    return op.transpose(x, permutation=draw(st.permutations(range(x.tensor.rank))))


def _reshape(draw, values):
    x = _any(draw, values)
    left, shape = x.tensor.size, []
    while left > 1:
        factor = draw(st.sampled_from([n for n in range(2, left + 1) if left % n == 0]))
        shape.append(factor)
        left //= factor
    if draw(st.booleans()):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return op.reshape(x, shape=shape)


def _split_heads(draw, values):
    """Split one dimension, as channel shuffles and attention heads do."""
    x = _any(draw, values)
    splits = [(d, k) for d, n in enumerate(x.shape) for k in range(2, n) if n % k == 0]
    if not splits:
        return None
    d, k = draw(st.sampled_from(splits))
    return op.reshape(x, shape=(*x.shape[:d], k, x.shape[d] // k, *x.shape[d + 1 :]))


def _flatten(draw, values):
    x = _any(draw, values)
    if x.tensor.rank < 2:
        return None
    return op.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


def _slice(draw, values):
    x = _any(draw, values)
    start = [draw(st.integers(0, n - 1)) for n in x.shape]
    limit = [draw(st.integers(a + 1, n)) for a, n in zip(start, x.shape, strict=True)]
    strides = [draw(st.integers(1, 2)) for _ in x.shape]
    return op.slice(x, start=start, limit=limit, strides=strides)


def _pad(draw, values):
    x = _any(draw, values)
    sizes = [[draw(st.integers(0, 1)) for _ in x.shape] for _ in range(3)]
    zero = make_constant(np.float32(draw(st.sampled_from([0, 1]))))
    return op.pad(x, zero, low=sizes[0], high=sizes[1], interior=sizes[2])


def _concatenate(draw, values):
    x = _any(draw, values)
    same = [v for v in values if v.shape == x.shape]
    if not x.tensor.rank:
        return None
    axis = draw(st.integers(0, x.tensor.rank - 1))
    return op.concatenate(x, draw(st.sampled_from(same)), axis=axis)


def _reverse(draw, values):
    x = _any(draw, values)
    return op.reverse(x, axes=[d for d in range(x.tensor.rank) if draw(st.booleans())])


def _broadcast(draw, values):
    x = _any(draw, values)
    where = draw(st.integers(0, x.tensor.rank))
    dims = [d + (d >= where) for d in range(x.tensor.rank)]
    return op.broadcast_in_dim(x, shape=(*x.shape[:where], 2, *x.shape[where:]), dims=dims)


def _dot(draw, values):
    x = _any(draw, values)
    if x.tensor.rank < 2:
        return None
    w = weights(x.shape[-1], draw(st.integers(1, 4)))
    return op.dot_general(x, w, lhs_contract=(x.tensor.rank - 1,), rhs_contract=(0,))


def _batched_dot(draw, values):
    x = _any(draw, values)
    if x.tensor.rank != 3:
        return None
    (batch, contract) = (0,), (draw(st.integers(1, 2)),)
    return op.dot_general(
        x, x, lhs_batch=batch, rhs_batch=batch, lhs_contract=contract, rhs_contract=contract
    )


def _convolution(draw, values):
    x = _any(draw, values)
    if x.tensor.rank != 4:
        return None
    channels = x.shape[1]
    groups = draw(st.sampled_from([1, channels]))
    window = [draw(st.integers(1, min(3, n))) for n in x.shape[2:]]
    dilated = draw(st.booleans()) and draw(st.booleans())
    return op.convolution(
        x,
        weights(groups * draw(st.integers(1, 3)), channels // groups, *window),
        strides=[1, 1] if dilated else [draw(st.integers(1, 2)) for _ in window],
        padding=[(n - 1, n - 1) if dilated else (n // 2, n // 2) for n in window],
        lhs_dilation=window if dilated else [1, 1],
        groups=groups,
    )


def _pool(draw, values):
    x = _any(draw, values)
    if x.tensor.rank != 4 or min(x.shape[2:]) < 2:
        return None
    attrs = {
        "window": (1, 1, 2, 2),
        "strides": (1, 1, draw(st.integers(1, 2)), 1),
        "padding": ((0, 0), (0, 0), (draw(st.integers(0, 1)), 0), (0, 0)),
    }
    if draw(st.booleans()):
        return op.average_pool(x, **attrs, count_include_pad=draw(st.booleans()))
    return op.reduce_window(x, kind=draw(st.sampled_from(["max", "sum"])), **attrs)


_STEPS: list[_Step] = [
    *(_unary, _unary, _binary, _binary, _with_constant, _with_constant, _identity),
    *(_reduce, _normalised, _transpose, _transpose, _reshape, _split_heads, _flatten),
    *(_slice, _pad, _concatenate, _reverse, _broadcast, _dot, _batched_dot),
]
