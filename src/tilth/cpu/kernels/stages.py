"""Which parts of a row-wise body are computed in which pass over the row.

A value is *full* when it differs along the row, else it is one scalar per row. Every reduction
needs a pass over the row; what a pass computes and a later pass needs again is either cheap and
computed again, or expensive and kept in memory that stays in the first-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tilth.cpu import vmath
from tilth.ir import types
from tilth.ir.graph import Graph, Node, Value, clone, make_constant
from tilth.ir.ops.table import op

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


def row_axes(body: Graph) -> tuple[int, ...]:
    """The axes that the body's reductions go over."""
    return next(n for n in body.nodes if n.op == "reduce").attrs["axes"]


def row_space(body: Graph) -> tuple[int, ...]:
    """The shape before reduction."""
    return next(n for n in body.nodes if n.op == "reduce").inputs[0].shape


def plan(body: Graph, slow_leaves: Iterable[Value] = ()) -> Stages:
    """Cut a body into passes. `slow_leaves` are inputs that are worth keeping once loaded."""
    axes, rank = row_axes(body), len(row_space(body))
    is_full = _fullness(body, axes, rank)
    level = _levels(body)
    reduces = [n for n in body.nodes if n.op == "reduce"]
    depth = max(level[n.outputs[0]] for n in reduces)
    stored = tuple(
        i
        for i, v in enumerate(body.outputs)
        if len(v.shape) == rank and math.prod(v.shape[a] for a in axes) != 1
    )
    groups = [
        (tuple(n for n in reduces if level[n.outputs[0]] == k), ()) for k in range(1, depth + 1)
    ]
    if stored:
        groups.append(((), stored))
    needs = [
        _needed([n.inputs[0] for n in group] + [body.outputs[i] for i in outputs], is_full)
        for group, outputs in groups
    ]
    keep_at, reload_at = _materialise(needs, is_full, frozenset(slow_leaves))
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


def _fullness(body: Graph, axes: tuple[int, ...], rank: int) -> Callable[[Value], bool]:
    full: dict[Value, bool] = {}
    for value in body.inputs:
        shape = (1,) * (rank - len(value.shape)) + value.shape
        full[value] = math.prod(shape[a] for a in axes) != 1
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
    needs: list[list[Value]], is_full: Callable[[Value], bool], slow: frozenset[Value]
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


def reciprocals(body: Graph) -> Graph:
    """Divide f32 rows by a scalar with one division per row: x / s = (x k) (1 / (s k)).

    k is a power of two that keeps 1 / (s k) a normal number, so that nothing overflows on the way;
    the error grows from 0.5 to 1.5 ulp.
    """
    is_full = _fullness(body, row_axes(body), len(row_space(body)))
    full = {v for n in body.nodes for v in n.outputs if is_full(v)} | set(body.inputs)

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        by_scalar = node.op == "divide" and node.inputs[0] in full and node.inputs[1] not in full
        if not by_scalar or node.inputs[0].tensor.dtype != types.f32:
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
