"""Iteration spaces: how a kernel walks over its operands, and how it cuts the work into items.

A space has dimensions, outermost first; an `Access` says how far one operand moves per step along
each. Neighbouring dimensions that every access walks as one are merged, so most tensors end as one
or two loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilth.cpu import vmath
from tilth.cpu.access import address, broadcast_strides, memory_type
from tilth.cpu.emit import I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.ir import types
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph
from tilth.ir.types import DType, Shape


@dataclass(frozen=True, slots=True)
class Access:
    """How an operand or result is walked: elements per step along each dimension of the space."""

    dtype: DType
    strides: Shape

    @property
    def inner(self) -> int:
        """Elements between neighbours along the innermost dimension."""
        return self.strides[-1]

    def without(self, leading: int) -> Access:
        """The same walk over the dimensions behind the first `leading` ones."""
        return Access(self.dtype, self.strides[leading:])


@dataclass(frozen=True, slots=True)
class Space:
    """Dimension sizes, outermost first, and the accesses that walk over them."""

    dims: Shape
    accesses: tuple[Access, ...]

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    def permuted(self, order: Sequence[int]) -> Space:
        """The same space with its dimensions in another order."""
        accesses = (Access(a.dtype, tuple(a.strides[i] for i in order)) for a in self.accesses)
        return Space(tuple(self.dims[i] for i in order), tuple(accesses))

    def expanded(self) -> Space:
        """With an outermost dimension of size 1."""
        return Space(
            (1, *self.dims), tuple(Access(a.dtype, (0, *a.strides)) for a in self.accesses)
        )

    def merged(self, start: int = 0, stop: int | None = None) -> Space:
        """Size-1 dimensions dropped and neighbours merged within dims[start:stop].

        At least one dimension (of size 1) remains of the range.
        """
        stop = len(self.dims) if stop is None else stop
        groups: list[tuple[int, Shape]] = []  # size, strides of all accesses
        for axis in range(start, stop):
            size, strides = self.dims[axis], tuple(a.strides[axis] for a in self.accesses)
            if size == 1:
                continue
            if groups and all(o == s * size for o, s in zip(groups[-1][1], strides, strict=True)):
                groups[-1] = (groups[-1][0] * size, strides)
            else:
                groups.append((size, strides))
        groups = groups or [(1, (0,) * len(self.accesses))]
        middle = tuple(size for size, _ in groups)
        accesses = (
            Access(a.dtype, a.strides[:start] + tuple(s[i] for _, s in groups) + a.strides[stop:])
            for i, a in enumerate(self.accesses)
        )
        return Space(self.dims[:start] + middle + self.dims[stop:], tuple(accesses))


def space_of(shape: Shape, operands: Iterable[Operand]) -> Space:
    """The space of `shape` with operands that broadcast to it."""
    return Space(shape, tuple(Access(o.dtype, broadcast_strides(o, shape)) for o in operands))


def advance(
    e: Emitter, pointers: Sequence[Val], accesses: Sequence[Access], axis: int, index: int | Val
) -> list[Val]:
    """The pointers moved by `index` steps along one dimension."""
    return [
        address(e, p, a.dtype, (a.strides[axis],), (index,))
        for p, a in zip(pointers, accesses, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Split:
    """Work items: every index of dims[:axis], times pieces of `chunk` along dims[axis]."""

    dims: Shape
    axis: int
    chunk: int

    @property
    def pieces(self) -> int:
        return -(-self.dims[self.axis] // self.chunk)

    @property
    def items(self) -> int:
        return math.prod(self.dims[: self.axis]) * self.pieces

    def enter(
        self, e: Emitter, item: Val, pointers: Sequence[Val], accesses: Sequence[Access]
    ) -> tuple[list[Val], int | Val]:
        """Pointers at the first element of an item, and its length along dims[axis]."""
        *outer, piece = decode(e, item, (*self.dims[: self.axis], self.pieces))
        moved = list(pointers)
        for axis, index in enumerate(outer):
            moved = advance(e, moved, accesses, axis, index)
        if self.pieces == 1:
            return moved, self.dims[self.axis]
        start = e.b.mul(piece, e.i64(self.chunk))
        moved = advance(e, moved, accesses, self.axis, start)
        if self.dims[self.axis] % self.chunk == 0:
            return moved, self.chunk
        rest = e.b.sub(e.i64(self.dims[self.axis]), start)
        return moved, e.intrinsic("smin", rest, e.i64(self.chunk))


def split(dims: Shape, threads: int, step: int = 64, least: int = 1024, most: int = 8192) -> Split:
    """Items of about equal size, several per thread where the space is big enough for that.

    An item has `least` to `most` elements; pieces of the innermost dimension are multiples of
    `step`, so that threads do not share cache lines.
    """
    if math.prod(dims) == 0:
        return Split((0,), 0, 1)
    grain = min(max(math.prod(dims) // (4 * threads), least), most)
    axis, inner = 0, math.prod(dims[1:])
    while inner > grain:
        axis += 1
        inner //= dims[axis]
    quantum = step if axis == len(dims) - 1 else 1
    pieces = max(1, round(dims[axis] * inner / grain))
    chunk = -(-dims[axis] // pieces)
    return Split(dims, axis, -(-chunk // quantum) * quantum)


def decode(e: Emitter, item: Val, dims: Shape) -> list[int | Val]:
    """Row-major index of a linear item number."""
    index: list[int | Val] = []
    for position, dim in reversed(list(enumerate(dims))):
        if dim == 1:
            index.append(0)
        elif math.prod(dims[:position]) == 1:
            index.append(item)
        else:
            index.append(e.b.urem(item, e.i64(dim)))
            item = e.b.udiv(item, e.i64(dim))
    return index[::-1]


def maskable(accesses: Iterable[Access]) -> bool:
    """Can the machine touch part of a vector of each of these?"""
    return all(a.inner == 0 or (a.inner == 1 and a.dtype.nbytes >= 4) for a in accesses)


def blocks(count: int, lanes: int, most: int) -> list[tuple[int, int, int | None]]:
    """Cover `count` positions by (position, lanes, limit): powers of two registers, `most` lanes
    at most, then one register of which only `limit` lanes count."""
    result: list[tuple[int, int, int | None]] = []
    done, n = 0, most
    while done < count:
        while n > lanes and n > count - done:
            n //= 2
        result.append((done, n, None if n <= count - done else count - done))
        done += n
    return result


Body = Callable[[int | Val, int, "int | Val | None"], None]


def vector_loop(e: Emitter, count: int | Val, n: int, masks: bool, body: Body) -> None:
    """Cover positions [0, count): calls `body(position, lanes, how many of them or None for all)`.

    Vectors of `n` lanes, then single registers, then a masked rest (or one by one where memory
    cannot be masked).
    """
    lanes = min(e.isa.lanes, n)
    if isinstance(count, int):
        _static_loop(e, count, n, lanes, masks, body)
        return
    wide = e.b.and_(count, e.i64(-n)) if n & (n - 1) == 0 else _round_down(e, count, n)
    with e.loop(0, wide, n) as i:
        body(i, n, None)
    if masks:
        with e.loop(wide, count, lanes) as i:
            body(i, lanes, e.b.sub(count, i))
        return
    narrow = _round_down(e, count, lanes)
    if lanes < n:
        with e.loop(wide, narrow, lanes) as i:
            body(i, lanes, None)
    with e.loop(narrow, count) as i:
        body(i, 1, None)


def _round_down(e: Emitter, count: Val, n: int) -> Val:
    return e.b.sub(count, e.b.urem(count, e.i64(n)))


def _static_loop(e: Emitter, count: int, n: int, lanes: int, masks: bool, body: Body) -> None:
    done = count // n * n if count >= 2 * n else 0
    if done:
        with e.loop(0, done, n) as i:
            body(i, n, None)
    for position, width, limit in blocks(count - done, lanes, n):
        if masks or limit is None:
            body(done + position, width, limit)
            continue
        with e.loop(done + position, count) as i:
            body(i, 1, None)


def unroll(body: Graph) -> int:
    """Registers per vector: more for cheap bodies, fewer where values would spill."""
    expensive = sum(n.op in vmath.UNARY or n.op in vmath.BINARY for n in body.nodes)
    if expensive > 2 or len(body.nodes) > 24:
        return 1
    return 2 if expensive or len(body.nodes) > 8 else 4


# -- what every kernel needs ---------------------------------------------------------------------
def kernel_emitter(module, isa: Isa, name: str, pointers: int) -> tuple[Emitter, list[Val]]:
    """An emitter with the kernel calling convention, and the operand and result pointers."""
    e = Emitter(module, isa, name, [PTR] * (pointers + 1) + [I64] * 3)
    return e, list(e.args[:pointers])


def body_key(body: Graph) -> Hashable:
    """A hashable description of what a body computes: equal keys mean equal functions."""
    number = {v: i for i, v in enumerate(body.inputs)}
    rows = []
    for node in body.nodes:
        for value in node.outputs:
            number[value] = len(number)
        attrs = tuple((k, _hashable(v)) for k, v in sorted(node.attrs.items()))
        rows.append((node.op, tuple(number[v] for v in node.inputs), attrs, node.types))
    return (tuple(v.type for v in body.inputs), tuple(rows), tuple(number[v] for v in body.outputs))


def _hashable(attribute: object) -> Hashable:
    if isinstance(attribute, np.ndarray):
        return (str(attribute.dtype), attribute.shape, attribute.tobytes())
    if isinstance(attribute, Graph):
        return body_key(attribute)
    return attribute


def touched_bytes(views: Iterable[Operand]) -> int:
    """Bytes of memory behind these views, repeated elements counted once."""
    total = 0
    for view in views:
        distinct = (d for d, s in zip(view.shape, view.strides, strict=True) if s)
        total += math.prod(distinct) * view.dtype.nbytes
    return total


def as_bits(views: Sequence[Operand]) -> tuple[Operand, ...]:
    """The same views as unsigned integers of their width, for kernels that only move elements.

    Raises CompileError for elements wider than a machine word.
    """
    return tuple(replace(v, dtype=bits_of(v.dtype)) for v in views)


def bits_of(dtype: DType) -> DType:
    """The unsigned integer as wide as an element in memory."""
    if dtype.nbytes not in _WORDS:
        raise CompileError(f"no machine type for {dtype}, which takes {dtype.nbytes} bytes")
    return _WORDS[dtype.nbytes]


_WORDS = {1: types.u8, 2: types.u16, 4: types.u32, 8: types.u64}


def require_dtypes(views: Iterable[Operand]) -> None:
    """Raises CompileError when an operand has no machine type."""
    for view in views:
        memory_type(view.dtype)
