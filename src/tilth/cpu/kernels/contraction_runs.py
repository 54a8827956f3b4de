"""The inner loops of a contraction that rounds little: its products are summed in short runs.

A register tile goes through the depth as `microkernel.accumulate` does, but after each run its
accumulators join those of earlier runs in memory and start from zero again (see `pairwise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.microkernel import LINE, Depth, Stream, accumulate, unrolling
from tilth.cpu.kernels.pairwise import Pairwise, Runs
from tilth.cpu.kernels.space import decode


def accumulate_in_runs(
    e: Emitter,
    lhs: Stream,
    rhs: Stream,
    pointers: Sequence[Val],
    taps: Sequence[Depth],
    inner: Depth,
    trips: int | Val,
    zeros: Sequence[Val],
    runs: Runs,
    pace: int | None = None,
) -> list[Val]:
    """As `microkernel.accumulate`, but from zero and in runs."""
    outer, [loop, *inside], length = taps[: runs.level], [*taps, inner][runs.level :], runs.length
    whole = loop.size if inside else trips
    most = whole if isinstance(whole, int) else loop.size
    turns, pieces = math.prod(t.size for t in outer), -(-most // length)
    even = isinstance(whole, int) and whole % length == 0
    count = I64(pieces) if isinstance(whole, int) else _pieces(e, whole, length)
    sums = Pairwise(e, e.b.fadd, zeros, turns * pieces)
    fetched = _turns(length, inside, unrolling(len(zeros), pace is not None)) * (pace or LINE)
    with e.loop(0, turns) as turn, e.loop(0, count) as piece:
        a, b, *ahead = pointers
        for i, tap in zip(decode(e, turn, tuple(t.size for t in outer)), outer, strict=True):
            a, b = step(e, a, i, tap.lhs), step(e, b, i, tap.rhs)
        a, b = step(e, a, piece, length * loop.lhs), step(e, b, piece, length * loop.rhs)
        run = e.b.add(e.b.mul(turn, count), piece)
        at = [a, b, *(step(e, p, run, fetched) for p in ahead)]
        rest = e.b.sub(e.i64(whole), e.b.mul(piece, I64(length)))
        now = length if even else e.intrinsic("smin", rest, I64(length))
        within = [replace(loop, turns=now), *inside[:-1]] if inside else []
        depth = trips if inside else now
        sums.add(run, accumulate(e, lhs, rhs, at, within, inner, depth, zeros, pace))
    return sums.total(e.b.mul(I64(turns), count))


def _pieces(e: Emitter, whole: Val, length: int) -> Val:
    """How many pieces of this length, the last one perhaps shorter."""
    return e.b.udiv(e.b.add(whole, I64(length - 1)), I64(length))


def _turns(length: int, inside: Sequence[Depth], unroll: int) -> int:
    """Turns of the innermost loop in one run, each of `unroll` units of depth."""
    if not inside:
        return length // unroll
    return length * math.prod(t.size for t in inside[:-1]) * (inside[-1].size // unroll)
