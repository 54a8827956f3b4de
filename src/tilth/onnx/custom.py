"""Operators of the user's own: what they give, how they compute it, and how they compile.

`register_op` makes one known to this process. A package can bring operators along: an entry point
in the group "tilth.onnx_ops" names a function that registers them, called without arguments the
first time a model uses an operator that is not known yet.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops import DECOMPOSE, INFER, OPS, REFERENCE
from tilth.ir.ops.table import composite, decompose, infer, make, primitive, reference
from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import HOST_OPS, host_op
from tilth.onnx.registered import REGISTERED
from tilth.onnx.registry import NEWEST_OPSETS, add_handler, remove_handler

ENTRY_POINTS = "tilth.onnx_ops"
Rule = Callable[..., Any]
log = logging.getLogger("tilth")


def register_op(
    domain: str,
    name: str,
    *,
    since: int = 1,
    infer: Rule | None = None,
    reference: Rule | None = None,
    lowering: Rule | None = None,
    handler: Rule | None = None,
) -> None:
    """Make the operator `name` of `domain` known, from version `since` of its operator set on.

    Either it becomes an op of its own, by rules that take the operands in order (those left out at
    the end are left out) and the node's attributes by keyword, with defaults for optional ones:

    - `infer(*types, **attributes)`: the result's `TensorType`, or a tuple of them. Shapes are
      exact; raise ValueError for operands that do not fit.
    - `reference(*arrays, **attributes)`: the result, or a tuple, as NumPy arrays of just these
      types. It runs on the host, between compiled regions. Without `infer` the types may depend
      on data; the model then runs in stages, and lists (sequences) may come and go, too.
    - `lowering(*values, **attributes)`: the same out of `tilth.ir.ops.op`; then it is compiled.

    Or `handler(context, *operands)` builds it, like the operators in `tilth.onnx.ops`: operands are
    `Value`s (None where left out), `context` answers for attributes and static values.

    Raises ValueError when the rules are incomplete, or the operator is already known.
    """
    if domain in NEWEST_OPSETS or domain == "ai.onnx":
        raise ValueError(
            f"'{domain or 'ai.onnx'}' is a domain of the standard; use one of your own"
        )
    if handler is not None and (infer or reference or lowering):
        raise ValueError(f"{domain}::{name} has a handler, which leaves no use for other rules")
    if infer is not None and (reference or lowering):
        handler = _declare(_op_name(domain, name, since), infer, reference, lowering)
    if handler is not None:
        add_handler(handler, domain, name, since)
    elif reference is not None and lowering is None:
        _declare_host(domain, name, since, reference)
    else:
        raise ValueError(f"{domain}::{name} needs a reference, infer and a lowering, or a handler")
    REGISTERED.add((domain, name))


def unregister_op(domain: str, name: str) -> None:
    """Forget all versions of a registered operator. KeyError if there is none."""
    REGISTERED.remove((domain, name))
    HOST_OPS.pop((domain, name), None)
    for since in remove_handler(domain, name):
        for table in (OPS, INFER, REFERENCE, DECOMPOSE):
            table.pop(_op_name(domain, name, since), None)


@cache
def load_entry_points() -> None:
    """Let installed packages register their operators. One that fails is told of and left out."""
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()()
        except Exception as e:  # another package's code: whatever it raises, others must work
            log.warning("entry point '%s' of %s failed: %s", entry.name, ENTRY_POINTS, e)


def _op_name(domain: str, name: str, since: int) -> str:
    """The op's name in the IR: a word of its text form."""
    word = re.sub(r"\W", "_", domain.replace(".", "_"))
    return f"custom.{word}.{name}" + (f".{since}" if since > 1 else "")


def _declare_host(domain: str, name: str, since: int, reference_: Rule) -> None:
    """Enter a host operator: one function for all versions of its operator set."""
    if since != 1 or (domain, name) in HOST_OPS:
        raise ValueError(f"{domain}::{name}: without infer there is one reference, since version 1")

    def run(cx: NodeContext, *operands: Any) -> Any:
        return reference_(*operands, **cx.attributes())

    host_op(name, why="its results are known when it runs", domain=domain)(run)


def _declare(op_name: str, infer_: Rule, reference_: Rule | None, lowering: Rule | None) -> Rule:
    """Enter the rules into the op table; gives the handler that makes such nodes."""
    if op_name in OPS:
        raise ValueError(f"the op '{op_name}' is already registered")
    doc = next(iter((infer_.__doc__ or "").splitlines()), "") or "an operator of the user's own"
    if lowering is None:
        primitive(op_name, doc)
    else:
        composite(op_name, doc)
        decompose(op_name)(lowering)
    infer(op_name)(infer_)
    if reference_ is not None:
        reference(op_name)(reference_)

    def handler(cx: NodeContext, *operands: Value | None) -> tuple[Value, ...]:
        given = list(operands)
        while given and given[-1] is None:
            given.pop()
        values = [v for v in given if v is not None]
        if len(values) < len(given):
            raise UnsupportedError(f"{cx.label}: only operands at the end can be left out")
        attributes = cx.attributes()
        if taken := {"name", "source"} & attributes.keys():
            raise UnsupportedError(f"{cx.label}: an attribute cannot be called '{min(taken)}'")
        return make(op_name, *values, **attributes).outputs

    return handler
