"""Splitting f32 into two bf16 whose sum is nearly the number, in NumPy for constant operands.

The high part is the number rounded to bf16, the low part what that leaves, rounded too. Rounding is
to nearest, halves away from zero, as the kernels do it with two instructions.
"""

from __future__ import annotations

import math

import numpy as np

from tilth.cpu.kernel import Operand, Packed
from tilth.cpu.kernels.contraction_form import RHS
from tilth.cpu.kernels.packing import with_operand_strides
from tilth.cpu.kernels.split_bf16_plan import COLUMNS, DEPTH, PANEL, PARTS, Problem

_HALF, _HIGH, _NAN = np.uint32(0x8000), np.uint32(0xFFFF0000), np.uint32(0x7FC00000)


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32 values as two arrays of f32 bits (u32): what their upper halves say is the bf16 part."""
    high = values.view(np.uint32) + _HALF
    high &= _HIGH
    with np.errstate(invalid="ignore"):
        rest = values - high.view(np.float32)
    low = rest.view(np.uint32)
    if np.isnan(rest.max(initial=0)):  # rounding would carry a NaN of ones into the sign
        high[np.isnan(values)] = _NAN
        low[np.isnan(rest)] = _NAN
    low += _HALF
    return high, low


def packed(operand: Operand, problem: Problem) -> Packed:
    """`pack`, to be done later."""
    assert operand.constant is not None
    loops = (*problem.outer, *problem.form.k, problem.columns)
    layout = ("split bf16", operand.strides, *((lp.size, lp.strides[RHS]) for lp in loops))
    return Packed(
        problem.packed, operand.constant, lambda place: pack(place, operand, problem), layout
    )


def pack(place: np.ndarray, operand: Operand, problem: Problem) -> None:
    """Write the operand as [outer][panel][step][part][tile][pair of k][column][k of the pair].

    Depth and columns that do not fill a tile are zeros.
    """
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
    seen = seen.reshape(math.prod(loop.size for loop in moving), -1, inner, columns)
    result = place.view(np.uint16).reshape(len(seen), problem.right // 2)
    for turn, matrix in zip(result, seen, strict=True):
        at = 0
        for start in range(0, columns, PANEL * COLUMNS):
            size = problem.steps * PARTS * _tiles(columns - start) * DEPTH * COLUMNS
            _pack_panel(matrix[:, :, start : start + PANEL * COLUMNS], turn[at : at + size])
            at += size


def _tiles(columns: int) -> int:
    return min(PANEL, -(-columns // COLUMNS))


def _pack_panel(columns: np.ndarray, panel: np.ndarray) -> None:
    """One panel, from [tap][k][column]."""
    taps, inner, count = columns.shape
    steps, tiles = -(-inner // DEPTH), _tiles(count)
    padded = np.zeros((taps, steps * DEPTH, tiles * COLUMNS), np.float32)
    padded[:, :inner, :count] = columns
    panel = panel.view(np.uint32).reshape(taps * steps, PARTS, tiles, DEPTH // 2, COLUMNS)
    for part, bits in enumerate(split(padded)):
        pairs = (bits[:, 0::2] >> 16) | (bits[:, 1::2] & _HIGH)
        tiled = pairs.reshape(taps * steps, DEPTH // 2, tiles, COLUMNS)
        panel[:, part] = tiled.transpose(0, 2, 1, 3)
