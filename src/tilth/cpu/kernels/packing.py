"""Copies that make a contraction's operands pleasant to read.

The right operand is packed into panels, [panel][depth][lanes of the panel]: at compile time when it
is constant, otherwise per block into scratch. Rows of the left operand are copied side by side with
a pitch that spreads them over the sets of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.access import load, memory_type, store, to_memory
from tilth.cpu.emit import I32, I64, Emitter, Val
from tilth.cpu.kernel import Operand, Packed
from tilth.cpu.kernels.contraction_form import RHS, Loop
from tilth.ir.types import DType


def pack_panels(
    place: np.ndarray,
    operand: Operand,
    outer: Sequence[Loop],
    depth: Sequence[Loop],
    columns: Loop,
    lanes: int,
    width: int,
    together: int = 1,
) -> None:
    """Write a constant right operand as [outer...][vectors * depth * lanes], zero where n ends.

    Panels of `width` vectors follow each other; the last one is as narrow as what is left. So many
    rows of the depth as are `together` lie next to each other in each lane.
    """
    loops = [*outer, *depth, columns]
    source = with_operand_strides(operand)
    seen = np.lib.stride_tricks.as_strided(
        source,
        tuple(lp.size for lp in loops),
        tuple(lp.strides[RHS] * source.itemsize for lp in loops),
        writeable=False,
    )
    blocks = math.prod(lp.size for lp in outer)
    seen = seen.reshape(blocks, -1, columns.size)
    rows, vectors = seen.shape[1], -(-columns.size // lanes)
    packed = place.view(source.dtype).reshape(blocks, rows * vectors * lanes)
    for start in range(0, vectors * lanes, width * lanes):
        stop = min(start + width * lanes, vectors * lanes)
        panel = packed[:, rows * start : rows * stop]
        panel = panel.reshape(blocks, -1, stop - start, together)
        known = min(stop, columns.size) - start
        rowwise = seen[:, :, start : start + known].reshape(blocks, -1, together, known)
        panel[:, :, :known] = rowwise.swapaxes(2, 3)
        panel[:, :, known:] = 0


def packed_panels(
    operand: Operand,
    outer: Sequence[Loop],
    depth: Sequence[Loop],
    columns: Loop,
    lanes: int,
    width: int,
    together: int = 1,
) -> Packed:
    """`pack_panels`, to be done later."""
    assert operand.constant is not None
    vectors = -(-columns.size // lanes)
    elements = math.prod(loop.size for loop in (*outer, *depth)) * vectors * lanes
    loops = [tuple((lp.size, lp.strides[RHS]) for lp in of) for of in (outer, depth, (columns,))]
    return Packed(
        elements * operand.constant.itemsize,
        operand.constant,
        lambda place: pack_panels(place, operand, outer, depth, columns, lanes, width, together),
        ("panels", operand.strides, *loops, lanes, width, together),
    )


def with_operand_strides(operand: Operand) -> np.ndarray:
    """The constant's elements in memory as the operand's strides say; the view's first element."""
    array = operand.constant
    assert array is not None
    wanted = tuple(s * array.itemsize for s in operand.strides)
    if array.strides == wanted:
        return array
    reach = [(d - 1) * s for d, s in zip(operand.shape, operand.strides, strict=True)]
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    room = np.zeros(high - low + 1, array.dtype)[-low:]
    view = np.lib.stride_tricks.as_strided(room, array.shape, wanted)
    view[...] = array
    return view


def copy_run(e: Emitter, source: Val, target: Val, dtype: DType, count: int | Val) -> None:
    """Copy `count` neighbouring elements."""
    lanes = max(1, e.isa.vector_bytes // dtype.nbytes)
    size = dtype.nbytes

    def copy(at: Val, n: int) -> None:
        at = e.b.mul(at, I64(size))
        store(e, load(e, e.offset(source, at), dtype, n), e.offset(target, at), dtype)

    if isinstance(count, int):
        whole: int | Val = count // lanes * lanes
    else:
        whole = e.b.and_(count, I64(-lanes))
    with e.loop(0, whole, lanes) as at:
        copy(at, lanes)
    if not isinstance(count, int) or count % lanes:
        with e.loop(whole, count) as at:
            copy(at, 1)


def conflict_free(nbytes: int, line: int = 64) -> int:
    """The smallest pitch of at least `nbytes` that is an odd number of cache lines."""
    lines = -(-nbytes // line)
    return (lines | 1) * line


def pack_column(
    e: Emitter,
    source: Val,
    target: Val,
    pitch: Val,
    dtype: DType,
    depth: int,
    strides: tuple[int, int],
    lanes: int,
    count: int | None,
) -> None:
    """Pack one vector of columns: `depth` rows of `lanes` elements, `pitch` bytes apart.

    `strides` are the source's elements per unit of depth and per column. Only `count` columns
    exist (None: all); the others become zeros, or repeat an existing one where memory is gathered.
    """
    along, across = strides
    size = dtype.nbytes

    def place(k: Val, row: Val) -> None:
        e.store(row, e.offset(target, e.b.mul(k, pitch)), align=size)

    def one(k: Val) -> None:
        where = e.offset(source, e.b.mul(k, I64(along * size)))
        place(k, to_memory(e, load(e, where, dtype, lanes, across, count), dtype))

    whole = 0
    if along == 1 and across != 1 and lanes > 1:
        whole = depth // lanes * lanes
        with e.loop(0, whole, lanes) as k:
            start = e.offset(source, e.b.mul(k, I64(size)))
            type_ = memory_type(dtype, lanes)
            rows = [
                e.load(e.offset(start, c * across * size), type_)
                if count is None or c < count
                else e.const(type_, 0)
                for c in range(lanes)
            ]
            for i, row in enumerate(transposed(e, rows)):
                place(e.b.add(k, I64(i)), row)
    with e.loop(whole, depth) as k:
        one(k)


def transposed(e: Emitter, rows: Sequence[Val]) -> list[Val]:
    """The columns of n vectors of n lanes, n a power of two: log2(n) rounds of exchanges."""
    rows, n = list(rows), len(rows)
    distance = 1
    while distance < n:
        keep = [j if not j & distance else n + j - distance for j in range(n)]
        take = [j + distance if not j & distance else n + j for j in range(n)]
        for i in range(n):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i] = e.b.shuffle_vector(a, b, _mask(keep))
                rows[i + distance] = e.b.shuffle_vector(a, b, _mask(take))
        distance *= 2
    return rows


def _mask(lanes: Sequence[int]) -> ll.Constant:
    return ll.Constant(ll.VectorType(I32, len(lanes)), list(lanes))
