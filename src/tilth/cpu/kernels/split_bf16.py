"""Contractions of f32 on a matrix unit for bf16: each number is the sum of three bf16 parts.

With a = a0 + a1 + a2 and b likewise, a b is a0 b0 + a0 b1 + a1 b0 + a0 b2 + a1 b1 + a2 b0: six
bf16 products, summed in f32. What is left out (a1 b2, a2 b1, a2 b2) is at most 2^-22 of the
product, of either sign; the parts themselves hold all 24 bits. The unit adds up 16 products of a
kind before it rounds to a sum, so that errors are below those of a chain of FMAs, at two to three
times their throughput. An operand that is infinite, or above 3.38e38, gives NaN where exact
arithmetic would give an infinity; parts below 2^-126 count as zero.

The flow: `split_bf16_plan` says how such a contraction is cut, `split_bf16_cost` chooses,
`split_bf16_pack` lays out constant weights, `split_bf16_emit` walks over blocks and panels and
calls `split_bf16_products` and the other `split_bf16_parts`.

Source: Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", 2019.
"""

from __future__ import annotations

import math

import llvmlite.ir as ll

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task, once
from tilth.cpu.kernels import (
    contraction,
    contraction_plan,
    split_bf16_cost,
    split_bf16_emit,
    split_bf16_pack,
    winograd,
)
from tilth.cpu.kernels.contraction_form import LHS, RHS, canonicalise
from tilth.cpu.kernels.contraction_plan import shape_of
from tilth.cpu.kernels.space import body_key, require_dtypes, touched_bytes
from tilth.cpu.kernels.split_bf16_plan import Plan
from tilth.ir.cost import graph_flops
from tilth.ir.errors import CompileError
from tilth.ir.types import f32


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for what `unsuitable` names.
    """
    require_dtypes(task.views)
    reason = unsuitable(task)
    if reason:
        raise CompileError(f"no contraction by split bf16: {reason}")
    form = canonicalise(task)
    weights, plan = task.operands[form.rhs], plan or _ranked(task)[0]
    constant = weights.constant is not None
    packed = {form.rhs: split_bf16_pack.packed(weights, plan)} if constant else {}

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return split_bf16_emit.emit(module, isa, name, plan, task.operands, task.results[0])

    return Kernel(
        name=form.hero.op,
        key=("split bf16", body_key(task.body), task.layouts, plan.choices),
        emit=emit,
        items=plan.items,
        flops=graph_flops(task.body),
        bytes=touched_bytes(task.views),
        scratch=plan.scratch,
        algorithm=plan.describe(),
        packed=packed,
    )


def choose(task: Task) -> Plan:
    """The plan that is expected to be the fastest, where it can run."""
    return plans(task)[0]


def plans(task: Task) -> list[Plan]:
    """Plans that `lower` may be given, the one of `choose` first; none where it cannot run."""
    if not task.isa.bf16_tiles or task.results[0].size == 0 or unsuitable(task):
        return []
    # threads that share cache lines of the result would undo the gain
    shared = contraction_plan.interleaved(shape_of(canonicalise(task), task.isa))
    return [] if shared else _ranked(task)


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles; infinite where it cannot run or is not below so many."""
    found = [split_bf16_cost.cycles(plan, task.isa, task.threads) for plan in plans(task)[:1]]
    return next((estimate for estimate in found if estimate < below), math.inf)


def pays(task: Task) -> bool:
    """Is it expected to be faster than what runs without a matrix unit?"""
    return cycles(task) < min(contraction.cycles(task), winograd.cycles(task))


@once
def _ranked(task: Task) -> list[Plan]:
    form = canonicalise(task)
    return split_bf16_cost.ranked(form, task.is_constant(form.rhs), task.isa, task.threads)


def unsuitable(task: Task) -> str | None:
    """Why this contraction cannot run on the matrix unit; None if it can."""
    form = canonicalise(task)
    if {form.lhs_dtype, form.rhs_dtype, form.accumulator} != {f32}:
        return "it does not compute in f32"
    if not (form.k and form.n) or form.macs == 0:
        return "it is no matrix product"
    if form.k[-1].strides[LHS] != 1:
        return "the left operand is not contiguous along the depth"
    if not task.is_constant(form.rhs):
        if 1 not in (form.n[-1].strides[RHS], form.k[-1].strides[RHS]):
            return "the right operand is not contiguous"
    elif len(form.body.users[form.body.inputs[form.rhs]]) > 1:
        return "the epilogue reads its weights"
    return None
