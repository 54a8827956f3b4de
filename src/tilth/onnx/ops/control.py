"""If, Loop and Scan.

A condition or trip count that is known while importing disappears: the branch is placed inline, the
loop becomes a `scan` of known length, or is unrolled where its values change type or its body needs
the iteration number to compute shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from tilth.ir.errors import ModelError, UnsupportedError
from tilth.ir.graph import Graph, Value, constant_of, make_input
from tilth.ir.ops.helpers import as_shape, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import bool_, i64
from tilth.onnx.build import concatenate, expand_dims, full, iota, scalar, slice_axis
from tilth.onnx.check import count_body_nodes
from tilth.onnx.context import DataDependentError, NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.tensors import element_type

_UNROLL_LIMIT = 4096  # iterations ...
_UNROLL_NODES = 8192  # ... and copies of nodes


def _inputs_like(values: Sequence[Value], prefix: str) -> list[Value]:
    return [make_input(v.type, f"{prefix}{i}") for i, v in enumerate(values)]


def _inner(captures: Mapping[str, Value]) -> dict[str, Value]:
    return {name: make_input(v.type, name) for name, v in captures.items()}


def _types(values: Sequence[Value]) -> list:
    return [v.type for v in values]


@onnx_op("If")
def if_(cx: NodeContext, condition: Value) -> list[Value]:
    known = cx.evaluate(condition)
    if known is not None:
        return cx.body("then_branch" if known.reshape(()) else "else_branch")
    captures = cx.captures("then_branch", "else_branch")
    graphs = []
    for attribute in ("then_branch", "else_branch"):
        inner = _inner(captures)
        outputs = cx.body(attribute, (), inner)
        if not all(isinstance(v, Value) for v in outputs):
            raise UnsupportedError(f"{cx.label}: a branch that gives a sequence")
        graphs.append(Graph(tuple(inner.values()), tuple(outputs), name=attribute))
    then, otherwise = graphs
    if _types(then.outputs) != _types(otherwise.outputs):
        cx.static(condition, "which of two branches with different shapes is taken")
    branches = {"then": then, "else": otherwise}
    results = op.if_(as_shape(condition, ()), *captures.values(), **branches)
    return [results] if isinstance(results, Value) else list(results)


# Loop


@onnx_op("Loop")
def loop(
    cx: NodeContext, trips: Value | None, condition: Value | None, *carried: Value
) -> list[Value]:
    count = None if trips is None else cx.evaluate(trips)
    going = np.True_ if condition is None else cx.evaluate(condition)
    if going is None or (trips is not None and count is None):
        return _while(cx, trips, condition, carried)
    limit = None if count is None else int(count.reshape(()))
    if not going.all():
        limit = 0
    if limit:
        body = _counted_body(cx, carried)
        if body is not None:
            return _scan_of(cx, body, carried, limit)
    return _unrolled(cx, carried, limit)


def _counted_body(cx: NodeContext, carried: Sequence[Value]) -> Graph | None:
    """The body over (carried, captures, iteration), or None if it is no plain counted loop."""
    if not all(isinstance(v, Value) for v in carried):
        return None
    captures = cx.captures("body")
    step = make_input(scalar(0, i64).type, "iteration")
    state, inner = _inputs_like(carried, "carried"), _inner(captures)
    try:
        going, *results = cx.body("body", [step, scalar(True, bool_), *state], inner)
    except DataDependentError:
        return None
    after = results[: len(carried)]
    keeps_going = constant_of(going)
    if keeps_going is None or not keeps_going.all() or _types(after) != _types(carried):
        return None
    if any(not isinstance(v, Value) for v in results):
        return None
    inputs = (*state, *inner.values(), step)
    return Graph(inputs, (*after, *inner.values(), *results[len(carried) :]), name="body")


def _scan_of(cx: NodeContext, body: Graph, carried: Sequence[Value], count: int) -> list[Value]:
    captured = list(cx.captures("body").values())
    state = [*carried, *captured]
    results = op.scan(*state, iota((count,), 0, i64), body=body, carries=len(state))
    results = [results] if isinstance(results, Value) else list(results)
    return results[: len(carried)] + results[len(state) :]


def _unrolled(cx: NodeContext, carried: Sequence[Value], limit: int | None) -> list[Value]:
    """One copy of the body per iteration, as long as its condition is known to hold."""
    state, rows, step = list(carried), [], 0
    nodes = count_body_nodes(cx.attr("body"))
    most = min(_UNROLL_LIMIT, _UNROLL_NODES // max(1, nodes))
    while limit is None or step < limit:
        if step >= most:
            raise UnsupportedError(f"{nodes} nodes over {most} times in a loop: not unrolled")
        going, *results = cx.body("body", [scalar(step, i64), scalar(True, bool_), *state])
        state = results[: len(carried)]
        rows.append(results[len(carried) :])
        step += 1
        if not cx.static(going, "the number of iterations").all():
            break
    stacks = cx.output_count - len(carried)
    if not rows and stacks:
        return [*state, *_empty_rows(cx, carried)]
    stacked = [concatenate([expand_dims(r[i], (0,)) for r in rows], 0) for i in range(stacks)]
    return [*state, *stacked]


def _empty_rows(cx: NodeContext, carried: Sequence[Value]) -> list[Value]:
    """What a loop of no iterations stacks: the types come from a body that never runs.

    Its iteration is no constant unless shapes follow from it, for 0 may be no index of anything.
    Where the body has no meaning even so, its declared types count; open dimensions are 0.
    """
    for step in (make_input(scalar(0, i64).type, "iteration"), scalar(0, i64)):
        with suppress(DataDependentError, ModelError):
            _, *results = cx.body("body", [step, scalar(True, bool_), *carried])
            rows = results[len(carried) :]
            return [full(0, (0, *r.shape), r.tensor.dtype) for r in rows]
    outputs = cx.attr("body").output[1 + len(carried) :]
    declared = [info.type.tensor_type for info in outputs]
    shapes = [(0, *(max(0, d.dim_value) for d in t.shape.dim)) for t in declared]
    types = [element_type(t.elem_type, f"{cx.label}: a result") for t in declared]
    return [full(0, shape, dtype) for shape, dtype in zip(shapes, types, strict=True)]


def _while(
    cx: NodeContext, trips: Value | None, condition: Value | None, carried: Sequence[Value]
) -> list[Value]:
    """A loop whose end depends on data; what it stacks or collects would have no known length."""
    if cx.output_count > len(carried) or not all(isinstance(v, Value) for v in carried):
        for bound in (trips, condition):
            if bound is not None:
                cx.static(bound, "the number of iterations")
    captures = cx.captures("body")
    limit = scalar(2**63 - 1, i64) if trips is None else as_shape(trips, ())
    going = scalar(True, bool_) if condition is None else as_shape(condition, ())
    state = [scalar(0, i64), going, limit, *carried, *captures.values()]

    inputs = _inputs_like(state, "state")
    more = op.and_(op.compare(inputs[0], inputs[2], direction="LT"), inputs[1])
    cond = Graph(tuple(inputs), (more,), name="cond")

    inputs = _inputs_like(state, "state")
    step, going, limit, *rest = inputs
    inner = dict(zip(captures, rest[len(carried) :], strict=True))
    going, *after = cx.body("body", [step, going, *rest[: len(carried)]], inner)
    if _types(after) != _types(carried):
        raise UnsupportedError("a loop of unknown length changes the shape of what it carries")
    outputs = (op.add(step, scalar(1, i64)), as_shape(going, ()), limit, *after, *inner.values())
    body = Graph(tuple(inputs), outputs, name="body")
    results = op.while_(*state, cond=cond, body=body)
    return list(results[3 : 3 + len(carried)])


# Scan


@onnx_op("Scan", since=9)
def scan(cx: NodeContext, *operands: Value) -> list[Value]:
    sequences = cx.attr("num_scan_inputs")
    states, inputs = operands[: len(operands) - sequences], operands[len(operands) - sequences :]
    axes = cx.attr("scan_input_axes", (0,) * sequences)
    moved = [_to_front(x, a) for x, a in zip(inputs, axes, strict=True)]
    moved = [
        op.reverse(x, axes=(0,)) if back else x
        for x, back in zip(moved, cx.attr("scan_input_directions", (0,) * sequences), strict=True)
    ]
    results = _scan(cx, states, moved)
    stacked = results[len(states) :]
    backs = cx.attr("scan_output_directions", (0,) * len(stacked))
    stacked = [
        op.reverse(y, axes=(0,)) if back else y for y, back in zip(stacked, backs, strict=True)
    ]
    out_axes = cx.attr("scan_output_axes", (0,) * len(stacked))
    stacked = [_from_front(y, a) for y, a in zip(stacked, out_axes, strict=True)]
    return [*results[: len(states)], *stacked]


def _to_front(x: Value, axis: int) -> Value:
    axis %= len(x.shape)
    return permuted(x, (axis, *(i for i in range(len(x.shape)) if i != axis)))


def _from_front(x: Value, axis: int) -> Value:
    axis %= len(x.shape)
    order = list(range(1, len(x.shape)))
    order.insert(axis, 0)
    return permuted(x, order)


def _scan(cx: NodeContext, states: Sequence[Value], sequences: Sequence[Value]) -> list[Value]:
    captures = cx.captures("body")
    carried, inner = _inputs_like(states, "state"), _inner(captures)
    slices = [
        make_input(s.tensor.with_shape(s.shape[1:]), f"slice{i}") for i, s in enumerate(sequences)
    ]
    outputs = cx.body("body", [*carried, *slices], inner)
    after, rows = outputs[: len(states)], outputs[len(states) :]
    body = Graph(
        (*carried, *inner.values(), *slices), (*after, *inner.values(), *rows), name="body"
    )
    state = [*states, *captures.values()]
    results = op.scan(*state, *sequences, body=body, carries=len(state))
    results = [results] if isinstance(results, Value) else list(results)
    return results[: len(states)] + results[len(state) :]


@onnx_op("Scan", since=8)
def scan_batched(cx: NodeContext, lengths: Value | None, *operands: Value) -> list[Value]:
    """Opset 8 scans each element of a leading batch dimension on its own."""
    if lengths is not None:
        raise UnsupportedError("sequence_lens of Scan")
    sequences = cx.attr("num_scan_inputs")
    count = len(operands) - sequences
    backs = cx.attr("directions", (0,) * sequences)
    batches = []
    for b in range(operands[0].shape[0]):
        own = [as_shape(slice_axis(x, 0, b, b + 1), x.shape[1:]) for x in operands]
        inputs = [
            op.reverse(x, axes=(0,)) if back else x
            for x, back in zip(own[count:], backs, strict=True)
        ]
        batches.append([expand_dims(y, (0,)) for y in _scan(cx, own[:count], inputs)])
    return [concatenate(column, 0) for column in zip(*batches, strict=True)]
