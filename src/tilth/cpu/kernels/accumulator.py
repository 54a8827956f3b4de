"""The running state of one reduction: wide vectors while looping, one scalar at the end."""

from __future__ import annotations

import llvmlite.ir as ll

from tilth.cpu.access import register_type
from tilth.cpu.emit import I32, Emitter, Val, width
from tilth.cpu.expression import combine, constant, identity_of
from tilth.ir.types import DType


class Accumulator:
    """Combines values of any width up to `n` lanes; wide values are several independent chains."""

    def __init__(self, e: Emitter, kind: str, dtype: DType, n: int):
        self.e, self.kind, self.dtype = e, kind, dtype
        self.identity = identity_of(kind, dtype)
        widths = sorted({n, min(n, e.isa.lanes), 1}, reverse=True)
        self.slots = {w: e.var(register_type(dtype, w), self.neutral(w)) for w in widths}

    def neutral(self, n: int) -> Val:
        return constant(self.e, self.dtype, self.identity, n)

    def add(self, value: Val, limit: int | Val | None = None) -> None:
        """Take in the first `limit` lanes of a vector (all by default)."""
        n = width(value.type)
        if limit is not None:
            value = self.e.b.select(self.e.lane_mask(n, limit), value, self.neutral(n))
        while n not in self.slots:
            value, n = self._halved(value), n // 2
        total = combine(self.e, self.kind, self.dtype, self.e.b.load(self.slots[n]), value)
        self.e.b.store(total, self.slots[n])

    def result(self) -> Val:
        """The scalar total of everything added."""
        total: Val | None = None
        for n, slot in self.slots.items():
            while total is not None and width(total.type) > n:
                total = self._halved(total)
            value = self.e.b.load(slot)
            total = value if total is None else combine(self.e, self.kind, self.dtype, total, value)
        assert total is not None
        return total

    def _halved(self, value: Val) -> Val:
        half = width(value.type) // 2
        nothing = ll.Constant(value.type, ll.Undefined)
        low, high = (
            self.e.b.shuffle_vector(value, nothing, ll.Constant(ll.VectorType(I32, half), lanes))
            for lanes in (list(range(half)), list(range(half, 2 * half)))
        )
        if half == 1:
            zero, one = ll.Constant(I32, 0), ll.Constant(I32, 1)
            low, high = self.e.b.extract_element(value, zero), self.e.b.extract_element(value, one)
        return combine(self.e, self.kind, self.dtype, low, high)
