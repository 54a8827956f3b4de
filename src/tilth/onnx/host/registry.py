"""The table of host operators: (domain, name) to functions on NumPy arrays and Python values.

A host operator gets a `HostContext` and the node's operands: arrays (of `str` objects for strings),
lists for sequences, None for an empty optional and for an operand that is left out. It gives one
result or a tuple::

    @host_op("NonZero")
    def nonzero(cx, x): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tilth.ir.errors import ModelError, TilthError
from tilth.ir.graph import Value, make_constant
from tilth.onnx.context import DataDependentError, NodeContext
from tilth.onnx.registry import add_handler

HostFunction = TypeVar("HostFunction", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class HostContext(NodeContext):
    """What a host operator can ask about its node.

    `run_body(attribute, operands)` runs the sub-graph in an attribute and gives its outputs.
    `memory`: bytes that one result may take.
    """

    run_body: Callable[[str, Sequence[Any]], list[Any]]
    memory: int


@dataclass(frozen=True, slots=True)
class HostOp:
    """A host operator, and why its nodes are not compiled.

    `folds`: there is no other way to compute it than on the host, while importing or running.
    """

    function: Callable[..., Any]
    why: str
    folds: bool = True

    def __call__(self, cx: NodeContext, operands: Sequence[Any]) -> list[Any]:
        """The results. Whatever the function stumbles over becomes an error that names the node."""
        try:
            results = self.function(cx, *operands)
        except TilthError as e:
            if "node '" in str(e):
                raise
            raise type(e)(f"{cx.label}: {e}") from e
        except Exception as e:  # host operators rely on operands that make sense
            given = ", ".join(map(described, operands))
            raise ModelError(f"{cx.label} cannot take ({given}): {e}") from e
        return list(results) if isinstance(results, tuple) else [results]


HOST_OPS: dict[tuple[str, str], HostOp] = {}


def host_op(
    *names: str, why: str, domain: str = "", folds: bool = True
) -> Callable[[HostFunction], HostFunction]:
    """Register the decorated function for the operators `names`.

    `folds`: it takes and gives tensors only, so that it is computed while importing where all its
    operands are constants.
    """

    def add(function: HostFunction) -> HostFunction:
        found = HostOp(function, why, folds)
        for name in names:
            HOST_OPS[domain, name] = found
            if folds:
                add_handler(_folding(found), domain, name, since=1)
        return function

    return add


def _folding(found: HostOp) -> Callable[..., list[Value]]:
    """A handler for the importer that computes on constants, and else says what it depends on."""

    def handler(cx: NodeContext, *operands: Value | None) -> list[Value]:
        try:
            arrays = [None if v is None else cx.static(v, found.why) for v in operands]
        except DataDependentError as e:
            raise DataDependentError(f"{cx.label}: {found.why}", e.inputs, fixable=False) from None
        return [make_constant(r) for r in found(cx, arrays)]

    return handler


def described(value: Any) -> str:
    """The kind of a value, for messages."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list):
        return f"a sequence of {len(value)}"
    return "nothing" if value is None else type(value).__name__
