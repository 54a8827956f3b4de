"""Functions that a split contraction calls: multiply tiles, finish rows, split lines and panels.

The matrix unit needs the core for a few instructions only, so `product` does other work beside its
own: it finishes what an earlier product left, and splits lines and panels that a later one reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import llvmlite.ir as ll

from tilth.cpu.emit import F32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels import split_bf16_split as splitting
from tilth.cpu.kernels.contraction_epilogue import Counts, Epilogue, Invariants, step
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH, LINE, ROWS, TILE, Tiles
from tilth.cpu.kernels.split_bf16_plan import (
    PAIR,
    PANEL,
    PARTS,
    STEP,
    SUMS,
    TURN,
    UNWANTED,
    Plan,
)
from tilth.cpu.kernels.split_bf16_rows import line_source

Kind = tuple[int, int | None]  # of a panel: its tiles, the columns of the last one (None: all)

# Which parts of the left and the right operand are multiplied: all that matter, in an order in
# which only one side changes at a time.
_PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))
_SLOTS = 3  # places for other work among the products of a step
_SETS = 2  # of sums, where one set would keep the unit waiting for its own results


class Parts:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, plan: Plan, epilogue: Epilogue):
        self.module, self.isa, self.name = module, isa, name
        self.plan, self.problem, self.epilogue = plan, plan.problem, epilogue
        self._made: dict[str, ll.Function] = {}

    def _function(
        self, label: str, args: Sequence[ll.Type], body: Callable[[Emitter], None]
    ) -> ll.Function:
        if label not in self._made:
            e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
            e.fn.linkage = "internal"
            e.fn.attributes.add("noinline")
            body(e)
            self._made[label] = e.finish()
        return self._made[label]

    # -- splitting ---------------------------------------------------------------------------
    def left(self) -> ll.Function:
        """f(source, target): split one line of the left operand."""
        return self._function("left", [PTR, PTR], lambda e: splitting.line(e, self.plan, *e.args))

    def right(self, tiles: int, tail: int | None) -> ll.Function:
        """f(source, target): split a panel, the last of whose tiles has `tail` columns."""
        return self._function(
            f"right{tiles}x{tail or COLUMNS}",
            [PTR, PTR],
            lambda e: splitting.panel(e, self.plan, e.args[0], e.args[1], tiles, tail),
        )

    def plain(self) -> ll.Function:
        """f(source, target): split a panel that was packed as f32."""
        return self._function(
            "plain", [PTR, PTR], lambda e: splitting.plain_panel(e, self.plan, *e.args)
        )

    # -- products ----------------------------------------------------------------------------
    def product(self, high: int, wide: int, resumes: bool, finishes: Kind | None) -> ll.Function:
        """f(left, right, sums, spare, lines, panel, earlier): `high` row tiles by a panel of `wide`
        tiles.

        It adds to sums of earlier parts of the depth if it `resumes`; `spare` is room for as many
        sums. On the way it does what the groups of arguments after that say, where the plan has
        such work:

        - lines (source, target, first, stop): split `lines_beside` lines from `first` on;
        - panel (source, target, first): split a slice of a plain panel, pairs from `first` on;
        - earlier (sums, offsets, rows, result, extras...): as `finish` does, for that kind.
        """
        label = f"product{high}x{wide}{'more' * resumes}{finishes or ''}"
        label = label.translate({ord(c): "_" for c in "(), "})
        work: list[type[_Lines] | type[_Panel]] = []
        if self.plan.lines_beside:
            work.append(_Lines)
        if self.plan.plain:
            work.append(_Panel)
        types = [t for kind in work for t in kind.TYPES]
        if finishes:
            types += _Earlier.types(self.plan)

        def body(e: Emitter) -> None:
            args = iter(e.args)
            left, right, sums, spare = (next(args) for _ in range(4))
            beside: list[_Beside] = [
                kind(e, self.plan, [next(args) for _ in kind.TYPES]) for kind in work
            ]
            if finishes:
                beside.append(_Earlier(e, self, list(args), finishes))
            self._product(e, high, wide, resumes, (left, right, sums, spare), beside)

        return self._function(label, [PTR] * 4 + types, body)

    def _product(
        self,
        e: Emitter,
        high: int,
        wide: int,
        resumes: bool,
        pointers: tuple[Val, ...],
        beside: list[_Beside],
    ) -> None:
        left, right, sums, spare = pointers
        unit, count = Tiles(e), high * wide
        sets = _SETS if count <= 2 else 1
        places = [r * ROWS * SUMS + c * LINE for r in range(high) for c in range(wide)]
        for i, place in enumerate(places):
            if resumes:
                unit.load(i, e.offset(sums, place), SUMS)
            else:
                unit.zero(i)
            for other in range(1, sets):
                unit.zero(other * count + i)
        streams = [(right, PARTS * wide * TILE)]
        streams += [s for work in beside for s in work.streams()]

        def one_step(a: Val, moved: list[Val]) -> None:
            b, *others = moved
            for work in beside:
                work.begin([others.pop(0) for _ in work.streams()])
            self._one_step(e, a, b, high, wide, sets, beside)

        self._taps(e, self.plan.tap_pitches, left, streams, one_step)
        for i, place in enumerate(places):
            unit.store(i, e.offset(sums, place), SUMS)
            for other in range(1, sets):
                unit.store(other * count + i, e.offset(spare, place), SUMS)
        if sets > 1:
            _add(e, sums, spare, high, wide)

    def _taps(
        self,
        e: Emitter,
        taps: list[tuple[int, int]],
        a: Val,
        streams: list[tuple[Val, int]],
        body: Callable[[Val, list[Val]], None],
    ) -> None:
        """`body` for all steps of the given taps; streams move by so many bytes per step."""
        if not taps:
            with e.loop(0, self.plan.line_steps) as k:
                body(step(e, a, k, STEP), [step(e, p, k, nbytes) for p, nbytes in streams])
            return
        (size, pitch), *rest = taps
        inside = math.prod(size for size, _ in rest) * self.problem.tap_steps
        with e.loop(0, size) as i:
            moved = [(step(e, p, i, inside * nbytes), nbytes) for p, nbytes in streams]
            self._taps(e, rest, step(e, a, i, pitch), moved, body)

    def _one_step(
        self, e: Emitter, a: Val, b: Val, high: int, wide: int, sets: int, beside: list[_Beside]
    ) -> None:
        """sums += left x right for 32 elements of the depth."""
        unit, lefts, rights = Tiles(e), (4, 5)[:high], (6, 7)[:wide]
        at = (-1, -1)
        for number, (left, right) in enumerate(_PRODUCTS):
            if right != at[1]:
                for column in range(wide):
                    place = e.offset(b, (right * wide + column) * TILE)
                    unit.load(rights[column], place, LINE)
            first = number % sets * high * wide
            for row in range(high):
                if left != at[0]:
                    place = e.offset(a, row * ROWS * self.plan.pitch + left * LINE)
                    unit.load(lefts[row], place, self.plan.pitch)
                for column in range(wide):
                    unit.multiply(first + row * wide + column, lefts[row], rights[column])
            at = left, right
            if number % 2:
                for work in beside:
                    work.emit(number // 2)

    # -- results -----------------------------------------------------------------------------
    def finish(self, kind: Kind) -> ll.Function:
        """f(sums, offsets, rows, result, extras...): finish and store rows of a panel.

        `offsets` holds the bytes to each row in each of the tensors; the first of them is
        `UNWANTED` for a row that nobody wants.
        """
        wide, tail = kind

        def body(e: Emitter) -> None:
            _Earlier(e, self, list(e.args), kind).rest()

        return self._function(f"finish{wide}x{tail or COLUMNS}", _Earlier.types(self.plan), body)


def _add(e: Emitter, sums: Val, others: Val, high: int, wide: int) -> None:
    type_ = vector(F32, COLUMNS)
    with e.loop(0, high * ROWS) as row:
        to, of = (step(e, p, row, SUMS) for p in (sums, others))
        for column in range(wide):
            x, y = (e.load(e.offset(p, column * LINE), type_, align=LINE) for p in (to, of))
            e.store(e.b.fadd(x, y), e.offset(to, column * LINE), align=LINE)


# -- work beside products ------------------------------------------------------------------------
class _Beside(ABC):
    """Work that is spread over the steps of a product, and over the slots of each step."""

    TYPES: ClassVar[Sequence[ll.Type]]  # of its arguments

    def streams(self) -> list[tuple[Val, int]]:
        """Pointers that move with the steps, and by how many bytes."""
        return []

    def begin(self, moved: list[Val]) -> None:  # noqa: B027
        """A step begins, at which the streams are here."""

    @abstractmethod
    def emit(self, slot: int) -> None:
        """The work of one slot."""


class _Lines(_Beside):
    """Splits lines of the left operand that the next product reads."""

    TYPES = (PTR, PTR, I64, I64)

    def __init__(self, e: Emitter, plan: Plan, args: list[Val]):
        self.e, self.plan = e, plan
        self.source, self.target, first, self.stop = args
        self.next = e.var(I64, first)

    def emit(self, slot: int) -> None:
        e, plan = self.e, self.plan
        first, units = e.b.load(self.next, typ=I64), plan.lines_beside * plan.run_steps
        for line, begin, end in _runs(*_share(units, slot), plan.run_steps):
            number = e.b.add(first, I64(line))
            with e.when(e.b.icmp_signed("<", number, self.stop)):
                source = line_source(e, plan.problem, self.source, number)
                target = step(e, self.target, number, plan.pitch)
                splitting.line_piece(e, plan, source, target, begin, end)
        if slot == _SLOTS - 1:
            e.b.store(e.b.add(first, I64(plan.lines_beside)), self.next)


class _Panel(_Beside):
    """Splits a plain panel of the right operand that products read after this one."""

    TYPES = (PTR, PTR, I64)

    def __init__(self, e: Emitter, plan: Plan, args: list[Val]):
        self.e, self.plan = e, plan
        self.source, self.target, self.first = args

    def streams(self) -> list[tuple[Val, int]]:
        return [(self.source, self.plan.pairs_beside * PAIR), (self.target, TURN)]

    def begin(self, moved: list[Val]) -> None:
        self.at, self.to = moved

    def emit(self, slot: int) -> None:
        e, pairs = self.e, range(*_share(self.plan.pairs_beside, slot))
        if pairs:
            with e.when(e.b.icmp_signed("<", self.first, I64(DEPTH // 2))):
                to = step(e, self.to, self.first, LINE)
                for pair in pairs:
                    at = e.offset(self.at, pair * PAIR)
                    splitting.plain_pair(e, at, e.offset(to, pair * LINE))


class _Earlier(_Beside):
    """Finishes the rows of an earlier product."""

    TYPES = (PTR, PTR, I64)

    @classmethod
    def types(cls, plan: Plan) -> list[ll.Type]:
        """Of its arguments, tensors included."""
        return [*cls.TYPES, *[PTR] * plan.tensors]

    def __init__(self, e: Emitter, parts: Parts, args: list[Val], kind: Kind):
        self.e, self.plan, self.epilogue = e, parts.plan, parts.epilogue
        self.sums, self.offsets, self.rows, *self.pointers = args
        wide, tail = kind
        self.counts: Counts = [None] * (wide - 1) + [tail]
        self.known: Invariants = self.epilogue.row_invariant(e, self.pointers, self.counts)
        self.next = e.var(I64, I64(0))

    def emit(self, slot: int) -> None:
        e = self.e
        first, last = _share(-(-PANEL * ROWS // self.plan.product_steps), slot)
        if first < last:
            row = e.b.load(self.next, typ=I64)
            stop = e.intrinsic("smin", e.b.add(row, I64(last - first)), self.rows)
            self._rows(row, stop)
            e.b.store(stop, self.next)

    def rest(self) -> None:
        """All rows at once."""
        self._rows(I64(0), self.rows)

    def _rows(self, first: Val, stop: Val) -> None:
        e, plan = self.e, self.plan
        with e.loop(first, stop) as row:
            line = step(e, self.offsets, row, 8 * plan.tensors)
            distances = [e.load(e.offset(line, 8 * i), I64) for i in range(plan.tensors)]
            if plan.problem.rows == plan.problem.wanted:
                self._row(row, distances)
            else:
                with e.when(e.b.icmp_signed("!=", distances[0], I64(UNWANTED))):
                    self._row(row, distances)

    def _row(self, row: Val, distances: list[Val]) -> None:
        e = self.e
        at = step(e, self.sums, row, SUMS)
        moved = [e.offset(p, d) for p, d in zip(self.pointers, distances, strict=True)]
        values = [
            e.load(e.offset(at, v * LINE), vector(F32, COLUMNS), align=LINE)
            for v in range(len(self.counts))
        ]
        self.epilogue.finish(e, moved, self.known, values, self.counts)


def _share(count: int, slot: int) -> tuple[int, int]:
    """What part of so many things belongs to a slot."""
    return count * slot // _SLOTS, count * (slot + 1) // _SLOTS


def _runs(first: int, stop: int, length: int) -> Iterator[tuple[int, int, int]]:
    """The range cut where lines of this length end: (line, from, to)."""
    while first < stop:
        line, begin = divmod(first, length)
        end = min(length, begin + stop - first)
        yield line, begin, end
        first += end - begin
