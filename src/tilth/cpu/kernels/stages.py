"""Which parts of a row-wise body are computed in which pass over the row.

A value is *full* when it differs along the row, else it is one scalar per row. Every reduction
needs a pass over the row; what a pass computes and a later pass needs again is either cheap and
computed again, or expensive and kept in memory that stays in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from tilth.cpu import vmath
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.space import Space, space_of
from tilth.ir import types
from tilth.ir.graph import Graph, Node, Value, clone, make_constant
from tilth.ir.ops.table import op
from tilth.ir.types import Shape

EXPENSIVE = (vmath.UNARY | vmath.BINARY | {"sqrt", "rsqrt", "divide"}) - {"remainder"}


@dataclass(frozen=True, slots=True)
class Pass:
    """One sweep over a row: full values to reduce (with their reduce nodes), store and keep."""

    reduces: tuple[Node, ...]
    outputs: tuple[int, ...]  # positions in the body's outputs that are stored here
    keeps: tuple[Value, ...]  # written to scratch for later passes
    reloads: tuple[Value, ...]  # kept by an earlier pass
    leaves: tuple[Value, ...]  # full body inputs to load
    scalars: tuple[Value, ...]  # per-row values to broadcast into the vectors

    @property
    def targets(self) -> tuple[Value, ...]:
        return tuple(n.inputs[0] for n in self.reduces)


@dataclass(frozen=True, slots=True)
class Stages:
    """The passes in order, and the outputs that are one scalar per row."""

    passes: tuple[Pass, ...]
    row_outputs: tuple[int, ...]

    @property
    def kept(self) -> tuple[Value, ...]:
        return tuple(v for p in self.passes for v in p.keeps)


def reduced_axes(body: Graph) -> Shape:
    """The axes that the body's reductions go over."""
    return _first_reduce(body).attrs["axes"]


def reduction_space(body: Graph, operands: Sequence[Operand], results: Sequence[Operand]) -> Space:
    """The space of the shape before reduction; what lacks the reduced axes gets them back as ones.

    An operand lacks them when the values it meets have the reduced shape.
    """
    shape, axes = _first_reduce(body).inputs[0].shape, reduced_axes(body)
    rank = len(shape)
    views = []
    for value, view in zip(body.inputs, operands, strict=True):
        users = body.users[value]
        has_axes = any(n.op == "reduce" or len(n.outputs[0].shape) == rank for n in users)
        views.append(view if has_axes else _with_axes(view, axes, rank))
    views += [r if len(r.shape) == rank else _with_axes(r, axes, rank) for r in results]
    return space_of(shape, views)


def _first_reduce(body: Graph) -> Node:
    return next(n for n in body.nodes if n.op == "reduce")


def _with_axes(view: Operand, axes: Shape, rank: int) -> Operand:
    missing = rank - len(axes) - len(view.shape)
    shape, strides = [1] * missing + list(view.shape), [0] * missing + list(view.strides)
    for axis in sorted(axes):
        shape.insert(axis, 1)
        strides.insert(axis, 0)
    return Operand(view.dtype, tuple(shape), tuple(strides))


