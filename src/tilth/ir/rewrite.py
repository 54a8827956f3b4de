"""The rewrite engine: passes as tables of (pattern, function), applied until none matches.

A pattern looks like the expression it matches; what it names is handed to the function by
parameter name, together with `node` (the matched root) and `uses` if the function asks for them::

    x, y = any_("x"), any_("y")
    RULES = (
        Rule("double negation", P.negate(P.negate(x)), lambda x: x),
        Rule("x * 2", P.multiply(x, splat(2)), lambda x: op.add(x, x)),
        Rule("fold scale", P.multiply(once(P.convolution(x, constant("w"))), constant("s")), fold),
        Rule("idempotent", P["maximum", "minimum"](x, x), lambda x: x),
        Rule("merge", P.transpose(P.transpose(x).named("inner")), merge),
        Rule("tidy", ("reshape", "transpose"), tidy),  # tidy(node) decides by itself
    )
    graph, fired = rewrite(graph, RULES)

The function gives the replacement (a Value, or one per result) or None to decline. Operands of
commutative ops match in either order. Attributes match by equality or by predicate:
`P.reduce(x, kind="sum", axes=lambda axes: len(axes) == 1)`; a final `...` stands for any further
operands, and `P.concatenate` without a call for any at all.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import numpy as np

from tilth.ir.errors import CompileError, VerifyError
from tilth.ir.graph import Graph, Node, Value, clone, constant_of, freeze, toposort
from tilth.ir.ops import OPS
from tilth.ir.ops.table import provenance

Uses = Callable[[Value], int]  # how often a value is read, outputs of the graph included
Captures = dict[str, Value]

COMMUTATIVE = frozenset({"add", "multiply", "maximum", "minimum", "and", "or", "xor"})
_MAX_SWEEPS = 50
_MAX_CHAIN = 200  # rewrites of one place within a sweep; more means that rules undo each other


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a value must look like. Calling a pattern of ops gives it operands and attributes."""

    ops: frozenset[str] | None = None  # None: any op
    operands: tuple[Pattern, ...] | None = None  # None: any operands
    more: bool = False  # further operands may follow
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    condition: Callable[[Value], bool] | None = None
    once: bool = False

    def __call__(self, *operands: Pattern | EllipsisType, **attrs: Any) -> Pattern:
        more = bool(operands) and operands[-1] is ...
        patterns = tuple(p for p in operands if isinstance(p, Pattern))
        if len(patterns) + more != len(operands):
            raise ValueError(f"operands are patterns, and ... at the end: {operands}")
        return replace(self, operands=patterns, more=more, attrs=freeze(attrs))

    def named(self, name: str) -> Pattern:
        """Capture the matched value under this name; a name met twice must be one value."""
        return replace(self, name=name)

    def where(self, condition: Callable[[Value], bool]) -> Pattern:
        """Match only values for which the condition holds."""
        return replace(self, condition=condition)

    @property
    def names(self) -> set[str]:
        """All captures."""
        inner = (p.names for p in self.operands or ())
        return {self.name}.union(*inner) - {""}


class _Patterns:
    """`P.add(x, y)` matches an op, `P["add", "subtract"](x, y)` any of several."""

    def __getattr__(self, op_name: str) -> Pattern:
        if op_name.startswith("_"):
            raise AttributeError(op_name)
        return self[op_name.rstrip("_")]  # and_, or_, not_, if_, while_

    def __getitem__(self, ops: str | tuple[str, ...]) -> Pattern:
        ops = (ops,) if isinstance(ops, str) else tuple(ops)
        if unknown := [name for name in ops if name not in OPS]:
            raise ValueError(f"no such op: {', '.join(unknown)}")
        return Pattern(frozenset(ops))


P = _Patterns()


def any_(name: str = "") -> Pattern:
    """Any value, captured under a name."""
    return Pattern(name=name)


def constant(name: str = "") -> Pattern:
    """A constant, captured under a name."""
    return Pattern(frozenset({"constant"}), name=name)


def splat(number: complex, name: str = "") -> Pattern:
    """A constant all of whose elements equal a number."""

    def all_equal(value: Value) -> bool:
        array = constant_of(value)
        return array is not None and array.size > 0 and bool(np.all(array == number))

    return constant(name).where(all_equal)


def once(pattern: Pattern) -> Pattern:
    """What the pattern matches, provided nothing else reads it: it goes away with the match."""
    return replace(pattern, once=True)


def tagged(tag: str) -> tuple[str, ...]:
    """The names of all ops with a tag, for `P[tagged("elementwise")]`."""
    return tuple(name for name, info in OPS.items() if tag in info.tags)


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rewrite: where `pattern` matches, what `function` gives takes the place of it.

    The pattern is an expression, the names of ops, or a predicate on nodes.
    """

    name: str
    pattern: Pattern | tuple[str, ...] | Callable[[Node], bool]
    function: Callable[..., Value | tuple[Value, ...] | None]
    expression: Pattern = field(init=False)
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        pattern = _as_pattern(self.pattern)
        parameters = tuple(inspect.signature(self.function).parameters)
        if unknown := set(parameters) - pattern.names - {"node", "uses"}:
            raise ValueError(f"rule '{self.name}' captures no {', '.join(sorted(unknown))}")
        object.__setattr__(self, "expression", pattern)
        object.__setattr__(self, "parameters", parameters)

    def apply(self, node: Node, uses: Uses) -> tuple[Value, ...] | None:
        """The values that replace the node's, or None. Raises VerifyError if their types differ."""
        captures = match(self.expression, Value(node), uses)
        if captures is None:
            return None
        known = {**captures, "node": node, "uses": uses}
        with provenance(node.name, node.source):
            results = self.function(**{name: known[name] for name in self.parameters})
        if results is None:
            return None
        results = (results,) if isinstance(results, Value) else tuple(results)
        if tuple(v.type for v in results) != node.types:
            raise VerifyError(f"rule '{self.name}' turns {node!r} into {results}")
        return results


