"""Splitting f32 into three bf16 whose sum is the number, in NumPy for constant operands.

It is done as in the kernels (see `split_bf16_split`), to the bit.
"""

from __future__ import annotations

import numpy as np

from tilth.cpu.kernel import Operand, Packed
from tilth.cpu.kernels.contraction_form import RHS
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH
from tilth.cpu.kernels.packing import with_operand_strides
from tilth.cpu.kernels.split_bf16_plan import PANEL, PARTS, Plan

_HALF, _HIGH = np.uint32(0x8000), np.uint32(0xFFFF0000)


def split(values: np.ndarray) -> list[np.ndarray]:
    """f32 values as arrays of f32 bits (u32): what their upper halves say is a bf16 part."""
    high = values.view(np.uint32) + _HALF
    high &= _HIGH
    parts = [high]
    with np.errstate(invalid="ignore"):
        rest = values - high.view(np.float32)
        for _ in range(PARTS - 2):
            parts.append(rest.view(np.uint32) & _HIGH)
            rest = rest - parts[-1].view(np.float32)
    parts.append(rest.view(np.uint32))
    return parts


def packed(operand: Operand, plan: Plan) -> Packed:
    """`pack`, to be done later."""
    assert operand.constant is not None
    problem = plan.problem
    loops = (*problem.outer, *problem.form.k, problem.columns)
    strides = tuple((lp.size, lp.strides[RHS]) for lp in loops)
    layout = ("split bf16", _slices(plan), operand.strides, *strides)
    return Packed(plan.packed, operand.constant, lambda place: pack(place, operand, plan), layout)


def pack(place: np.ndarray, operand: Operand, plan: Plan) -> None:
    """Write the operand as [outer][panel][step] and then [part][tile][pair of k][column][k of the
    pair], or, if the plan is `plain`, as [outer][panel][part of the depth][slice][step][pair of k]
    [k of the pair][column] of f32.

    Depth and columns that do not fill a tile (or a plain panel) are zeros.
    """
    problem = plan.problem
    moving = [loop for loop in problem.outer if loop.strides[RHS]]
    loops = [*moving, *problem.form.k, problem.columns]
    source = with_operand_strides(operand)
    seen = np.lib.stride_tricks.as_strided(
        source,
        tuple(loop.size for loop in loops),
        tuple(loop.strides[RHS] * source.itemsize for loop in loops),
        writeable=False,
    )
    inner, columns = problem.inner.size, problem.columns.size
    seen = seen.reshape(problem.matrices, -1, inner, columns)
    result = place.view(np.uint32).reshape(len(seen), plan.right // 4)
    for turn, matrix in zip(result, seen, strict=True):
        for number, start in enumerate(range(0, columns, PANEL * COLUMNS)):
            wanted = matrix[:, :, start : start + PANEL * COLUMNS]
            at = number * plan.panel // 4
            panel = turn[at : at + plan.panel // 4]
            if plan.plain:
                _slice_panel(panel, wanted, (plan.depth_blocks, plan.pairs_beside))
            else:
                _split_panel(panel, wanted)


def _slices(plan: Plan) -> tuple[int, int] | None:
    """Parts of the depth, and pairs in a slice, of a plain panel."""
    return (plan.depth_blocks, plan.pairs_beside) if plan.plain else None


def _slice_panel(panel: np.ndarray, columns: np.ndarray, slices: tuple[int, int]) -> None:
    depths, pairs = slices
    room = np.empty(panel.size, np.float32)
    width, half = PANEL * COLUMNS, DEPTH // 2
    filled = _fill(room, columns, PANEL).reshape(depths, -1, 2, half // pairs, pairs, width)
    sliced = panel.view(np.float32).reshape(depths, half // pairs, -1, pairs, 2, width)
    sliced[...] = filled.transpose(0, 3, 1, 4, 2, 5)


def _fill(place: np.ndarray, columns: np.ndarray, tiles: int) -> np.ndarray:
    """Write columns [tap][k][column] to a place for whole steps and tiles, zeros behind them."""
    taps, inner, count = columns.shape
    padded = place.reshape(taps, -1, tiles * COLUMNS)
    padded[:, :inner, :count] = columns
    padded[:, inner:] = 0
    padded[:, :inner, count:] = 0
    return padded


def _split_panel(panel: np.ndarray, columns: np.ndarray) -> None:
    taps, inner, count = columns.shape
    steps, tiles = -(-inner // DEPTH) * taps, -(-count // COLUMNS)
    room = np.empty(steps * DEPTH * tiles * COLUMNS, np.float32)
    parts = panel.reshape(steps, PARTS, tiles, DEPTH // 2, COLUMNS)
    for part, bits in enumerate(split(_fill(room, columns, tiles))):
        halves = bits.reshape(steps, 2, DEPTH // 2, tiles, COLUMNS)
        pairs = (halves[:, 0] >> 16) | (halves[:, 1] & _HIGH)
        parts[:, part] = pairs.transpose(0, 2, 1, 3)
