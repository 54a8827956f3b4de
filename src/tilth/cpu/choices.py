"""How a contraction can be computed: the choices worth considering, best first by estimate.

A choice is the plan of an algorithm: direct, Winograd's convolution, his inner product,
Strassen's, or split bf16. What is compiled takes the first one, from shapes and cache sizes alone;
a tuner times some of the others, too (see `tuner`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import Any, Protocol

from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels import (
    contraction,
    contraction_plan,
    inner_product,
    inner_product_plan,
    split_bf16,
    split_bf16_plan,
    strassen,
    strassen_plan,
    winograd,
    winograd_plan,
)
from tilth.cpu.kernels.space import body_key

Choice = (
    contraction_plan.Plan
    | winograd_plan.Plan
    | inner_product_plan.Plan
    | strassen_plan.Plan
    | split_bf16_plan.Plan
)
MOST = 30  # candidates


class Algorithm(Protocol):
    """A module of `kernels` that computes contractions in its own way."""

    def cycles(self, task: Task, below: float, /) -> float:
        """Estimated cycles until the last thread is done; infinite if it cannot compute this one,
        or would not stay below so many."""

    def choose(self, task: Task, /) -> Any:
        """The plan that it expects to be the fastest, if it can compute this one."""

    def plans(self, task: Task, /) -> list[Any]:
        """Plans that `lower` may be given, the one of `choose` first; none if it cannot."""

    def lower(self, task: Task, plan: Any = None, /) -> Kernel:
        """The kernel, by its best plan or by this one. Raises CompileError."""


_ALGORITHMS: dict[type, Algorithm] = {  # by their plans; the quickest to weigh first
    contraction_plan.Plan: contraction,
    split_bf16_plan.Plan: split_bf16,
    winograd_plan.Plan: winograd,
    inner_product_plan.Plan: inner_product,
    strassen_plan.Plan: strassen,
}


class Estimates:
    """Lowers contractions as estimated to be fastest; those that are alike are weighed once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Choice] = {}

    def __call__(self, task: Task) -> Kernel:
        """A `Lower`. Raises CompileError."""
        if task.exact:
            return contraction.lower_exact(task)
        if not task.results[0].size:
            return contraction.lower(task)
        constant = tuple(view.constant is not None for view in task.operands)
        key = (body_key(task.body), task.layouts, constant, task.isa, task.threads)
        if key not in self._known:
            self._known[key] = choose(task)
        return lower(task, self._known[key])


def choose(task: Task) -> Choice:
    """The choice that is expected to be the fastest."""
    return _ranked(task)[0].choose(task)


def lower(task: Task, choice: Choice | None = None) -> Kernel:
    """The kernel for one of the `candidates`, or the first of them. Raises CompileError."""
    if choice is None:
        return Estimates()(task)
    return _ALGORITHMS[type(choice)].lower(task, choice)


def candidates(task: Task) -> list[Choice]:
    """Ways to compute it, at most `MOST`; the first is what `lower(task)` takes.

    None for an exact task, and for one without results: there is nothing to choose.
    """
    if task.exact or not task.results[0].size:
        return []
    found: list[list[Choice]] = [plans for a in _ranked(task) if (plans := a.plans(task))]
    share = MOST // len(found)
    best, others = [plans[0] for plans in found], [plans[1:share] for plans in found]
    return [*best, *itertools.chain(*others)]


def _ranked(task: Task) -> list[Algorithm]:
    """All algorithms, the one that is expected to be the fastest first."""
    found: list[tuple[float, Algorithm]] = []
    for algorithm in _ALGORITHMS.values():
        below = min((cycles for cycles, _ in found), default=math.inf)
        found.append((algorithm.cycles(task, below), algorithm))
    return [algorithm for _, algorithm in sorted(found, key=lambda pair: pair[0])]