def plan(body: Graph, stored: tuple[int, ...], full: Set[Value], slow: Set[Value]) -> Stages:
    """Cut a body into passes.

    `stored` are the positions of the outputs that have the shape before reduction, `full` the body
    inputs that differ along the row, `slow` those that are worth keeping once they were loaded.
    """
    is_full = _fullness(body, full)
    level = _levels(body)
    reduces = [n for n in body.nodes if n.op == "reduce"]
    depth = max(level[n.outputs[0]] for n in reduces)
    groups: list[tuple[tuple[Node, ...], tuple[int, ...]]] = []
    for k in range(1, depth + 1):
        groups.append((tuple(n for n in reduces if level[n.outputs[0]] == k), ()))
    if stored:
        groups.append(((), stored))
    needs = [
        _needed([n.inputs[0] for n in group] + [body.outputs[i] for i in outputs], is_full)
        for group, outputs in groups
    ]
    keep_at, reload_at = _materialise(needs, is_full, slow)
    passes = []
    for k, (group, outputs) in enumerate(groups):
        roots = [n.inputs[0] for n in group] + [body.outputs[i] for i in outputs] + keep_at[k]
        seen = _needed(roots, is_full, stop=frozenset(reload_at[k]))
        reloads = tuple(v for v in seen if v in reload_at[k])
        leaves = tuple(v for v in seen if is_full(v) and v.op == "input" and v not in reload_at[k])
        scalars = tuple(v for v in seen if not is_full(v))
        passes.append(Pass(group, outputs, tuple(keep_at[k]), reloads, leaves, scalars))
    rows = tuple(i for i in range(len(body.outputs)) if i not in stored)
    return Stages(tuple(passes), rows)


def _fullness(body: Graph, inputs: Set[Value]) -> Callable[[Value], bool]:
    full = {value: value in inputs for value in body.inputs}
    for node in body.nodes:
        for value in node.outputs:
            full[value] = node.op != "reduce" and any(full[v] for v in node.inputs)
    return full.__getitem__


def _levels(body: Graph) -> dict[Value, int]:
    """How many reductions, one after another, a value depends on."""
    level = dict.fromkeys(body.inputs, 0)
    for node in body.nodes:
        depth = max((level[v] for v in node.inputs), default=0)
        for value in node.outputs:
            level[value] = depth + (node.op == "reduce")
    return level


def _needed(
    roots: Iterable[Value], is_full: Callable[[Value], bool], stop: frozenset[Value] = frozenset()
) -> list[Value]:
    """Full values below `roots`, and the per-row values at their border, users first."""
    seen: dict[Value, None] = {}
    stack = list(roots)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen[value] = None
        if is_full(value) and value not in stop:
            stack.extend(value.node.inputs)
    return list(seen)


def _materialise(
    needs: list[list[Value]], is_full: Callable[[Value], bool], slow: Set[Value]
) -> tuple[list[list[Value]], list[set[Value]]]:
    """Per pass: the values to keep, and those that an earlier pass kept."""
    keep: list[list[Value]] = [[] for _ in needs]
    reload: list[set[Value]] = [set() for _ in needs]
    for k, needed in enumerate(needs):
        for value in needed:
            costly = value.op in EXPENSIVE or value in slow
            if not costly or not is_full(value) or value in reload[k]:
                continue
            later = [j for j in range(k + 1, len(needs)) if value in needs[j]]
            if later:
                keep[k].append(value)
                for j in later:
                    reload[j].add(value)
    return keep, reload


def reciprocals(body: Graph, full: Set[Value]) -> Graph:
    """Divide f32 rows by a scalar with one division per row: x / s = (x k) (1 / (s k)).

    k is a power of two that keeps 1 / (s k) a normal number, so that nothing overflows on the way;
    the error grows from 0.5 to 1.5 ulp.
    """
    is_full = _fullness(body, full)

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        is_f32 = node.op == "divide" and node.inputs[0].tensor.dtype == types.f32
        if not is_f32 or not is_full(node.inputs[0]) or is_full(node.inputs[1]):
            return clone(node, inputs)
        x, s = inputs
        tiny = op.compare(op.abs(s), _scalar(2.0**-100), direction="LT")
        huge = op.compare(op.abs(s), _scalar(2.0**100), direction="GT")
        k = op.select(tiny, _scalar(2.0**64), op.select(huge, _scalar(2.0**-64), _scalar(1.0)))
        inverse = op.divide(_scalar(1.0), op.multiply(s, k))
        return (op.multiply(op.multiply(x, k), inverse),)

    return body.map(rule)


def _scalar(value: float) -> Value:
    return make_constant(np.float32(value))
