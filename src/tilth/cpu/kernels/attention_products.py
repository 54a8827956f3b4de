"""The two products of attention: the right operand packed once per head, rows taken by blocks.

There are two ways: split bf16 on a matrix unit, and register tiles of FMAs without one. Both have
(heads x blocks of rows) as work items, see their right operand as a constant would be packed, and
cut the rows of both products into the same tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.emit import Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task, once
from tilth.cpu.kernels import (
    contraction,
    contraction_plan,
    split_bf16,
    split_bf16_emit,
    split_bf16_plan,
    split_bf16_rows,
    tiles,
)
from tilth.cpu.kernels.contraction_form import RHS, Loop, canonicalise
from tilth.cpu.kernels.matrix_unit import ROWS
from tilth.cpu.kernels.pieces import piece_start
from tilth.cpu.kernels.split_bf16_plan import problem_of
from tilth.cpu.kernels.tiles import Tiling
from tilth.ir.types import f32

FEWEST_TILES = 4  # of rows, for which packing keys and values pays without a matrix unit


@dataclass(frozen=True)
class Product:
    """One of the products.

    `emit_right` defines f(source, packed) for the right operand of one head, of which `outer` are
    the loops over heads and `right` the packed bytes. `first_row` gives a tile's first row, the
    number of rows for the tile behind the last.
    """

    kernel: Kernel
    rhs: int  # position among the operands
    outer: tuple[Loop, ...]
    right: int
    emit_right: Callable[[ll.Module, Isa, str], ll.Function]
    first_row: Callable[[Emitter, Val], Val]


@dataclass(frozen=True)
class Needs:
    """What blocks of rows depend on: bytes of what is packed per head, and of each row beside its
    scores; rows that read the same right operand, tiles of them, rows of the largest tile."""

    right: int
    row: int
    rows: int
    tiles: int
    tile: int


Products = tuple[Task, Task]  # of queries and keys, of shares and values


class Split:
    """On a matrix unit."""

    name = "split bf16"
    fewest = 2  # tiles of a block

    def fits(self, products: Products) -> bool:
        """Can it compute them?"""
        return all(split_bf16.plans(p) and _rows_fill_tiles(p) for p in products)

    def needs(self, products: Products) -> Needs:
        problems = [problem_of(canonicalise(p)) for p in products]
        right, row = (sum(n) for n in zip(*((p.right, p.pitch) for p in problems), strict=True))
        return Needs(right, row, problems[0].rows, problems[0].row_tiles, ROWS)

    def product(self, products: Products, which: int, blocks: int) -> Product:
        task = products[which]
        problem = problem_of(canonicalise(task))
        plan = split_bf16_plan.Plan(problem, constant=True, row_blocks=blocks, panel_blocks=1)

        def emit_right(module: ll.Module, isa: Isa, name: str) -> ll.Function:
            return split_bf16_emit.emit_right(module, isa, name, plan, task)

        def first_row(e: Emitter, tile: Val) -> Val:
            return split_bf16_rows.first_row(e, problem, tile)

        kernel = split_bf16.lower(task, plan)
        return Product(
            kernel, problem.form.rhs, problem.outer, problem.right, emit_right, first_row
        )


class Tiled:
    """By FMAs, as other contractions."""

    name = "direct"
    fewest = 4  # tiles of a block

    def fits(self, products: Products) -> bool:
        """Can it compute them?"""
        return all(map(_is_plain, products)) and self.needs(products).tiles >= FEWEST_TILES

    def needs(self, products: Products) -> Needs:
        right = sum(_right(p) for p in products)
        rows = _tilings(products)[0].width
        return Needs(right, 0, rows.extent, rows.count, rows.size)

    def product(self, products: Products, which: int, blocks: int) -> Product:
        task, tiling = products[which], _tilings(products)[which]
        form = canonicalise(task)
        plan = contraction_plan.Plan(tiling, "packed", row_blocks=blocks)

        def emit_right(module: ll.Module, isa: Isa, name: str) -> ll.Function:
            return contraction.emit_right(task, plan, module, isa, name)

        def first_row(e: Emitter, tile: Val) -> Val:
            return e.i64(piece_start(e, tiling.width, tile))

        kernel = contraction.lower(task, plan)
        return Product(kernel, form.rhs, form.batch, _right(task), emit_right, first_row)


def _rows_fill_tiles(task: Task) -> bool:
    form = canonicalise(task)
    problem = problem_of(form)
    columns = [loop.size for loop in form.n]
    return columns == [task.results[0].shape[-1]] and problem.rows == problem.wanted


def _is_plain(task: Task) -> bool:
    """Is it a product of f32 matrices, one for each head?"""
    form, shape = canonicalise(task), task.results[0].shape
    sizes = tuple(tuple(loop.size for loop in loops) for loops in (form.m, form.n))
    in_f32 = {form.lhs_dtype, form.rhs_dtype, form.accumulator} == {f32}
    moving = all(loop.strides[RHS] for loop in form.batch)
    return in_f32 and len(form.k) == 1 and sizes == ((shape[-2],), (shape[-1],)) and moving


def _right(task: Task) -> int:
    """Bytes of the packed right operand of one head."""
    shape = contraction_plan.shape_of(canonicalise(task), task.isa)
    return shape.form.depth * shape.vectors * shape.lanes * f32.nbytes


def _tilings(products: Products) -> tuple[Tiling, Tiling]:
    """The register tiles of both, with rows cut alike: those that take least together."""
    scores, values = (_by_rows(p) for p in products)
    best = min(scores.keys() & values.keys(), key=lambda n: scores[n][0] + values[n][0])
    return scores[best][1], values[best][1]


@once
def _by_rows(task: Task) -> dict[int, tuple[float, Tiling]]:
    """The best tiling for each number of tiles that the rows may be cut into, and its cycles."""
    shape = contraction_plan.shape_of(canonicalise(task), task.isa)
    found: dict[int, tuple[float, Tiling]] = {}
    for tiling in tiles.candidates(task.isa, 1, shape.rows, shape.vectors):
        cost = tiles.cost(task.isa, tiling, shape.form.depth)
        if cost < found.get(tiling.width.count, (float("inf"),))[0]:
            found[tiling.width.count] = cost, tiling
    return found
