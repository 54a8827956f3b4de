"""A stretch of ONNX nodes that runs in stages: compiled segments and host operators in turn.

Which nodes make up a segment shows when it is reached, from the shapes of what is there. That is
decided once per set of shapes and kept; the same shapes then run the same segments again. Bodies of
sub-graphs and functions that cannot be compiled are programs, too.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from tilth.ir.errors import ModelError, UnsupportedError
from tilth.ir.graph import Graph, Value, constant_of, make_constant
from tilth.ir.interpreter import interpret
from tilth.onnx.check import MAX_DEPTH, domain_of, node_label, node_reads, ordered_nodes
from tilth.onnx.host.registry import HOST_OPS, HostContext
from tilth.onnx.importer import static_value, with_attributes
from tilth.onnx.load import OnnxModel
from tilth.onnx.resolve import Function
from tilth.onnx.scope import Scope
from tilth.onnx.segments import Draft, Environment, Segment, as_array, draft
from tilth.onnx.tensors import sparse_array, tensor_array
from tilth.onnx.workshop import Workshop
from tilth.runtime.executable import Executable

_COMPARED = 64  # constants up to this many elements are compared by value
_TOLD = 3  # differences named in a reason
_HOT = 8  # what was interpreted is compiled when it comes so often again
log = logging.getLogger("tilth")


@dataclass(eq=False)
class Stage:
    """The nodes that are left at some point of a program, and the segments found for them.

    `latest` is what the latest new segment was made for: name to signature. `made` counts those
    that were compiled at once, `interpreted` says that shapes came that were not; `uses` counts how
    often each of those came again.
    """

    pending: tuple[int, ...]
    reads: tuple[str, ...]
    segments: OrderedDict[Any, Segment] = field(default_factory=OrderedDict)
    latest: Mapping[str, Any] | None = None
    made: int = 0
    interpreted: bool = False
    uses: Counter[Any] = field(default_factory=Counter)

    def is_hot(self, key: Any) -> bool:
        """Whether an interpreted segment is used once more than would still be called seldom."""
        self.uses[key] += 1
        return self.uses[key] >= _HOT

    def keep(self, key: Any, segment: Segment, most: int) -> None:
        """Keep a segment as the latest; compiled ones and others are at most so many each."""
        known = self.segments.get(key) is segment
        self.segments[key] = segment
        self.segments.move_to_end(key)
        if known:
            return
        alike = [k for k, s in self.segments.items() if s.interpreted == segment.interpreted]
        if len(alike) > most:
            del self.segments[alike[0]]
            del self.uses[alike[0]]


class Program:
    """Nodes with names of their own: a graph, a sub-graph, or the body of a function."""

    def __init__(
        self,
        workshop: Workshop,
        nodes: Iterable[Any],
        outputs: Sequence[str],
        opsets: Mapping[str, int],
        constants: Mapping[str, Value] | None = None,
        attributes: Mapping[str, Any] | None = None,
        depth: int = 0,
    ) -> None:
        if depth > MAX_DEPTH:
            raise ModelError(f"functions and sub-graphs are nested deeper than {MAX_DEPTH}")
        self._workshop = workshop
        self._attributes = attributes or {}
        self._opsets = opsets
        self._outputs = tuple(outputs)
        self._constants = dict(constants or {})
        self._depth = depth
        ordered = ordered_nodes([with_attributes(n, self._attributes) for n in nodes])
        self._nodes = _needed(ordered, self._outputs)
        self._reads = [tuple(dict.fromkeys(node_reads(n))) for n in self._nodes]
        self.reads = tuple(dict.fromkeys([*(n for r in self._reads for n in r), *outputs]))
        self._stages: dict[tuple[int, ...], Stage] = {}
        self._bodies: dict[Any, Program] = {}

    def __call__(self, values: Mapping[str, Any]) -> list[Any]:
        """The outputs, given all that the nodes read from outside."""
        environment: Environment = {**values, **self._constants}
        pending = tuple(range(len(self._nodes)))
        while pending:
            stage = self._stage(pending)
            segment = self._segment(stage, environment)
            recorder = self._workshop.recorder
            segment(environment, recorder.run if recorder else Executable.run)
            for position in segment.draft.refused:
                self._run_on_host(position, environment)
            if self._workshop.observer and not self._depth:
                self._workshop.observer(environment)
            pending = segment.draft.waiting
            _forget(environment, {*self._stage(pending).reads, *self._outputs})
        return [as_array(environment[name]) for name in self._outputs]

    def prepare(self, values: Mapping[str, Any]) -> None:
        """Compile the first segment, for values of which only types and shapes count."""
        environment = {**values, **self._constants}
        self._segment(self._stage(tuple(range(len(self._nodes)))), environment)

    def segments(self) -> Iterator[Segment]:
        """Those that are kept now, with those of bodies."""
        for stage in self._stages.values():
            yield from stage.segments.values()
        for body in self._bodies.values():
            yield from body.segments()

    def foresee(self, values: Mapping[str, Any]) -> None:
        """Tell the workshop of nodes that will run on the host, as far as it shows beforehand.

        Of `values` only types and shapes count. Nodes that wait for others are told when no other
        way is known for their operator.
        """
        stage = self._stage(tuple(range(len(self._nodes))))
        for position in self._drafted(stage, {**values, **self._constants}).waiting:
            node = self._nodes[position]
            found = HOST_OPS.get((domain_of(node), node.op_type))
            if found is not None and found.folds:
                self._workshop.tell(node, found.why)

    def _stage(self, pending: tuple[int, ...]) -> Stage:
        if pending not in self._stages:
            reads = dict.fromkeys(n for i in pending for n in self._reads[i])
            self._stages[pending] = Stage(pending, tuple(reads))
        return self._stages[pending]

    def _segment(self, stage: Stage, environment: Environment) -> Segment:
        """The segment for what is there now; drafts and compiles it when it is new."""
        seen = {
            n: _signature(environment[n])
            for n in stage.reads
            if n in environment and n not in self._constants
        }
        key = tuple(seen.items())
        found = stage.segments.get(key)
        if found is None:
            found = self._new_segment(stage, environment, seen)
        elif found.interpreted and stage.is_hot(key):
            found = self._workshop.segment(found.draft, True, f"{found.why}; it comes often")
        stage.keep(key, found, self._workshop.most)
        return found

    def _new_segment(
        self, stage: Stage, environment: Environment, seen: Mapping[str, Any]
    ) -> Segment:
        drafted = self._drafted(stage, environment)
        stage.made += drafted.graph is not None
        compiled = stage.made <= self._workshop.most
        why = self._reason(stage, seen, compiled) if drafted.graph else ""
        stage.latest = seen
        return self._workshop.segment(drafted, compiled, why)

    def _drafted(self, stage: Stage, environment: Environment) -> Draft:
        """What can be compiled now; what is refused is told."""
        scope = Scope({}, self._opsets, attributes=self._attributes, depth=self._depth)
        nodes = {i: self._nodes[i] for i in stage.pending}
        exposes = self._workshop.exposes and not self._depth
        wanted = [o for n in self._nodes for o in n.output] if exposes else self._outputs
        with self._workshop.import_work():
            drafted = draft(nodes, wanted, scope, environment, self._workshop.importer())
        for position, why in drafted.refused.items():
            node = nodes[position]
            found = HOST_OPS.get((domain_of(node), node.op_type))
            self._workshop.tell(node, found.why if found else why)
        return drafted

    def _reason(self, stage: Stage, seen: Mapping[str, Any], compiled: bool) -> str:
        """Why a segment is made; logged, unless it is the first of its stage."""
        pending = [self._nodes[i] for i in stage.pending]
        begins = next((n for n in pending if n.op_type != "Constant"), pending[0])
        where = f"the stage from {node_label(begins)}"
        if stage.latest is None:
            return f"{where}: the first shapes"
        changed = [n for n in seen if seen[n] != stage.latest.get(n)]
        told = ", ".join(_change(n, seen[n], stage.latest.get(n)) for n in changed[:_TOLD])
        name, most = self._workshop.model.name, self._workshop.most
        if compiled:
            log.warning(
                "compiling %s again, %s (number %d; the latest %d are kept): %s",
                *(name, where, stage.made, most, told),
            )
        elif not stage.interpreted:
            stage.interpreted = True
            log.warning(
                "%s, %s: shapes changed over %d times; for new ones it is interpreted from now on",
                *(name, where, most),
            )
        return f"{where}: {told}"

    def _run_on_host(self, position: int, environment: Environment) -> None:
        node = self._nodes[position]
        recorder = self._workshop.recorder
        with recorder.host(node) if recorder else nullcontext():
            results = self._host_results(position, node, environment)
        if len(results) < len(list(filter(None, node.output))):
            raise ModelError(f"{node_label(node)} gives {len(results)} results")
        environment.update((n, r) for n, r in zip(node.output, results, strict=False) if n)

    def _host_results(self, position: int, node: Any, environment: Environment) -> Sequence[Any]:
        """By a host operator, a program of the function behind the node, or the interpreter."""
        operands = [as_array(environment[n]) if n else None for n in node.input]
        found = HOST_OPS.get((domain_of(node), node.op_type))
        if found is not None:
            return found(self._context(position, node, environment), operands)
        values = [environment[n] if n else None for n in node.input]
        constants = [make_constant(v) if isinstance(v, np.ndarray) else v for v in values]
        meaning = self._workshop.importer().meaning(node, constants, self._opsets)
        if isinstance(meaning, Function):
            return self._call(meaning, position, node, values)
        return self._interpret(node, environment)

    def _context(self, position: int, node: Any, environment: Environment) -> HostContext:
        def run_body(attribute: str, operands: Sequence[Any]) -> list[Any]:
            return self._run_body(position, node, attribute, operands, environment)

        return HostContext(
            self._workshop.model,
            node,
            self._opsets[domain_of(node)],
            Scope({}, self._opsets),
            static_value,
            _no_graphs,
            run_body,
            self._workshop.memory,
        )

    def _run_body(
        self,
        position: int,
        node: Any,
        attribute: str,
        operands: Sequence[Any],
        environment: Environment,
    ) -> list[Any]:
        """Run a sub-graph, which sees the names around it."""
        graph = next(a.g for a in node.attribute if a.name == attribute)
        key = (position, attribute)
        if key not in self._bodies:
            self._bodies[key] = Program(
                self._workshop,
                graph.node,
                [o.name for o in graph.output],
                self._opsets,
                graph_constants(self._workshop.model, graph),
                self._attributes,
                self._depth + 1,
            )
        names = [v.name for v in graph.input]
        if len(names) != len(operands):
            raise ModelError(
                f"sub-graph '{graph.name}' takes {len(names)} values, gets {len(operands)}"
            )
        body = self._bodies[key]
        captured = {n: environment[n] for n in body.reads if n in environment}
        return body({**captured, **dict(zip(names, operands, strict=True))})

    def _call(
        self, function: Function, position: int, node: Any, operands: Sequence[Any]
    ) -> list[Any]:
        """Run the body of a function as a program of its own."""
        proto = function.proto
        key = (position, proto.SerializeToString(deterministic=True))
        if key not in self._bodies:
            self._bodies[key] = Program(
                self._workshop,
                proto.node,
                proto.output,
                function.opsets,
                attributes={**function.defaults, **{a.name: a for a in node.attribute}},
                depth=self._depth + 1,
            )
        return self._bodies[key](dict(zip_longest(proto.input, operands)))

    def _interpret(self, node: Any, environment: Environment) -> list[np.ndarray | None]:
        """One node, imported with the values of its operands, by the reference interpreter."""
        values: dict[str, Any] = {}
        for name in node_reads(node):
            value = environment[name]
            values[name] = make_constant(value) if isinstance(value, np.ndarray) else value
            if not (value is None or isinstance(value, (np.ndarray, Value))):
                raise UnsupportedError(f"{node_label(node)} reads '{name}', which is no tensor")
        scope = Scope(values, self._opsets, attributes=self._attributes, depth=self._depth)
        self._workshop.importer().run([node], scope)
        results = [scope.values[n] for n in node.output if n]
        graph = Graph((), tuple(results))
        return [np.array(a) for a in interpret(graph, ())]


def graph_constants(model: OnnxModel, graph: Any) -> dict[str, Value]:
    """The initialisers of a sub-graph."""
    dense = {t.name: tensor_array(t, model.files) for t in graph.initializer}
    sparse = {t.values.name: sparse_array(t, model.files) for t in graph.sparse_initializer}
    return {name: make_constant(array, name) for name, array in {**dense, **sparse}.items()}


def _no_graphs(graph: Any, scope: Scope, arguments: Sequence[Value]) -> list[Value]:
    raise UnsupportedError("a host operator cannot import a sub-graph")


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes that the outputs depend on, in the same order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(node_reads(node))
    return kept[::-1]


def _signature(value: Any) -> Any:
    """What of a value decides which segment it leads to."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape
    if not isinstance(value, Value):
        return type(value)
    array = constant_of(value)
    if array is None or array.size > _COMPARED or array.dtype == object:
        return value
    return array.dtype, array.shape, array.tobytes()


def _change(name: str, now: Any, before: Any) -> str:
    return f"'{name}' is now {_described(now)}, was {_described(before)}"


def _described(signature: Any) -> str:
    match signature:
        case (np.dtype() as dtype, tuple() as shape):
            return f"{dtype}{list(shape)}"
        case None:
            return "not there"
        case type():
            return signature.__name__
    return "another constant"


def _forget(environment: Environment, live: set[str]) -> None:
    for name in [n for n in environment if n not in live]:
        del environment[name]
