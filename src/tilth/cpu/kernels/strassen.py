"""Products with constant weights by Strassen's algorithm: seven products in place of eight of half
the size, or 49 in place of 64 of a quarter.

Rows, columns and the innermost depth are cut into 2 or 4 parts. Sums of parts of the weights are
made ahead, so these take 7/4 of their bytes, or 49/16, which only small weights may. Sums of parts
of the left operand are made for a block of rows at a time, where a convolution's windows are laid
side by side, too; that costs the more, the fewer columns there are. Numbers of rows and of vectors
of columns are rounded up.

Chains of FMAs are cut after `strassen_plan.LONGEST`, so that errors are close to those of the
direct kernel: with normally distributed data and a depth of 256, 768 and 3072 the largest is 7e-7,
1.0e-6 and 7e-7 of the largest result (direct: 7e-7, 1.0e-6, 6e-7), applied twice 1.1e-6, 1.6e-6
and 1.6e-6; 2e-6 is what tests allow. But the error of a result is relative to the largest of its
own row and of the rows that this is added to, and an infinity or NaN in a row spoils all of them.

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
from tilth.cpu.kernels.strassen_plan import FLOAT, LEVELS, Plan, Problem, problem_of
from tilth.cpu.kernels.strassen_scheme import Sums
from tilth.ir.cost import graph_flops
from tilth.ir.errors import CompileError
from tilth.ir.types import f32

_WORTH = 0.96  # of another kernel's estimated time: below, it is worth its memory
_TWICE = 8 << 20  # bytes of weights that are made by applying the scheme twice


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for what `unsuitable` names.
    """
    require_dtypes(task.views)
    reason = unsuitable(task, plan.problem.levels if plan else 1)
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
                    plan.problem.levels,
                ),
            )
        },
    )


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles, and some for the memory that it takes; infinite where it cannot run, does
    not pay, or is not below so many."""
    if not task.isa.strassen or unsuitable(task):
        return math.inf
    isa, threads = task.isa, task.threads
    least = min(strassen_plan.least_cycles(p, isa, threads) for p in _problems(task))
    if least >= _WORTH * below:
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
    return strassen_plan.ranked(_problems(task), task.isa, task.threads)


def _problems(task: Task) -> list[Problem]:
    """The contraction with Strassen's scheme applied once, and twice where that takes little memory
    and what is added up is near: sums of 16 parts are slower than products where it is not."""
    shape = shape_of(task)
    once, *twice = (problem_of(shape, n) for n in LEVELS if _uncut(shape, n) is None)
    read = once.outer * once.rows * (math.prod(once.taps) * shape.inner.size + once.columns) * FLOAT
    near = read <= task.isa.l3_room
    return [once, *(p for p in twice if near and p.weights <= _TWICE)]


def unsuitable(task: Task, levels: int = 1) -> str | None:
    """Why this contraction cannot be computed so; None if it can."""
    if task.results[0].size == 0:
        return "it is empty"
    form = canonicalise(task)
    if {form.lhs_dtype, form.rhs_dtype, form.accumulator} != {f32}:
        return "it does not compute in f32"
    if not task.is_constant(form.rhs) or len(form.body.users[form.body.inputs[form.rhs]]) > 1:
        return "its weights are not constant"
    shape = shape_of(task)
    if any(loop.strides[RHS] for loop in shape.outer):
        return "it is a batch of products"
    return _uncut(shape, levels)


def _uncut(shape: Shape, levels: int) -> str | None:
    """Why it cannot be cut so often; None if it can: all parts have some of it."""
    p = problem_of(shape, levels)
    others = p.parts - 1
    if p.rows <= others * p.height or p.columns <= others * p.vectors * p.lanes:
        return "it is too small to be cut"
    return f"its depth is no multiple of {p.parts}" if shape.inner.size % p.parts else None


def shape_of(task: Task) -> Shape:
    """The contraction, its rows counted through the lines of a map."""
    form = canonicalise(task)
    return Shape(form, task.isa.lanes, flat=len(form.m) > 1)


def pack(place: np.ndarray, weights: Operand, shape: Shape, plan: Plan) -> None:
    """Write sums of parts of the weights as [block of the depth][panel][product][depth][column
    of the panel]: in the order of their use."""
    source, loops = with_operand_strides(weights), (*shape.form.k, shape.columns)
    seen = np.lib.stride_tricks.as_strided(
        source,
        tuple(loop.size for loop in loops),
        tuple(loop.strides[RHS] * FLOAT for loop in loops),
        writeable=False,
    )
    p, panels, done = plan.problem, plan.tiling.panels, 0
    bands = [
        seen[..., i * p.channels : (i + 1) * p.channels, :].reshape(p.depth, -1)
        for i in range(p.parts)
    ]
    part = p.vectors * p.lanes
    place = place.view(np.float32)
    for top, panel in itertools.product(range(0, p.depth, plan.depth), range(panels.count)):
        start = panel * panels.width * p.lanes
        stop = min(start + panels.width * p.lanes, part)
        size = p.products * plan.depth * (stop - start)
        target = place[done : done + size].reshape(p.products, plan.depth, stop - start)
        parts = [
            [
                _columns(band[top : top + plan.depth], i * part + start, i * part + stop)
                for i in range(p.parts)
            ]
            for band in bands
        ]
        for factor, one in zip(_ARRAYS.right(parts), target, strict=True):
            one[...] = factor
        done += size


def _columns(band: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Some columns, zeros where there are none."""
    found = band[:, start:stop]
    return np.pad(found, ((0, 0), (0, stop - start - found.shape[1])))


_ARRAYS: Sums[np.ndarray] = Sums(np.add, np.subtract)
