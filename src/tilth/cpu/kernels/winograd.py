"""Convolutions by Winograd's minimal filtering: 3x3, stride 1 or 2, constant weights, f32.

F(4x4, 3x3) takes 36 multiplications for 16 results and an input channel where the direct way takes
144, F(2x2, 3x3) takes 16 for 4 instead of 36; with stride 2 these take 81 and 25. The price is
transformed weights that are 4 (1.8) times as large, and rounding: with 64, 256 and 512 channels of
normally distributed data the largest error of F(4x4), relative to the largest result, is 2e-6, 3e-6
and 4e-6 (direct sums: 1e-6, 2e-6, 4e-6); 1e-5 is the bound that tests hold. F(2x2) errs less than
direct sums, whose chains are 9 times as long, F(4x4) with stride 2 about as much. An infinity or
NaN in the data spoils all results of the tiles that read it.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Packed, Task, once
from tilth.cpu.kernels import winograd_emit, winograd_plan
from tilth.cpu.kernels.contraction_form import as_written
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.inner_product_rows import Columns
from tilth.cpu.kernels.space import body_key, require_dtypes, touched_bytes
from tilth.cpu.kernels.winograd_plan import Plan, Problem
from tilth.cpu.kernels.winograd_transform import weights_of
from tilth.ir.cost import graph_flops
from tilth.ir.errors import CompileError
from tilth.ir.types import f32


def lower(task: Task, plan: Plan | None = None) -> Kernel:
    """A kernel for a fusion of kind `contraction`; `plan` overrides the choice.

    Raises CompileError for what is not a channels-last 3x3 convolution of f32 with stride 1 or 2
    and constant weights.
    """
    require_dtypes(task.views)
    reason = unsuitable(task)
    if reason:
        raise CompileError(f"no Winograd convolution: {reason}")
    form, operands = as_written(task), task.operands
    shape = Shape(replace(form, m=form.m[:3]), task.isa.lanes)
    plan = plan or choose(task)
    weights = operands[form.rhs]
    constant = weights.constant
    assert constant is not None

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return winograd_emit.emit(module, isa, name, shape, plan, operands, task.results[0])

    return Kernel(
        name=form.hero.op,
        key=("winograd", body_key(task.body), task.layouts, plan),
        emit=emit,
        items=plan.tile_blocks * plan.panel_blocks,
        flops=graph_flops(task.body),
        bytes=plan.weights + touched_bytes(v for v in task.views if v is not weights),
        scratch=plan.scratch,
        algorithm=plan.describe(),
        packed={
            form.rhs: Packed(
                plan.weights,
                constant,
                lambda place: pack(place, constant, plan),
                ("winograd", plan),
            )
        },
    )


def cycles(task: Task, below: float = math.inf) -> float:
    """Estimated cycles; infinite where it cannot run or is not below so many."""
    found = [winograd_plan.cycles(plan, task.isa, task.threads) for plan in plans(task)[:1]]
    return next((estimate for estimate in found if estimate < below), math.inf)


def choose(task: Task) -> Plan:
    """The plan that is expected to be the fastest, where it can run."""
    return plans(task)[0]


@once
def plans(task: Task) -> list[Plan]:
    """Plans that `lower` may be given, the one of `choose` first; none where it cannot run."""
    if unsuitable(task):
        return []
    return winograd_plan.ranked(problem_of(task), task.isa, task.threads)


def unsuitable(task: Task) -> str | None:
    """Why this fusion is no Winograd convolution; None if it is one."""
    body, operands = task.body, task.operands
    heroes = [n for n in body.nodes if n.op == "convolution"]
    if len(heroes) != 1 or any(v not in body.inputs for v in heroes[0].inputs):
        return "it has no convolution of its inputs"
    hero, attrs = heroes[0], heroes[0].attrs
    x, w = (operands[body.inputs.index(v)] for v in hero.inputs)
    if w.shape[:-2] != (3, 3) or attrs["layout"] != "channels_last":
        return "the window is not 3x3, channels last"
    if {*attrs["rhs_dilation"], *attrs["lhs_dilation"], attrs["groups"]} != {1}:
        return "it has dilation or groups"
    if attrs["strides"] not in ((1, 1), (2, 2)):
        return "its stride is neither 1 nor 2 along both axes"
    if any(map(any, attrs["padding"])):
        return "padding must be made explicit before"
    if 0 in (*x.shape, *w.shape, *hero.outputs[0].shape):
        return "it is empty"
    if {x.dtype, w.dtype, hero.outputs[0].tensor.dtype} != {f32}:
        return "it does not compute in f32"
    if w.constant is None or len(body.users[hero.inputs[1]]) > 1:
        return "its weights are not constant"
    return None


def problem_of(task: Task) -> Problem:
    """Sizes of a convolution as written."""
    form = as_written(task)
    batch, height, width, _ = (loop.size for loop in form.m)
    channels, filters = form.k[-1].size, form.n[-1].size
    stride = form.hero.attrs["strides"][0]
    return Problem(batch, height, width, channels, filters, task.isa.lanes, stride)


def pack(place: np.ndarray, weights: np.ndarray, plan: Plan) -> None:
    """Write transformed weights as [part][factor][panel][input channel][output channel of the
    panel], where a part are the panels of one work item; those of paired products in strips."""
    transformed = weights_of(plan.transform, weights)
    factors, rows, lanes = len(transformed), plan.rows_of_weights, plan.problem.lanes
    write = Columns(transformed).strip if plan.paired else _panel_writer(transformed)
    panels, place, done = plan.tiling.panels, place.view(np.float32), 0
    for part in range(plan.panel_blocks):
        first, stop = (panels.count * p // plan.panel_blocks for p in (part, part + 1))
        begin, end = (min(p * panels.width, panels.vectors) * lanes for p in (first, stop))
        size = factors * rows * (end - begin)
        packed = place[done : done + size].reshape(factors, -1)
        done += size
        for start in range(begin, end, panels.width * lanes):
            width = min(panels.width * lanes, end - start)
            panel = packed[:, rows * (start - begin) :][:, : rows * width]
            write(panel.reshape(factors, rows, width), start, start + width)


def _panel_writer(weights: np.ndarray) -> Callable[[np.ndarray, int, int], None]:
    """A function that writes some columns, and zeros where there are none."""

    def write(place: np.ndarray, start: int, stop: int) -> None:
        known = min(stop, weights.shape[-1]) - start
        place[:, :, :known] = weights[:, :, start:stop]
        place[:, :, known:] = 0

    return write
