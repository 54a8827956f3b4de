"""The op table: for each op, its rules, in dictionaries keyed by the op's name.

A *primitive* has `infer` (result types) and `reference` (its meaning, in NumPy). A *composite* has
`infer` and `decompose` (the same in primitives); its meaning is its decomposition. All rules share
one calling convention: operands positionally, attributes by keyword::

    @infer("reshape")
    def _(x: TensorType, *, shape): ...          # types in, type(s) out
    @reference("reshape")
    def _(x: np.ndarray, *, shape): ...          # arrays in, array(s) out
    @decompose("relu")
    def _(x: Value): ...                         # values in, value(s) out

Attributes get the defaults of `infer`'s signature (`Default` for those that depend on the operand
types), so a built node always has all of them and `reference` and `decompose` need no defaults.

`op.reshape(x, shape=(2, 3))` builds a node and gives its value (a tuple when there are several).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tilth.ir.errors import VerifyError
from tilth.ir.graph import Node, Value, freeze
from tilth.ir.types import Type
from tilth.ir.work import count_building

Rule = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What an op is: its kind, one sentence, and the classes it belongs to."""

    name: str
    kind: str  # "primitive" | "composite"
    doc: str
    tags: frozenset[str] = frozenset()  # "elementwise", "movement", "reduction", ...


@dataclass(frozen=True, slots=True)
class Default:
    """An attribute's default that depends on the operand types: `of(*types)` gives it."""

    of: Callable[..., Any]


OPS: dict[str, OpInfo] = {}
INFER: dict[str, Rule] = {}
REFERENCE: dict[str, Rule] = {}
DECOMPOSE: dict[str, Rule] = {}
_SIGNATURES: dict[str, inspect.Signature] = {}


def primitive(name: str, doc: str, *tags: str) -> None:
    """Declare a primitive op."""
    OPS[name] = OpInfo(name, "primitive", doc, frozenset(tags))


def composite(name: str, doc: str, *tags: str) -> None:
    """Declare a composite op."""
    OPS[name] = OpInfo(name, "composite", doc, frozenset(tags))


def _registrar(table: dict[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    def register(*names: str) -> Callable[[Rule], Rule]:
        def add(rule: Rule) -> Rule:
            for name in names:
                table[name] = rule
            return rule

        return add

    return register


infer = _registrar(INFER)
reference = _registrar(REFERENCE)
decompose = _registrar(DECOMPOSE)


def has_tag(op_name: str, tag: str) -> bool:
    return op_name in OPS and tag in OPS[op_name].tags


def infer_types(
    op_name: str, inputs: tuple[Value, ...], attrs: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Type, ...]]:
    """Attributes with defaults filled in, and the result types. Raises VerifyError."""
    rule = INFER.get(op_name)
    if rule is None:
        raise VerifyError(f"unknown op '{op_name}'; ops are declared in tilth.ir.ops")
    if op_name not in _SIGNATURES:
        _SIGNATURES[op_name] = inspect.signature(rule)
    types = [v.type for v in inputs]
    try:
        bound = _SIGNATURES[op_name].bind(*types, **attrs)
        bound.apply_defaults()
        attrs = {k: v.of(*types) if isinstance(v, Default) else v for k, v in bound.kwargs.items()}
        result = rule(*types, **attrs)
    except (TypeError, ValueError, IndexError) as e:
        shown = ", ".join(map(str, types))
        raise VerifyError(f"{op_name}({shown}; {attrs}): {e}") from e
    return attrs, result if isinstance(result, tuple) else (result,)


_PROVENANCE: ContextVar[tuple[str, str]] = ContextVar("provenance", default=("", ""))


@contextmanager
def provenance(name: str, source: str = "") -> Iterator[None]:
    """Nodes made inside the block get this name and source; an outer source is kept if empty."""
    token = _PROVENANCE.set((name, source or _PROVENANCE.get()[1]))
    try:
        yield
    finally:
        _PROVENANCE.reset(token)


def make(op_name: str, *inputs: Value, name: str = "", source: str = "", **attrs: Any) -> Node:
    """Build a node, inferring its result types. Raises VerifyError when the op's rules are broken.

    `name` and `source` say where the node came from and are not attributes; left out, they are
    those of the enclosing `provenance` block.
    """
    count_building()
    filled, types = infer_types(op_name, inputs, dict(freeze(attrs)))
    if not name:
        name, default_source = _PROVENANCE.get()
        source = source or default_source
    return Node(op_name, tuple(inputs), freeze(filled), types, name, source)


class _Namespace:
    """`op.NAME(*inputs, **attrs)` builds a node; gives one Value, or a tuple when several."""

    def __getattr__(self, op_name: str) -> Callable[..., Any]:
        op_name = op_name.rstrip("_")  # op.and_, op.or_, op.not_, op.if_, op.while_

        def build(*inputs: Value, **attrs: Any) -> Any:
            outputs = make(op_name, *inputs, **attrs).outputs
            return outputs[0] if len(outputs) == 1 else outputs

        return build


op = _Namespace()
