"""The canonical form of a contraction: loops with one stride per tensor.

A `dot_general` and a (channels-last, explicitly padded) `convolution` are the same thing: a nest of
loops over batch, m, n and k, in which each tensor moves by a fixed stride per loop. A loop's class
follows from who moves: batch moves both operands, m only the left one, n only the right one, and k
moves operands but not the result. Loops of one class that are contiguous with each other for every
tensor are merged, so a dense 1x1 convolution becomes a plain matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tilth.cpu.access import broadcast_strides
from tilth.cpu.kernel import Operand, Task, once
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.types import DType, f32, f64

LHS, RHS, RESULT, FIRST_EXTRA = range(4)  # positions in `Loop.strides`


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop: its trip count, and how far each tensor moves per turn, in elements."""

    size: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contraction:
    """result[batch, m, n] = epilogue(sum over k of lhs[batch, m, k] * rhs[batch, k, n]).

    `lhs` and `rhs` are positions among the kernel's operands (the two may have traded places, so
    that n is the loop along which the result is contiguous); `extras` are the positions of the
    epilogue's other operands. The vector loop is `n[-1]`, the loop of unit depth `k[-1]`. `quads`:
    a unit of depth is four bytes, see `contraction_bytes`.
    """

    body: Graph
    hero: Node
    lhs: int
    rhs: int
    extras: tuple[int, ...]
    batch: tuple[Loop, ...]
    m: tuple[Loop, ...]
    n: tuple[Loop, ...]
    k: tuple[Loop, ...]
    lhs_dtype: DType
    rhs_dtype: DType
    accumulator: DType
    quads: bool = False

    @property
    def depth(self) -> int:
        """Products summed for one element of the result; 0 gives zeros."""
        return math.prod(loop.size for loop in self.k)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole contraction."""
        return math.prod(lp.size for lp in (*self.batch, *self.m, *self.n, *self.k))


@once
def canonicalise(task: Task) -> Contraction:
    """Loops of the hero of a `contraction` fusion. Raises CompileError when it has none."""
    form = as_written(task)
    by_result = _by_stride([*form.m, *form.n], RESULT)
    form = replace(
        form,
        batch=_merge([lp for lp in by_result if lp.strides[LHS] and lp.strides[RHS]]),
        m=_merge([lp for lp in by_result if not lp.strides[RHS]]),
        n=_merge([lp for lp in by_result if lp.strides[RHS] and not lp.strides[LHS]]),
        k=_merge(_by_stride(list(form.k), LHS)),
    )
    return _swapped(form) if _better_swapped(form) else form


@once
def as_written(task: Task) -> Contraction:
    """The hero's loops as its op defines them: the last one of the result is n, the others are m.

    Those of a convolution are m = (batch, *spatial, groups), n = (channels of a group,) and
    k = (*taps, input channels of a group). Raises CompileError when there is no hero.
    """
    body, operands = task.body, task.operands
    hero = _hero(body)
    lhs, rhs = (body.inputs.index(v) for v in hero.inputs)
    extras = tuple(i for i, v in enumerate(body.inputs) if _feeds_epilogue(body, hero, v))
    shape = hero.types[0].dims  # type: ignore[union-attr]
    outer = [
        broadcast_strides(task.results[0], shape),
        *(broadcast_strides(operands[i], shape) for i in extras),
    ]
    split = _split_dot if hero.op == "dot_general" else _split_convolution
    output, reduced = split(hero, operands[lhs], operands[rhs], outer)
    return Contraction(
        *(body, hero, lhs, rhs, extras),
        *((), tuple(output[:-1]), tuple(output[-1:]), tuple(reduced)),
        *(operands[lhs].dtype, operands[rhs].dtype, _accumulator(hero)),
    )


def _hero(body: Graph) -> Node:
    heroes = [n for n in body.nodes if n.op in ("dot_general", "convolution")]
    if len(heroes) != 1:
        raise CompileError(f"a contraction has one dot_general or convolution, not {len(heroes)}")
    hero = heroes[0]
    if any(v not in body.inputs for v in hero.inputs):
        raise CompileError(f"the operands of {hero!r} must be inputs of the fusion")
    return hero


def _feeds_epilogue(body: Graph, hero: Node, value: Value) -> bool:
    return any(user is not hero for user in body.users[value])


def _accumulator(hero: Node) -> DType:
    """f16 and bf16 are summed in f32; integers in the type of the result, modulo 2^bits."""
    dtype = hero.types[0].dtype  # type: ignore[union-attr]
    if dtype.is_float:
        wide = any(v.tensor.dtype == f64 for v in hero.inputs) or dtype == f64
        return f64 if wide else f32
    if not dtype.is_integer:
        raise CompileError(f"{hero!r}: no contraction kernel sums {dtype}")
    return dtype


# -- loops of the two ops ------------------------------------------------------------------------
Loops = list[Loop]


def _split_dot(
    hero: Node, lhs: Operand, rhs: Operand, outer: list[tuple[int, ...]]
) -> tuple[Loops, Loops]:
    a = hero.attrs
    lhs_free = _others(len(lhs.shape), (*a["lhs_batch"], *a["lhs_contract"]))
    rhs_free = _others(len(rhs.shape), (*a["rhs_batch"], *a["rhs_contract"]))
    axes: list[tuple[int | None, int | None]] = [
        *zip(a["lhs_batch"], a["rhs_batch"], strict=True),
        *((axis, None) for axis in lhs_free),
        *((None, axis) for axis in rhs_free),
    ]
    output = []
    for position, (left, right) in enumerate(axes):
        size = lhs.shape[left] if left is not None else rhs.shape[right]  # type: ignore[index]
        moves = (
            lhs.strides[left] if left is not None else 0,
            rhs.strides[right] if right is not None else 0,
        )
        output.append(Loop(size, (*moves, *(strides[position] for strides in outer))))
    still = (0,) * len(outer)
    reduced = [
        Loop(lhs.shape[left], (lhs.strides[left], rhs.strides[right], *still))
        for left, right in zip(a["lhs_contract"], a["rhs_contract"], strict=True)
    ]
    return output, reduced


def _split_convolution(
    hero: Node, x: Operand, w: Operand, outer: list[tuple[int, ...]]
) -> tuple[Loops, Loops]:
    a = hero.attrs
    spatial, groups = len(x.shape) - 2, a["groups"]
    explicit = not any(p for pair in a["padding"] for p in pair) and set(a["lhs_dilation"]) <= {1}
    if a["layout"] != "channels_last" or not explicit:
        raise CompileError(f"{hero!r}: needs channels_last, zero padding and no lhs_dilation")
    shape = hero.types[0].dims  # type: ignore[union-attr]
    channels = w.shape[-1] // groups

    def out(axis: int, times: int = 1) -> tuple[int, ...]:
        return tuple(strides[axis] * times for strides in outer)

    output = [Loop(shape[0], (x.strides[0], 0, *out(0)))]
    for i in range(1, spatial + 1):
        output.append(Loop(shape[i], (x.strides[i] * a["strides"][i - 1], 0, *out(i))))
    group = (x.strides[-1] * w.shape[-2], w.strides[-1] * channels, *out(-1, channels))
    output += [Loop(groups, group), Loop(channels, (0, w.strides[-1], *out(-1)))]
    still = (0,) * len(outer)
    reduced = [
        Loop(w.shape[i], (x.strides[i + 1] * a["rhs_dilation"][i], w.strides[i], *still))
        for i in range(spatial)
    ]
    return output, [*reduced, Loop(w.shape[-2], (x.strides[-1], w.strides[-2], *still))]


def _others(rank: int, taken: Iterable[int]) -> list[int]:
    return [axis for axis in range(rank) if axis not in set(taken)]


# -- tidying -------------------------------------------------------------------------------------
def _by_stride(loops: Loops, tensor: int) -> Loops:
    """Without loops of one turn; the smallest stride of `tensor` innermost."""
    return sorted((lp for lp in loops if lp.size != 1), key=lambda lp: -abs(lp.strides[tensor]))


def _merge(loops: Loops) -> tuple[Loop, ...]:
    merged: Loops = []
    for inner in loops:
        outer = merged[-1] if merged else None
        if outer and outer.strides == tuple(inner.size * s for s in inner.strides):
            merged[-1] = Loop(outer.size * inner.size, inner.strides)
        else:
            merged.append(inner)
    return tuple(merged)


def _better_swapped(form: Contraction) -> bool:
    """Is the result contiguous along m and not along n?"""

    def unit(loops: tuple[Loop, ...]) -> bool:
        return bool(loops) and loops[-1].strides[RESULT] == 1

    return unit(form.m) and not unit(form.n)


def _swapped(form: Contraction) -> Contraction:
    """The transposed problem: the operands trade places."""

    def trade(loops: tuple[Loop, ...]) -> tuple[Loop, ...]:
        return tuple(
            Loop(lp.size, (lp.strides[RHS], lp.strides[LHS], *lp.strides[RESULT:])) for lp in loops
        )

    k = _merge(_by_stride(list(trade(form.k)), LHS))
    return replace(
        *(form,),
        **{"lhs": form.rhs, "rhs": form.lhs, "k": k, "batch": trade(form.batch)},
        **{"m": trade(form.n), "n": trade(form.m)},
        **{"lhs_dtype": form.rhs_dtype, "rhs_dtype": form.lhs_dtype},
    )
