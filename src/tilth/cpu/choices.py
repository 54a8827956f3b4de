"""How a contraction can be computed: the choices worth considering, best first by estimate.

A choice is the plan of an algorithm: direct, Strassen's, Winograd's, or split bf16. What is
compiled takes the first one, from shapes and cache sizes alone; a tuner times some of the others,
too (see `tuner`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels import (
    contraction,
    contraction_plan,
    split_bf16,
    split_bf16_plan,
    strassen,
    strassen_plan,
    winograd,
    winograd_plan,
)

Choice = contraction_plan.Plan | winograd_plan.Plan | strassen_plan.Plan | split_bf16_plan.Plan
MOST = 30  # candidates


class Algorithm(Protocol):
    """A module of `kernels` that computes contractions in its own way."""

    def pays(self, task: Task, /) -> bool:
        """Can it compute this one, and is it expected to be faster than those after it?"""

    def plans(self, task: Task, /) -> list[Any]:
        """Plans that `lower` may be given, the one it would choose first; none if it cannot."""

    def lower(self, task: Task, plan: Any = None, /) -> Kernel:
        """The kernel, by its best plan or by this one. Raises CompileError."""


_ALGORITHMS: dict[type, Algorithm] = {  # by their plans; the first that pays is taken
    split_bf16_plan.Plan: split_bf16,
    winograd_plan.Plan: winograd,
    strassen_plan.Plan: strassen,
    contraction_plan.Plan: contraction,
}


def lower(task: Task, choice: Choice | None = None) -> Kernel:
    """The kernel for one of the `candidates`, or the first of them. Raises CompileError."""
    if choice is not None:
        return _ALGORITHMS[type(choice)].lower(task, choice)
    if task.exact:
        return contraction.lower_exact(task)
    return next(_ranked(task)).lower(task)


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


def _ranked(task: Task) -> Iterator[Algorithm]:
    """The algorithms that pay, then the others."""
    beaten = []
    for algorithm in _ALGORITHMS.values():
        if algorithm.pays(task):
            yield algorithm
        else:
            beaten.append(algorithm)
    yield from beaten
