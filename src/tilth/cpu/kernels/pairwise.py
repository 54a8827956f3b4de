"""Long sums in short runs, whose sums are added in pairs, pairs of pairs and so on.

A chain of additions rounds once per term, by a unit in the last place of all that was summed
before. In runs, errors grow with the length of one and the logarithm of their number (Higham, "The
accuracy of floating point summation", 1993), at the price of a load, an addition and a store per
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.emit import I64, Emitter, Val

RUN = 32  # terms: shorter runs hardly round less and take longer


@dataclass(frozen=True)
class Runs:
    """How terms are grouped: a run is `length` turns of loop `level`, counted from the
    outermost one, and all turns of the loops inside."""

    level: int
    length: int


def cut(sizes: Sequence[int], target: int) -> Runs | None:
    """Runs of about `target` terms of loops of these sizes; None where one run does."""
    inside = 1
    for level, size in reversed(list(enumerate(sizes))):
        pieces = round(inside * size / target)
        if pieces > 1:
            unit = 4 if level == len(sizes) - 1 else 1  # what the micro-kernel unrolls
            return Runs(level, -(-size // (unit * pieces)) * unit)
        inside *= size
    return None


class Pairwise:
    """Sums of 1, 2, 4 ... runs that wait for as many more: those whose bit is set in the number of
    runs so far."""

    def __init__(
        self, e: Emitter, plus: Callable[[Val, Val], Val], zeros: Sequence[Val], runs: int
    ):
        self.e, self.plus, self.zeros = e, plus, zeros
        self.levels = runs.bit_length()
        self.memory = e.var(ll.ArrayType(zeros[0].type, len(zeros) * self.levels))

    def add(self, run: Val, sums: Sequence[Val]) -> None:
        """Take in a run's sums: as one is carried when counting, they join those that wait."""
        e, before = self.e, self.e.b.block
        carry, join, wait = (e.fn.append_basic_block(n) for n in ("carry", "join", "wait"))
        e.b.branch(carry)
        e.b.position_at_end(carry)
        level = e.b.phi(I64)
        level.add_incoming(I64(0), before)
        totals = [e.b.phi(s.type) for s in sums]
        for total, added in zip(totals, sums, strict=True):
            total.add_incoming(added, before)
        e.b.cbranch(self._waits(run, level), join, wait)
        e.b.position_at_end(join)
        for total, waiting in zip(totals, self._load(level), strict=True):
            total.add_incoming(self.plus(waiting, total), join)
        level.add_incoming(e.b.add(level, I64(1)), join)
        e.b.branch(carry)
        e.b.position_at_end(wait)
        for i, total in enumerate(totals):
            e.store(total, self._place(level, i))

    def total(self, runs: Val) -> list[Val]:
        """The sum of all that wait, the shortest sums first."""
        e, totals = self.e, list(self.zeros)
        for level in map(I64, range(self.levels)):
            before = e.b.block
            join, done = (e.fn.append_basic_block(n) for n in ("join", "joined"))
            e.b.cbranch(self._waits(runs, level), join, done)
            e.b.position_at_end(join)
            joined = [self.plus(w, t) for w, t in zip(self._load(level), totals, strict=True)]
            e.b.branch(done)
            e.b.position_at_end(done)
            phis = [e.b.phi(t.type) for t in totals]
            for phi, old, new in zip(phis, totals, joined, strict=True):
                phi.add_incoming(old, before)
                phi.add_incoming(new, join)
            totals = phis
        return totals

    def _waits(self, runs: Val, level: Val) -> Val:
        return self.e.b.trunc(self.e.b.lshr(runs, level), ll.IntType(1))

    def _load(self, level: Val) -> list[Val]:
        return [self.e.load(self._place(level, i), z.type) for i, z in enumerate(self.zeros)]

    def _place(self, level: Val, i: int) -> Val:
        b, number = self.e.b, len(self.zeros)
        at = b.add(b.mul(level, I64(number)), I64(i))
        return b.gep(self.memory, [I64(0), at], inbounds=True)
