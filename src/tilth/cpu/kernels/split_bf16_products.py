"""Products of tiles on a matrix unit, and the work beside them.

The unit needs the core for a few instructions only, so that a product can do more than its own
work: finish what an earlier product left, split lines and panels that a later one reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.emit import F32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels import split_bf16_split as splitting
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH, LINE, ROWS, TILE, Tiles
from tilth.cpu.kernels.split_bf16_plan import PAIR, PARTS, STEP, SUMS, TURN, Plan

# Which parts of the left and the right operand are multiplied: all that matter, in an order in
# which only one side changes at a time.
_PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))
_SLOTS = len(_PRODUCTS)  # places for other work in a step: behind each product
_SETS = 2  # of sums, where one set would keep the unit waiting for its own results


class Beside(ABC):
    """Work that is spread over the steps of a product, and over the slots of each step."""

    def streams(self) -> list[tuple[Val, int]]:
        """Pointers that move with the steps, and by how many bytes."""
        return []

    def step(self, moved: list[Val]) -> None:  # noqa: B027
        """A step begins, at which the streams are here."""

    @abstractmethod
    def emit(self, slot: int) -> None:
        """The work of one slot."""


@dataclass(frozen=True)
class Work:
    """What a product may do beside its own work: `begin` takes arguments of these types."""

    label: str
    types: Sequence[ll.Type]
    begin: Callable[[Emitter, list[Val]], Beside]


class Products:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, plan: Plan):
        self.module, self.isa, self.name = module, isa, name
        self.plan = plan
        self._made: dict[str, ll.Function] = {}

    def function(
        self, label: str, args: Sequence[ll.Type], body: Callable[[Emitter], None]
    ) -> ll.Function:
        """The function of this label, which `body` emits."""
        if label not in self._made:
            e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
            e.fn.linkage = "internal"
            e.fn.attributes.add("noinline")
            body(e)
            self._made[label] = e.finish()
        return self._made[label]

    def plain(self) -> ll.Function:
        """f(source, target): split a panel that was packed as f32."""
        sizes = self.plan.pairs_beside, self.plan.product_steps
        return self.function(
            "plain", [PTR, PTR], lambda e: splitting.plain_panel(e, *sizes, *e.args)
        )

    def pairs(self) -> ll.Function:
        """f(source, target, count): split so many pairs of rows of a step of such a panel."""
        return self.function("pairs", [PTR, PTR, I64], lambda e: splitting.plain_pairs(e, *e.args))

    def panel(self) -> Work:
        """Split the slice of a plain panel that begins with pair `first`; none from 16 on.

        Arguments: the slice, the place of the split panel, `first`.
        """
        return Work("panel", (PTR, PTR, I64), lambda e, args: _Panel(e, self, args))

    def product(
        self, high: int, wide: int, resumes: bool = False, work: Sequence[Work] = ()
    ) -> ll.Function:
        """f(left, right, sums, spare, ...): `high` row tiles by a panel of `wide` tiles.

        It adds to sums of earlier parts of the depth if it `resumes`; `spare` is room for as many
        sums, `SUMS` bytes a row. On the way it does the given work, each with arguments of its own.
        """
        label = "_".join([f"product{high}x{wide}{'more' * resumes}", *(w.label for w in work)])

        def body(e: Emitter) -> None:
            args = iter(e.args)
            pointers = [next(args) for _ in range(4)]
            beside = [w.begin(e, [next(args) for _ in w.types]) for w in work]
            self._product(e, high, wide, resumes, pointers, beside)

        types = [PTR] * 4 + [t for w in work for t in w.types]
        return self.function(label, types, body)

    def _product(
        self,
        e: Emitter,
        high: int,
        wide: int,
        resumes: bool,
        pointers: Sequence[Val],
        beside: list[Beside],
    ) -> None:
        left, right, sums, spare = pointers
        unit, count = Tiles(e), high * wide
        sets = _SETS if count <= 2 else 1
        tiles = [(row * ROWS, column * LINE) for row in range(high) for column in range(wide)]
        for i, (row, column) in enumerate(tiles):
            if resumes:
                unit.load(i, e.offset(sums, row * SUMS + column), SUMS)
            else:
                unit.zero(i)
            for other in range(1, sets):
                unit.zero(other * count + i)
        streams = [(right, PARTS * wide * TILE)]
        streams += [s for work in beside for s in work.streams()]

        def one_step(a: Val, moved: list[Val]) -> None:
            b, *others = moved
            for work in beside:
                work.step([others.pop(0) for _ in work.streams()])
            self._one_step(e, a, b, high, wide, sets, beside)

        self._taps(e, self.plan.tap_pitches, left, streams, one_step)
        for i, (row, column) in enumerate(tiles):
            unit.store(i, e.offset(sums, row * SUMS + column), SUMS)
            for other in range(1, sets):
                unit.store(other * count + i, e.offset(spare, row * SUMS + column), SUMS)
        if sets > 1:
            self._add(e, sums, spare, high, wide)

    def _taps(
        self,
        e: Emitter,
        taps: list[tuple[int, int]],
        a: Val,
        streams: list[tuple[Val, int]],
        body: Callable[[Val, list[Val]], None],
    ) -> None:
        """`body` for all steps of the given taps; streams move by so many bytes per step."""
        steps = self.plan.line_steps
        if not taps:
            with e.loop(0, steps) as k:
                body(step(e, a, k, STEP), [step(e, p, k, nbytes) for p, nbytes in streams])
            return
        (size, pitch), *rest = taps
        inside = math.prod(size for size, _ in rest) * steps
        with e.loop(0, size) as i:
            moved = [(step(e, p, i, inside * nbytes), nbytes) for p, nbytes in streams]
            self._taps(e, rest, step(e, a, i, pitch), moved, body)

    def _one_step(
        self, e: Emitter, a: Val, b: Val, high: int, wide: int, sets: int, beside: list[Beside]
    ) -> None:
        """sums += left x right for 32 elements of the depth."""
        unit, lefts, rights = Tiles(e), (4, 5)[:high], (6, 7)[:wide]
        pitch, at = self.plan.pitch, (-1, -1)
        for number, (left, right) in enumerate(_PRODUCTS):
            if right != at[1]:
                for column in range(wide):
                    place = e.offset(b, (right * wide + column) * TILE)
                    unit.load(rights[column], place, LINE)
            first = number % sets * high * wide
            for row in range(high):
                if left != at[0]:
                    unit.load(lefts[row], e.offset(a, row * ROWS * pitch + left * LINE), pitch)
                for column in range(wide):
                    unit.multiply(first + row * wide + column, lefts[row], rights[column])
            at = left, right
            for work in beside:
                work.emit(number)

    def _add(self, e: Emitter, sums: Val, others: Val, high: int, wide: int) -> None:
        type_ = vector(F32, COLUMNS)
        with e.loop(0, high * ROWS) as row:
            to, of = step(e, sums, row, SUMS), step(e, others, row, SUMS)
            for column in range(wide):
                x, y = (e.load(e.offset(p, column * LINE), type_, align=LINE) for p in (to, of))
                e.store(e.b.fadd(x, y), e.offset(to, column * LINE), align=LINE)


def share(count: int, slot: int) -> tuple[int, int]:
    """What part of so many things belongs to a slot."""
    return count * slot // _SLOTS, count * (slot + 1) // _SLOTS


class _Panel(Beside):
    def __init__(self, e: Emitter, products: Products, args: list[Val]):
        self.e, self.pairs, self.split = e, products.plan.pairs_beside, products.pairs()
        self.source, self.target, self.first = args

    def streams(self) -> list[tuple[Val, int]]:
        return [(self.source, self.pairs * PAIR), (self.target, TURN)]

    def step(self, moved: list[Val]) -> None:
        self.at, self.to = moved

    def emit(self, slot: int) -> None:
        e, (first, last) = self.e, share(self.pairs, slot)
        if first < last:
            with e.when(e.b.icmp_signed("<", self.first, I64(DEPTH // 2))):
                to = step(e, self.to, e.b.add(self.first, I64(first)), LINE)
                e.b.call(self.split, [e.offset(self.at, first * PAIR), to, I64(last - first)])
