"""Control flow, functional: sub-graphs are attributes and see only what is passed to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilth.ir.graph import Graph
from tilth.ir.ops.checks import check_scalar
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import TensorType, Type


def check_signature(what: str, graph: Any, operands: tuple[Type, ...]) -> tuple[Type, ...]:
    """The graph takes these operands; its output types are returned."""
    if not isinstance(graph, Graph):
        raise ValueError(f"{what} is not a Graph but {type(graph).__name__}")
    expected = tuple(v.type for v in graph.inputs)
    if expected != operands:
        raise ValueError(f"{what} takes {expected}, got {operands}")
    return tuple(v.type for v in graph.outputs)


def run(graph: Graph, operands: tuple[Array, ...]) -> tuple[Array, ...]:
    """Interpret a sub-graph."""
    # the interpreter runs the rules of this table, and these rules run the interpreter
    from tilth.ir.interpreter import interpret

    return tuple(interpret(graph, operands))


primitive("if", "the results of `then` or `else` on the captures", "control")


@infer("if")
def _(pred: TensorType, *captures: Type, **branches: Graph) -> tuple[Type, ...]:
    check_scalar(pred, "bool")
    if set(branches) != {"then", "else"}:
        raise ValueError(f"attributes are then and else, got {', '.join(branches)}")
    then = check_signature("then", branches["then"], captures)
    otherwise = check_signature("else", branches["else"], captures)
    if then != otherwise:
        raise ValueError(f"then gives {then}, else gives {otherwise}")
    return then


@reference("if")
def _(pred: Array, *captures: Array, **branches: Graph) -> tuple[Array, ...]:
    return run(branches["then" if pred else "else"], captures)


primitive("while", "the state after applying `body` as long as `cond` holds", "control")


@infer("while")
def _(*state: Type, cond: Graph, body: Graph) -> tuple[Type, ...]:
    results = check_signature("cond", cond, state)
    if len(results) != 1 or not isinstance(results[0], TensorType):
        raise ValueError(f"cond must give one bool, gives {results}")
    check_scalar(results[0], "bool")
    after = check_signature("body", body, state)
    if after != state:
        raise ValueError(f"body turns {state} into {after}")
    return state


@reference("while")
def _(*state: Array, cond: Graph, body: Graph) -> tuple[Array, ...]:
    while run(cond, state)[0]:
        state = run(body, state)
    return state


primitive(
    "scan", "`body` over slices along axis 0, carrying state; stacks its other results", "control"
)


@infer("scan")
def _(*operands: TensorType, body: Graph, carries: int, reverse: bool = False) -> tuple[Type, ...]:
    """Operands: `carries` carried values, then sequences of one length; at least one sequence."""
    if type(carries) is not int or not 0 <= carries < len(operands):
        raise ValueError(f"carries {carries!r} leaves no sequence of {len(operands)} operands")
    state, sequences = operands[:carries], operands[carries:]
    lengths = {s.dims[:1] for s in sequences}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(f"sequences differ in length: {sequences}")
    (length,) = lengths
    slices = tuple(s.with_shape(s.shape[1:]) for s in sequences)
    results = check_signature("body", body, state + slices)
    if results[:carries] != state:
        raise ValueError(f"body turns carries {state} into {results[:carries]}")
    stacked = tuple(r.with_shape(length + r.dims) for r in results[carries:])  # type: ignore[union-attr]
    return state + stacked


@reference("scan")
def _(*operands: Array, body: Graph, carries: int, reverse: bool) -> tuple[Array, ...]:
    """`reverse` runs from the last slice to the first; results lie where their slice lay."""
    state, sequences = operands[:carries], operands[carries:]
    length = len(sequences[0])
    stacked = [np.empty((length, *v.shape), v.tensor.dtype.numpy) for v in body.outputs[carries:]]
    for i in reversed(range(length)) if reverse else range(length):
        results = run(body, (*state, *(s[i] for s in sequences)))
        state = results[:carries]
        for whole, part in zip(stacked, results[carries:], strict=True):
            whole[i] = part
    return (*state, *stacked)
