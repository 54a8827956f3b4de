"""Products with constant weights by Winograd's inner product, on cores that add beside their FMAs.

See `inner_product_rows` for the scheme. Rows of the left operand are copied and scaled, where a
convolution's windows are laid side by side, too; that costs the more, the fewer columns there are.
Weights take their own size.

With normally distributed data and a depth of 256, 768 and 3072 the largest error is 4e-7 of the
largest result (direct: 8e-7, 1.1e-6, 6e-7), without negative numbers in rows 4e-7 to 5e-7 (direct:
5e-7, 8e-7, 4e-7); 1.5e-6 is the bound that tests hold. But the error of a result is relative to the
sizes of its row and its column, and an infinity or NaN in a row spoils all of its results.
"""

from __future__ import annotations

import math

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Packed, Task, once
from tilth.cpu.kernels import inner_product_emit, inner_product_plan
from tilth.cpu.kernels.contraction_form import RHS, canonicalise
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.inner_product_plan import FLOAT, Plan, problem_of
from tilth.cpu.kernels.inner_product_rows import Columns
from tilth.cpu.kernels.packing import with_operand_strides
from tilth.cpu.kernels.space import body_key, require_dtypes, touched_bytes
from tilth.ir.cost import graph_flops
from tilth.ir.errors import CompileError
from tilth.ir.types import f32

_FEWEST = 6  # rows and products, below which there is nothing to gain


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for what `unsuitable` names.
    """
    require_dtypes(task.views)
    reason = unsuitable(task)
    if reason:
        raise CompileError(f"no product by Winograd's inner product: {reason}")
    shape, plan = shape_of(task), plan or choose(task)
    weights = task.operands[shape.form.rhs]
    constant = weights.constant
    assert constant is not None

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return inner_product_emit.emit(
            module, isa, name, shape, plan, task.operands, task.results[0]
        )

    return Kernel(
        name=shape.form.hero.op,
        key=("inner product", body_key(task.body), task.layouts, plan),
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
                    "inner product",
                    weights.strides,
                    shape.form.k,
                    shape.columns,
                ),
            )
        },
    )


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles; infinite where it cannot run, does not pay, or is not below so many."""
    if not task.isa.adds_beside or unsuitable(task):
        return math.inf
    isa, threads = task.isa, task.threads
    if inner_product_plan.least_cycles(problem_of(shape_of(task)), isa, threads) >= below:
        return math.inf  # without looking at any plan
    found = inner_product_plan.cycles(choose(task), isa, threads)
    return found if found < below else math.inf


def choose(task: Task) -> Plan:
    """The plan that is expected to be the fastest, where it can run."""
    return plans(task)[0]


@once
def plans(task: Task) -> list[Plan]:
    """Plans that `lower` may be given, the one of `choose` first; none where it cannot run."""
    if unsuitable(task):
        return []
    return inner_product_plan.ranked(problem_of(shape_of(task)), task.isa, task.threads)


def unsuitable(task: Task) -> str | None:
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
    problem = problem_of(shape)
    if problem.rows < _FEWEST or problem.depth < _FEWEST:
        return "it has too few rows, or too little depth"
    return None


def shape_of(task: Task) -> Shape:
    """The contraction, its rows counted through the lines of a map."""
    form = canonicalise(task)
    return Shape(form, task.isa.lanes, flat=len(form.m) > 1)


def pack(place: np.ndarray, weights: Operand, shape: Shape, plan: Plan) -> None:
    """Write weights as [vector of columns][their scales, then runs: sums of pairs, depth][lane], in
    the order of their use."""
    source, loops = with_operand_strides(weights), (*shape.form.k, shape.columns)
    seen = np.lib.stride_tricks.as_strided(
        source,
        tuple(loop.size for loop in loops),
        tuple(loop.strides[RHS] * FLOAT for loop in loops),
        writeable=False,
    )
    p, columns = plan.problem, Columns(seen.reshape(-1, shape.columns.size))
    strips = place.view(np.float32).reshape(p.vectors, plan.rows_of_weights, p.lanes)
    for v, strip in enumerate(strips):
        columns.strip(strip, v * p.lanes, (v + 1) * p.lanes)
