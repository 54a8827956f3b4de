"""Products with constant weights by Strassen's algorithm, one level: seven products in place of
eight of half the size.

Rows, columns and the innermost depth are halved. Sums of quarters of the weights are made ahead,
so these take 7/4 of their bytes. Sums of quarters of the left operand are made for a block of rows
at a time, where a convolution's windows are laid side by side, too; that costs the more, the fewer
columns there are. An odd number of rows or vectors of columns is rounded up.

Chains of FMAs are cut after `strassen_plan.LONGEST`, so that errors are those of the direct kernel:
with normally distributed data and a depth of 256, 768 and 3072 the largest is 8e-7, 9e-7 and 7e-7
of the largest result (direct: 6e-7, 1.1e-6, 5e-7); 2e-6 is what tests allow. But the error of a
result is relative to the largest of its own row and of the row that this is paired with, and an
infinity or NaN in a row spoils both.

Sources: Strassen, "Gaussian Elimination is not Optimal", 1969; Huang, Smith, Henry and van de
Geijn, "Strassen's Algorithm Reloaded", 2016.
"""

from __future__ import annotations

import itertools
import math

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Packed, Task, once
from tilth.cpu.kernels import strassen_emit, strassen_plan
from tilth.cpu.kernels.contraction_form import RHS, canonicalise
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.packing import with_operand_strides
from tilth.cpu.kernels.space import body_key, require_dtypes, touched_bytes
from tilth.cpu.kernels.strassen_plan import FLOAT, PRODUCTS, Plan, problem_of
from tilth.ir.cost import graph_flops
from tilth.ir.errors import CompileError
from tilth.ir.types import f32

_WORTH = 0.96  # of another kernel's estimated time: below, it is worth its memory


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for what `unsuitable` names.
    """
    require_dtypes(task.views)
    reason = unsuitable(task)
    if reason:
        raise CompileError(f"no product by Strassen's algorithm: {reason}")
    shape, plan = shape_of(task), plan or choose(task)
    weights = task.operands[shape.form.rhs]
    constant = weights.constant
    assert constant is not None

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return strassen_emit.emit(module, isa, name, shape, plan, task.operands, task.results[0])

    return Kernel(
        name=shape.form.hero.op,
        key=("strassen", body_key(task.body), task.layouts, plan),
        emit=emit,
        items=plan.items,
        flops=graph_flops(task.body),
        bytes=plan.weights + touched_bytes(v for v in task.views if v is not weights),
        scratch=plan.scratch,
        algorithm=plan.describe(),
        packed={
            shape.form.rhs: Packed(
                plan.weights,
                constant,
                lambda place: pack(place, weights, shape, plan),
                (
                    "strassen",
                    weights.strides,
                    shape.form.k,
                    shape.columns,
                    plan.tiling.panels,
                    plan.depth,
                ),
            )
        },
    )


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles, and some for the memory that it takes; infinite where it cannot run or is
    not below so many."""
    if unsuitable(task):
        return math.inf
    isa, threads = task.isa, task.threads
    if strassen_plan.least_cycles(problem_of(shape_of(task)), isa, threads) >= _WORTH * below:
        return math.inf  # without looking at any plan, of which there are hundreds
    found = strassen_plan.cycles(choose(task), isa, threads) / _WORTH
    return found if found < below else math.inf


def choose(task: Task) -> Plan:
    """The plan that is expected to be the fastest, where it can run."""
    return plans(task)[0]


@once
def plans(task: Task) -> list[Plan]:
    """Plans that `lower` may be given, the one of `choose` first; none where it cannot run."""
    if unsuitable(task):
        return []
    return strassen_plan.ranked(problem_of(shape_of(task)), task.isa, task.threads)


def unsuitable(task: Task) -> str | None:
    """Why this contraction cannot be computed so; None if it can."""
    if task.results[0].size == 0:
        return "it is empty"
    form, lanes = canonicalise(task), task.isa.lanes
    if {form.lhs_dtype, form.rhs_dtype, form.accumulator} != {f32}:
        return "it does not compute in f32"
    if not task.is_constant(form.rhs) or len(form.body.users[form.body.inputs[form.rhs]]) > 1:
        return "its weights are not constant"
    shape = shape_of(task)
    if any(loop.strides[RHS] for loop in shape.outer):
        return "it is a batch of products"
    if shape.width.size < 2 or shape.columns.size <= lanes:
        return "it is too small to be halved"
    return "its depth is not even" if shape.inner.size % 2 else None


def shape_of(task: Task) -> Shape:
    """The contraction, its rows counted through the lines of a map."""
    form = canonicalise(task)
    return Shape(form, task.isa.lanes, flat=len(form.m) > 1)


def pack(place: np.ndarray, weights: Operand, shape: Shape, plan: Plan) -> None:
    """Write sums of quarters of the weights as [block of the depth][panel][product][depth][column
    of the panel]: in the order of their use."""
    source, loops = with_operand_strides(weights), (*shape.form.k, shape.columns)
    seen = np.lib.stride_tricks.as_strided(
        source,
        tuple(loop.size for loop in loops),
        tuple(loop.strides[RHS] * FLOAT for loop in loops),
        writeable=False,
    )
    p, panels = plan.problem, plan.tiling.panels
    upper, lower = (
        seen[..., first : first + p.channels, :].reshape(p.depth, -1) for first in (0, p.channels)
    )
    half, done = p.vectors * p.lanes, 0
    place = place.view(np.float32)
    for top, panel in itertools.product(range(0, p.depth, plan.depth), range(panels.count)):
        start = panel * panels.width * p.lanes
        stop = min(start + panels.width * p.lanes, half)
        size = PRODUCTS * plan.depth * (stop - start)
        target = place[done : done + size].reshape(PRODUCTS, plan.depth, stop - start)
        quarters = [
            _columns(part[top : top + plan.depth], first + start, first + stop)
            for part in (upper, lower)
            for first in (0, half)
        ]
        _combine(quarters, target)
        done += size


def _columns(part: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Some columns, zeros where there are none."""
    found = part[:, start:stop]
    return np.pad(found, ((0, 0), (0, stop - start - found.shape[1])))


def _combine(quarters: list[np.ndarray], target: np.ndarray) -> None:
    """The right factors of Strassen's seven products."""
    b11, b12, b21, b22 = quarters
    np.add(b11, b22, out=target[0])
    target[1] = b11
    np.subtract(b12, b22, out=target[2])
    np.subtract(b21, b11, out=target[3])
    target[4] = b22
    np.add(b11, b12, out=target[5])
    np.add(b21, b22, out=target[6])
