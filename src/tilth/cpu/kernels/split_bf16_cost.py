"""Plans for a contraction on a matrix unit, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from tilth.cpu.isa import Isa
from tilth.cpu.kernels.contraction_form import Contraction
from tilth.cpu.kernels.matrix_unit import DEPTH, ROWS
from tilth.cpu.kernels.split_bf16_plan import PANEL, SUMS, Plan, Problem, problem_of

_MOST_DEPTHS = 4  # parts of the depth
_SHARES = (3 / 16, 3 / 8, 3 / 4)  # of L2 that lines may take


def ranked(form: Contraction, constant: bool, isa: Isa, threads: int) -> list[Plan]:
    """All plans worth considering, those with the fewest estimated cycles first."""
    found = dict.fromkeys(_candidates(problem_of(form), constant, isa, threads))
    return sorted(found, key=lambda plan: (cycles(plan, isa, threads), plan.choices))


def _candidates(problem: Problem, constant: bool, isa: Isa, threads: int) -> Iterator[Plan]:
    cuts = [d for d in range(2, _MOST_DEPTHS + 1) if constant and problem.divides(d)]
    for depths, share in itertools.product((1, *cuts), _SHARES):
        plan = Plan(problem, constant, 1, 1, depth_blocks=depths)
        lines = int(isa.l2 * share) // plan.pitch
        most = max(PANEL, (lines - problem.halo) // (ROWS * PANEL) * PANEL)
        fewest = -(-problem.row_tiles // most)
        for row_blocks in {fewest, min(problem.row_tiles, -(-fewest // threads) * threads)}:
            for panel_blocks in {1, min(problem.panels, threads)}:
                plan = replace(plan, row_blocks=row_blocks, panel_blocks=panel_blocks, plain=False)
                yield plan
                if constant:
                    yield replace(plan, plain=True)


# Fitted to 2,900 plans of 271 contractions on two threads; cycles, and bytes per cycle.
_PRODUCT = 6 * 16 * 1.32  # of one tile by another: six products, and what stalls them
_LONE = 1.3  # times that for a tile without another one above or below it
_SPLIT = 20.6  # to split 32 elements of a line
_FETCH = 27.0  # ... that another core has written
_RUN = 1.0  # to find the elements of a tap that a line holds
_PAIRS = 192.0  # to split a step of a plain panel
_SLICE = 87.0  # of a product that does so
_FINISH = 8.8  # to finish a vector of the result
_BESIDE = 0.35  # how much of such work hides behind products
_WAIT = 80.0  # to store and load a tile of sums that waits
_FAR = 250.0  # ... beyond L2
_ITEM = 165.0
_STREAM = 4.1  # packed weights from beyond L2 as tiles
_STREAM_PLAIN = 4.2  # ... as vectors
_EXPOSED = 0.735  # how much of the shorter of computing and streaming the longer does not hide
_ROOM = 0.51  # share of L2 that may be counted on
_SPILL = 10.2  # what of lines and panels is not there


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, items = plan.problem, -(-plan.items // threads)
    pairs, lone = divmod(plan.block_tiles, PANEL)
    columns, panels = (n / plan.panel_blocks for n in (p.column_tiles, p.panels))
    products = p.steps * columns * (pairs * PANEL + lone * _LONE) * _PRODUCT

    outer = math.prod(loop.size for loop in p.outer)
    by_columns = plan.row_blocks * outer < threads
    per_step = _SPLIT + _FETCH / 2 * by_columns  # half of the lines are another thread's
    split = plan.lines * (p.line_steps * per_step + p.runs * _RUN)
    beside = plan.block_tiles * ROWS * columns * _FINISH
    if plan.lines_beside:
        beside, split = beside + split, 0.0
    if plan.plain:
        beside += panels * p.steps * _PAIRS
        products += panels * (pairs + lone) * plan.depth_blocks * _SLICE
    if not plan.constant:
        split += panels * p.steps * DEPTH * _SPLIT

    passing = plan.tensors * plan.block_tiles * ROWS * SUMS  # of results, for each panel
    held, room = plan.lines * plan.pitch + plan.panels_held + passing, isa.l2 * _ROOM
    wait = _WAIT + _FAR * (plan.waiting > room)
    waiting = (plan.depth_blocks - 1) * plan.block_tiles * columns * wait
    spilled = panels * max(0.0, held - room) / _SPILL
    computing = items * (products + split + (1 - _BESIDE) * beside + waiting + spilled + _ITEM)
    weights = plan.right / plan.panel_blocks * plan.constant
    parts = items if outer > 1 else min(items, plan.panel_blocks)  # that differ
    turns = parts if parts * weights + held <= room else items
    stream = turns * weights / (_STREAM_PLAIN if plan.plain else _STREAM)
    return max(computing, stream) + _EXPOSED * min(computing, stream)
