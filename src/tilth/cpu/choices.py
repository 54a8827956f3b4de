"""How a contraction can be computed: the choices worth considering, best first by estimate.

A choice is the plan of an algorithm: direct, Winograd's, or split bf16. What is compiled takes the
first one, from shapes and cache sizes alone; a tuner times some of the others, too (see `tuner`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand
from tilth.cpu.kernels import (
    contraction,
    contraction_plan,
    split_bf16,
    split_bf16_plan,
    winograd,
    winograd_plan,
)
from tilth.ir.graph import Graph

Choice = contraction_plan.Plan | winograd_plan.Plan | split_bf16_plan.Plan
MOST = 30  # candidates


@dataclass(frozen=True, eq=False)
class Task:
    """A contraction to be lowered. `exact`: in the one way that rounds least."""

    body: Graph
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    isa: Isa
    threads: int
    exact: bool = False

    def lower(self, choice: Choice | None = None) -> Kernel:
        """The kernel for one of the `candidates`, or the first of them. Raises CompileError."""
        parts = (self.body, self.operands, self.results, self.isa, self.threads)
        if choice is None and self.exact:
            return contraction.lower_exact(*parts)
        if choice is None:
            for fast in (split_bf16, winograd):
                if fast.pays(*parts):
                    return fast.lower(*parts)
            return contraction.lower(*parts)
        if isinstance(choice, split_bf16_plan.Plan):
            return split_bf16.lower(*parts, choice)
        if isinstance(choice, winograd_plan.Plan):
            return winograd.lower(*parts, choice)
        return contraction.lower(*parts, choice)


Lower = Callable[[Task], Kernel]


def candidates(task: Task) -> list[Choice]:
    """Ways to compute it, at most `MOST`; the first is what `task.lower()` takes.

    None for an exact task, and for one without results: there is nothing to choose.
    """
    if task.exact or not task.results[0].size:
        return []
    parts = (task.body, task.operands, task.results, task.isa, task.threads)
    kinds = [k for k in (split_bf16, winograd) if k.pays(*parts)]
    kinds += [k for k in (contraction, split_bf16, winograd) if k not in kinds]
    found: list[list[Choice]] = [list(plans) for k in kinds if (plans := k.plans(*parts))]
    share = MOST // len(found)
    best, others = [plans[0] for plans in found], [plans[1:share] for plans in found]
    return [*best, *itertools.chain(*others)]
