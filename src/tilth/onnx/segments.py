"""One segment: the nodes of a program that can be compiled together, given what is known so far.

The importer is asked node by node. A node that it refuses stays behind, with the reason, and so
does all that needs its results; the others become one graph and are compiled for exact shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, Value, constant_of, make_input, toposort
from tilth.ir.types import TensorType, dtype_of
from tilth.onnx.check import domain_of, node_reads
from tilth.onnx.context import DataDependentError
from tilth.onnx.host.registry import HOST_OPS
from tilth.onnx.importer import Importer
from tilth.onnx.registry import handler_for
from tilth.onnx.scope import Scope
from tilth.onnx.sequences import SequenceValue
from tilth.runtime.executable import Executable

# What a name stands for while a program runs: an array, a list, None, or a constant `Value`: one
# that the importer may look into.
Environment = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """A result that is known without running: a constant, or nothing at all."""

    value: Value | None


@dataclass(frozen=True, slots=True)
class Alias:
    """A result that is what the segment was given under another name."""

    name: str


@dataclass(frozen=True, slots=True)
class Computed:
    """A result that compiled code gives, at a position in its outputs."""

    position: int


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence of results."""

    items: tuple[Result, ...]


Result = Known | Alias | Computed | Items


@dataclass(frozen=True, eq=False)
class Draft:
    """A segment before it is compiled: its graph, results by name, and the nodes left behind.

    `refused` are positions of nodes whose operands are there and why the importer does not take
    them; `waiting` are nodes that need results of refused ones.
    """

    graph: Graph | None
    results: Mapping[str, Result]
    refused: Mapping[int, str]
    waiting: tuple[int, ...]


Run = Callable[[Executable, Sequence[np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Segment:
    """A draft and the executable of its graph (None where nothing is left to compute).

    `why` says what was new when it was made; `interpreted`: no code was made.
    """

    draft: Draft
    executable: Executable | None
    why: str = ""
    interpreted: bool = False

    def __call__(self, environment: Environment, run: Run = Executable.run) -> None:
        """Run the executable by `run`, and enter the results."""
        outputs: list[np.ndarray] = []
        if self.executable is not None:
            arrays = [
                np.require(environment[p.name], requirements=["C", "A"])
                for p in self.executable.inputs
            ]
            outputs = list(run(self.executable, arrays).values())
        found = {n: _result(r, environment, outputs) for n, r in self.draft.results.items()}
        environment.update(found)


def _result(result: Result, environment: Environment, outputs: Sequence[np.ndarray]) -> Any:
    match result:
        case Known(value):
            return value
        case Alias(name):
            return environment[name]
        case Computed(position):
            return outputs[position]
        case Items(items):
            return [as_array(_result(r, environment, outputs)) for r in items]


def as_array(value: Any) -> Any:
    """A value as host operators take it: constants become arrays."""
    return constant_of(value) if isinstance(value, Value) else value


def draft(
    nodes: Mapping[int, Any],
    wanted: Sequence[str],
    scope: Scope,
    environment: Environment,
    importer: Importer,
) -> Draft:
    """Import as many of the nodes (by position, producers first) as the importer takes.

    `wanted` are the names that are needed at the end besides those that the remaining nodes read;
    `scope` is empty; the importer enters what nodes give.
    """
    refused: dict[int, str] = {}
    waiting: list[int] = []
    missing: set[str] = set()
    made: list[str] = []
    for position, node in nodes.items():
        reads = list(node_reads(node))
        if not missing.isdisjoint(reads):
            waiting.append(position)
            missing.update(node.output)
            continue
        try:
            _bind(reads, scope, environment)
            importer.run([node], scope)
            made += filter(None, node.output)
        except UnsupportedError as e:
            if _is_final(e, node, scope):
                raise
            refused[position] = str(e)
            missing.update(node.output)
    left = [nodes[i] for i in (*refused, *waiting)]
    needed = {*wanted, *(n for node in left for n in node_reads(node))}
    return _draft({n: scope.values[n] for n in made if n in needed}, refused, waiting)


def _is_final(error: UnsupportedError, node: Any, scope: Scope) -> bool:
    """Is this a form of an operator that nothing here computes, whatever its operands hold?"""
    key = (domain_of(node), node.op_type)
    handled = handler_for(*key, scope.opsets.get(key[0], 1)) is not None
    reads_tensors = all(n in scope.values for n in node_reads(node))
    is_final = handled and reads_tensors and key not in HOST_OPS
    return is_final and not isinstance(error, DataDependentError)


def _bind(names: Sequence[str], scope: Scope, environment: Environment) -> None:
    """Make what a node reads visible to the importer. UnsupportedError for what is no tensor."""
    for name in names:
        if name in scope.values:
            continue
        value = environment[name]
        if isinstance(value, np.ndarray):
            value = make_input(TensorType(dtype_of(value.dtype), value.shape), name)
        elif value is not None and not isinstance(value, Value):
            raise UnsupportedError(f"it reads '{name}', which is no tensor")
        scope.values[name] = value


def _draft(values: Mapping[str, Any], refused: dict[int, str], waiting: list[int]) -> Draft:
    outputs: dict[Value, int] = {}

    def result(value: Any) -> Result:
        if isinstance(value, SequenceValue):
            return Items(tuple(map(result, value.items)))
        if value is None or value.op == "constant":
            return Known(value)
        if value.op == "input":
            return Alias(value.node.name)
        return Computed(outputs.setdefault(value, len(outputs)))

    results = {name: result(value) for name, value in values.items()}
    graph = _graph(list(outputs)) if outputs else None
    return Draft(graph, results, refused, tuple(waiting))


def _graph(outputs: Sequence[Value]) -> Graph:
    names = tuple(f"result{i}" for i in range(len(outputs)))
    reached = toposort([v.node for v in outputs])
    inputs = tuple(n.outputs[0] for n in reached if n.op == "input")
    return Graph(inputs, tuple(outputs), names, "segment")