def _as_pattern(pattern: Pattern | tuple[str, ...] | Callable[[Node], bool]) -> Pattern:
    if isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, tuple):
        return P[pattern]
    return any_().where(lambda value: pattern(value.node))


def match(
    pattern: Pattern, value: Value, uses: Uses, captures: Captures | None = None
) -> Captures | None:
    """What the pattern's names stand for in `value`, or None if it does not match."""
    captures = captures or {}
    node = value.node
    if pattern.ops is not None and node.op not in pattern.ops:
        return None
    if pattern.name:
        if captures.get(pattern.name, value) != value:
            return None
        captures = {**captures, pattern.name: value}
    if pattern.once and uses(value) != 1:
        return None
    for name, expected in pattern.attrs.items():
        actual = node.attrs[name]
        if not (expected(actual) if callable(expected) else actual == expected):
            return None
    if pattern.condition is not None and not pattern.condition(value):
        return None
    if pattern.operands is None:
        return captures
    return _match_operands(pattern, node, uses, captures)


def _match_operands(
    pattern: Pattern, node: Node, uses: Uses, captures: Captures
) -> Captures | None:
    operands = pattern.operands or ()
    count = len(node.inputs)
    if count < len(operands) or (count > len(operands) and not pattern.more):
        return None
    orders = [node.inputs]
    if node.op in COMMUTATIVE and len(operands) == 2:
        orders.append(node.inputs[::-1])
    for order in orders:
        found: Captures | None = captures
        for operand, value in zip(operands, order, strict=False):
            found = match(operand, value, uses, found)
            if found is None:
                break
        else:
            return found
    return None


def rewrite(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, Counter[str]]:
    """Apply rules bottom-up until none fires; also gives how often each fired.

    New nodes inherit name and source of the node they replace. Sub-graphs of control flow are
    rewritten too, bodies of fusions are not: kernels rely on their form. Raises CompileError when
    the rules do not settle, VerifyError when one changes a type.
    """
    fired: Counter[str] = Counter()
    for _ in range(_MAX_SWEEPS):
        sweep = _Sweep(graph, rules)
        swept = graph.map(sweep.visit)
        if not sweep.fired:
            return graph, fired
        fired += sweep.fired
        graph = swept
    raise CompileError(f"rules do not settle: {_most_common(fired)}")


def _most_common(fired: Counter[str]) -> str:
    return ", ".join(f"'{name}' ({count} times)" for name, count in fired.most_common(3))


class _Sweep:
    """One pass over a graph, operands first, that brings each node to a fixed point.

    Matching looks at operands only, which no longer change, so one sweep is enough for patterns
    without `once`; read counts are upper bounds that the next sweep makes exact.
    """

    def __init__(self, graph: Graph, rules: Sequence[Rule]) -> None:
        self.graph = graph
        self.rules = rules
        self.by_op: dict[str, tuple[Rule, ...]] = {}
        self.fired: Counter[str] = Counter()
        self.reads: Counter[Value] = Counter()
        self.outputs = Counter(graph.outputs)
        self.settled: set[Node] = {v.node for v in graph.inputs}
        for value in graph.inputs:
            self._count_reads(value, value)

    def visit(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The values that replace a node of the graph."""
        results = self._apply(self._with_subgraphs(clone(node, inputs)), 0)
        for old, new in zip(node.outputs, results, strict=True):
            self._count_reads(old, new)
        return results

    def _count_reads(self, old: Value, new: Value) -> None:
        self.reads[new] += len(self.graph.users[old]) + self.outputs[old]

    def _with_subgraphs(self, results: tuple[Value, ...]) -> tuple[Value, ...]:
        node = results[0].node
        attrs = dict(node.attrs)
        for name, graph in node.attrs.items():
            if isinstance(graph, Graph) and node.op != "fusion":
                attrs[name], fired = rewrite(graph, self.rules)
                self.fired += fired
        if all(attrs[name] is node.attrs[name] for name in attrs):
            return results
        return replace(node, attrs=freeze(attrs)).outputs

    def _apply(self, results: tuple[Value, ...], chain: int) -> tuple[Value, ...]:
        """The results of a node whose operands are settled, settled too."""
        node = results[0].node
        for rule in self._rules_for(node.op):
            replacement = rule.apply(node, self.reads.__getitem__)
            if replacement is not None:
                self.fired[rule.name] += 1
                if chain > _MAX_CHAIN:
                    raise CompileError(f"rules do not settle: {_most_common(self.fired)}")
                self.reads.subtract(node.inputs)
                return self._settle(replacement, chain + 1)
        self.settled.add(node)
        return results

    def _settle(self, values: tuple[Value, ...], chain: int) -> tuple[Value, ...]:
        """Apply the rules to nodes that a rule has made, operands first."""
        new: dict[Value, Value] = {}
        for node in toposort((v.node for v in values), known=self.settled):
            self.reads.update(node.inputs)
            results = self._apply(clone(node, tuple(new.get(v, v) for v in node.inputs)), chain)
            new.update(zip(node.outputs, results, strict=True))
        return tuple(new.get(v, v) for v in values)

    def _rules_for(self, op_name: str) -> tuple[Rule, ...]:
        if op_name not in self.by_op:
            self.by_op[op_name] = tuple(
                rule
                for rule in self.rules
                if rule.expression.ops is None or op_name in rule.expression.ops
            )
        return self.by_op[op_name]
