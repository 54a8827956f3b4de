"""Contractions: matrix products and convolutions with everything elementwise that follows them.

`lower` brings the hero into canonical form, picks an algorithm and a plan, and packs constant
weights. Today there is one algorithm, direct: register tiles over rows and panels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import llvmlite.ir as ll

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels import contraction_bytes, contraction_emit, contraction_plan
from tilth.cpu.kernels.contraction_form import RHS, canonicalise
from tilth.cpu.kernels.contraction_geometry import Geometry
from tilth.cpu.kernels.contraction_plan import Plan, Shape, shape_of
from tilth.cpu.kernels.packing import packed_panels
from tilth.cpu.kernels.pairwise import RUN
from tilth.cpu.kernels.space import body_key, kernel_emitter, require_dtypes, touched_bytes
from tilth.ir.cost import graph_flops


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for dtypes without a machine type and convolutions that are not
    channels-last with explicit padding.
    """
    require_dtypes(task.views)
    if task.results[0].size == 0:
        return _nothing(len(task.views))
    shape, constant = _problem(task)
    form, operands = shape.form, task.operands
    plan = plan or choose(task)
    shape = replace(shape, flat=plan.flat)
    geometry = Geometry(shape, plan, contraction_bytes.views(form, operands), task.results[0])
    packed = {}
    if plan.rhs == "packed" and constant:  # else the caller packs it, see `emit_right`
        plain = Shape(canonicalise(task), shape.lanes)
        moving = [loop for loop in plain.outer if loop.strides[RHS]]
        packed[form.rhs] = packed_panels(
            operands[form.rhs],
            moving,
            (*plain.taps, plain.inner),
            plain.columns,
            shape.lanes,
            plan.tiling.panels.width,
            contraction_bytes.QUAD if form.quads else 1,
        )

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return contraction_emit.emit(module, isa, name, geometry, operands)

    return Kernel(
        name=form.hero.op,
        key=("contraction", body_key(task.body), task.layouts, plan),
        emit=emit,
        items=geometry.items,
        flops=graph_flops(task.body),
        bytes=touched_bytes(task.views),
        scratch=geometry.scratch,
        algorithm=_describe(shape, geometry),
        packed=packed,
    )


def emit_right(task: Task, plan: Plan, module: ll.Module, isa: Isa, name: str) -> ll.Function:
    """Define f(source, packed), which packs a right operand that is not constant, for one turn of
    the outer loops, as a kernel by such a plan reads it."""
    form = contraction_bytes.canonicalise(task)
    views = contraction_bytes.views(form, task.operands)
    geometry = Geometry(shape_of(form, task.isa), plan, views, task.results[0])
    return contraction_emit.emit_right(module, isa, name, geometry, task.operands)


def lower_exact(task: Task) -> Kernel:
    """As `lower`, a little slower, with rounding errors that hardly grow with the depth."""
    shape, _ = _problem(task)
    if task.results[0].size == 0 or not shape.form.accumulator.is_float:
        return lower(task)
    return lower(task, replace(choose(task), run=RUN))


def lower_rows(task: Task) -> Kernel:
    """As `lower`, with the result's rows (batch x height) as work items, where these are loops of
    their own: rows longer than a pixel, with a gap behind them in some operand."""
    shape, constant = _problem(task)
    return lower(task, contraction_plan.by_rows(shape, constant, task.isa))


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles; it computes whatever the other algorithms do not."""
    shape = shape_of(canonicalise(task), task.isa)
    return contraction_plan.cycles(shape, task.isa, task.threads)


def choose(task: Task) -> Plan:
    """The plan that is expected to be the fastest."""
    return contraction_plan.choose(*_problem(task), task.isa, task.threads)


def plans(task: Task) -> list[Plan]:
    """Plans that `lower` may be given, the one of `choose` first."""
    return contraction_plan.ranked(*_problem(task), task.isa, task.threads)


def _problem(task: Task) -> tuple[Shape, bool]:
    """What plans are made for: the canonical form, and whether its right operand is constant."""
    form = contraction_bytes.canonicalise(task)
    return shape_of(form, task.isa), task.is_constant(form.rhs)


def _nothing(pointers: int) -> Kernel:
    """The kernel of a result without elements."""

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return kernel_emitter(module, isa, name, pointers)[0].finish()

    return Kernel(name="contraction", key=("contraction", pointers), emit=emit, items=0)


def _describe(shape: Shape, g: Geometry) -> str:
    plan = g.plan
    words = [f"direct {plan.tiling.name}", f"{plan.rhs} rhs"]
    if shape.form.quads:
        words.append("four bytes at once")
    if plan.flat:
        words.append(f"lines of {shape.line} as one")
    if plan.copy_lhs:
        words.append("copied lhs")
    if g.depth_blocks > 1:
        words.append(f"depth {shape.form.depth}/{g.depth_blocks}{' outside' * plan.depth_outside}")
    if g.runs:
        words.append("pairwise sums")
    words.append(f"items {plan.row_blocks}x{plan.panel_blocks}")
    return ", ".join(words)
