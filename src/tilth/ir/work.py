"""A bound on the work done before a model runs: building nodes, and interpreting constant ones.

Whoever does such work asks here whether it may; what it costs is counted in operations on one
element (see `limits.cost`). Without a bound, everything may.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tilth.ir.errors import LimitError

_BUILD_OPERATIONS = 48_000  # what building a node costs, on a slow machine


@dataclass(slots=True)
class _Budget:
    left: int


_BUDGET: ContextVar[_Budget | None] = ContextVar("work", default=None)


@contextmanager
def bounded_work(operations: int) -> Iterator[None]:
    """Inside the block, building and interpreting nodes may cost so many operations, and no more
    than are left outside."""
    outer = _BUDGET.get()
    given = operations if outer is None else min(operations, outer.left)
    budget = _Budget(given)
    token = _BUDGET.set(budget)
    try:
        yield
    finally:
        _BUDGET.reset(token)
        if outer is not None:
            outer.left -= given - max(0, budget.left)


def is_bounded() -> bool:
    """Whether there is a bound here."""
    return _BUDGET.get() is not None


def charge(operations: int) -> bool:
    """Account for some work; whether it is within the bound."""
    budget = _BUDGET.get()
    if budget is None:
        return True
    budget.left -= operations
    return budget.left >= 0


def count_building() -> None:
    """Account for building a node. LimitError when that is more than the bound on work."""
    if not charge(_BUILD_OPERATIONS):
        raise LimitError("an operator expands to far too many others")
