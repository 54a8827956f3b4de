"""How a contraction can be computed: the choices worth considering, best first by estimate.

A choice is the plan of an algorithm, direct or Winograd's. What is compiled takes the first one,
from shapes and cache sizes alone; a tuner times some of the others, too (see `tuner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand
from tilth.cpu.kernels import contraction, contraction_plan, winograd, winograd_plan
from tilth.ir.graph import Graph

Choice = contraction_plan.Plan | winograd_plan.Plan
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
            return winograd.lower(*parts) if winograd.pays(*parts) else contraction.lower(*parts)
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
    direct: list[Choice] = [*contraction.plans(*parts)]
    if winograd.unsuitable(task.body, task.operands):
        return direct[:MOST]
    fast: list[Choice] = [*winograd.plans(*parts)]
    first, second = (fast, direct) if winograd.pays(*parts) else (direct, fast)
    return [first[0], second[0], *first[1 : MOST // 2], *second[1 : MOST // 2]]
