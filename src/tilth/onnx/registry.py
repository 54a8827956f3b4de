"""The table of ONNX operators: (domain, name) to handlers, each valid since an opset version.

A handler gets a `NodeContext` and the node's operands as Values (None where an optional one is
left out) and gives the node's results::

    @onnx_op("Gemm", since=7)
    def gemm(cx, a, b, c=None): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler function, the opset version it starts at, and its operands for checking."""

    function: Callable[..., Any]
    since: int
    signature: inspect.Signature


_HANDLERS: dict[tuple[str, str], list[Handler]] = {}

# The newest version of each operator set whose meaning is known here.
NEWEST_OPSETS = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview": 1, "ai.onnx.preview.training": 1}


def onnx_op(
    *names: str, since: int = 1, domain: str = ""
) -> Callable[[HandlerFunction], HandlerFunction]:
    """Register the decorated function for the operators `names` from opset `since` on."""

    def add(function: HandlerFunction) -> HandlerFunction:
        for name in names:
            add_handler(function, domain, name, since)
        return function

    return add


def add_handler(function: Callable[..., Any], domain: str, name: str, since: int) -> None:
    """Enter a handler. ValueError when there is one for this version."""
    versions = _HANDLERS.setdefault((domain, name), [])
    if any(h.since == since for h in versions):
        raise ValueError(f"{domain or 'ai.onnx'}::{name} has a handler since version {since}")
    versions.append(Handler(function, since, inspect.signature(function)))
    versions.sort(key=lambda h: h.since)


def remove_handler(domain: str, name: str) -> tuple[int, ...]:
    """Remove an operator; the versions since which it had handlers."""
    return tuple(h.since for h in _HANDLERS.pop((domain, name), []))


def handler_for(domain: str, name: str, version: int) -> Handler | None:
    """The handler valid at `version` of the domain's operator set, if there is one."""
    handlers = _HANDLERS.get((domain, name), [])
    return next((h for h in reversed(handlers) if h.since <= version), None)


def supported_ops() -> list[tuple[str, str, tuple[int, ...]]]:
    """Operators with a handler of their own: (domain, name, versions at which it changes).

    Operators that ONNX itself defines by a function body are supported besides these.
    """
    import tilth.onnx.ops  # noqa: F401  (fills the table)

    return [(*key, tuple(h.since for h in hs)) for key, hs in sorted(_HANDLERS.items())]
