"""Code that splits f32 operands into the bf16 parts that a matrix unit multiplies.

A step of the depth are 32 elements. A line of the left operand holds the parts of a step side by
side, 32 numbers each; 16 lines make a tile. A tile of the right operand is [pair of k][column][k of
the pair], its neighbours in a panel follow it, then come the tiles of the next part. A pair are the
elements j and j + 16 of a step, so that no lane has to move when two vectors become one of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilth.cpu.access import load
from tilth.cpu.emit import F32, I32, I64, Emitter, Val, vector
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.contraction_form import LHS, RHS, Loop
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH, LINE, TILE
from tilth.cpu.kernels.packing import transposed
from tilth.cpu.kernels.split_bf16_plan import PAIR, PANEL, PARTS, STEP, TURN, Plan
from tilth.ir.types import f32

_LANES = 16
_PAIRS = DEPTH // 2


def split(e: Emitter, first: Val, second: Val) -> list[Val]:
    """The parts of 16 pairs of numbers: pairs of bf16, that of `first` in the lower half.

    The first part is the number rounded to the nearest bf16, so that the others have either sign;
    they are cut off, and the last one is all that is left.
    """
    bits, single = vector(I32, _LANES), vector(F32, _LANES)
    half, upper, sixteen = (e.const(bits, n) for n in (0x8000, -0x10000, 16))
    rests, parts = [first, second], []
    for part in range(PARTS):
        low, high = (e.b.bitcast(rest, bits) for rest in rests)
        if part == 0:
            low, high = e.b.add(low, half), e.b.add(high, half)
        high = e.b.and_(high, upper)
        parts.append(e.b.or_(e.b.lshr(low, sixteen), high))
        if part < PARTS - 1:
            tops = [e.b.bitcast(top, single) for top in (e.b.and_(low, upper), high)]
            rests = [e.b.fsub(rest, top) for rest, top in zip(rests, tops, strict=True)]
    return parts


# -- the left operand ----------------------------------------------------------------------------
def line(e: Emitter, plan: Plan, source: Val, target: Val) -> None:
    """Split one line of the left operand."""
    taps = [] if plan.problem.on_grid else plan.taps

    def run(e: Emitter, source: Val, target: Val) -> None:
        line_run(e, plan.run_elements, source, target, 0, plan.run_steps)

    _each_tap(e, plan, taps, LHS, source, target, STEP, run)


def line_run(
    e: Emitter, elements: int, source: Val, target: Val, first: int | Val, stop: int | Val
) -> None:
    """Split steps `first` to `stop` of a run of so many elements of a line."""
    whole = elements // DEPTH
    most = stop if elements % DEPTH == 0 else e.intrinsic("smin", e.i64(stop), I64(whole))
    with e.loop(first, most) as k:
        _line_step(e, step(e, source, k, DEPTH * 4), step(e, target, k, STEP), DEPTH)
    if elements % DEPTH:
        with e.when(e.b.icmp_signed(">", e.i64(stop), I64(whole))):
            source, target = e.offset(source, whole * DEPTH * 4), e.offset(target, whole * STEP)
            _line_step(e, source, target, elements - whole * DEPTH)


def _line_step(e: Emitter, source: Val, target: Val, count: int) -> None:
    halves = [_load_part(e, e.offset(source, i * LINE), count - i * _LANES) for i in range(2)]
    for part, bits in enumerate(split(e, *halves)):
        e.store(bits, e.offset(target, part * LINE), align=LINE)


# -- the right operand ---------------------------------------------------------------------------
def plain_pairs(e: Emitter, source: Val, target: Val, count: int | Val) -> None:
    """Split so many pairs of rows of a step of a panel that was packed as f32."""
    with e.loop(0, count) as pair:
        _plain_pair(e, step(e, source, pair, PAIR), step(e, target, pair, LINE))


def _plain_pair(e: Emitter, source: Val, target: Val) -> None:
    for tile in range(PANEL):
        halves = [
            e.load(e.offset(source, (i * PANEL + tile) * LINE), vector(F32, _LANES), align=LINE)
            for i in range(2)
        ]
        for part, bits in enumerate(split(e, *halves)):
            e.store(bits, e.offset(target, (part * PANEL + tile) * TILE), align=LINE)


def plain_panel(e: Emitter, pairs: int, steps: int, source: Val, target: Val) -> None:
    """Split `steps` of a panel that was packed as f32, in slices of so many pairs."""
    with e.loop(0, _PAIRS // pairs) as part:
        at, to = step(e, source, part, steps * pairs * PAIR), step(e, target, part, pairs * LINE)
        with e.loop(0, steps) as k:
            plain_pairs(e, step(e, at, k, pairs * PAIR), step(e, to, k, TURN), pairs)


def panel(e: Emitter, plan: Plan, source: Val, target: Val, tiles: int, tail: int | None) -> None:
    """Split a panel of an operand as it lies; the last of its tiles has `tail` columns."""
    counts = [COLUMNS] * (tiles - 1) + [tail or COLUMNS]

    def run(e: Emitter, source: Val, target: Val) -> None:
        _panel_run(e, plan, source, target, counts)

    turn = PARTS * tiles * TILE
    _each_tap(e, plan, list(plan.problem.taps), RHS, source, target, turn, run)


def _panel_run(e: Emitter, plan: Plan, source: Val, target: Val, counts: Sequence[int]) -> None:
    """The innermost depth of a panel; `counts` are the columns of its tiles."""
    inner, tiles = plan.problem.inner, len(counts)
    along, across = inner.strides[RHS] * 4, plan.problem.columns.strides[RHS] * 4
    one_tile = _pairs_of_rows if across == 4 else _pairs_of_columns

    def one(source: Val, target: Val, depth: int) -> None:
        for t, count in enumerate(counts):
            at = e.offset(source, t * COLUMNS * across)
            one_tile(e, plan, at, e.offset(target, t * TILE), tiles * TILE, depth, count)

    done, pitch = inner.size // DEPTH, PARTS * tiles * TILE
    with e.loop(0, done) as i:
        one(step(e, source, i, DEPTH * along), step(e, target, i, pitch), DEPTH)
    if inner.size % DEPTH:
        at = e.offset(source, done * DEPTH * along)
        one(at, e.offset(target, done * pitch), inner.size % DEPTH)


def _pairs_of_rows(
    e: Emitter, plan: Plan, source: Val, target: Val, part_pitch: int, depth: int, columns: int
) -> None:
    """A tile from rows of neighbouring columns."""
    along = plan.problem.inner.strides[RHS] * 4
    for pair in range(_PAIRS):
        rows = [
            _load_part(e, e.offset(source, k * along), columns if k < depth else 0)
            for k in (pair, pair + _PAIRS)
        ]
        for part, bits in enumerate(split(e, *rows)):
            e.store(bits, e.offset(target, part * part_pitch + pair * LINE), align=LINE)


def _pairs_of_columns(
    e: Emitter, plan: Plan, source: Val, target: Val, part_pitch: int, depth: int, columns: int
) -> None:
    """A tile from columns of neighbouring k."""
    across = plan.problem.columns.strides[RHS] * 4
    found: list[list[Val]] = []
    for column in range(COLUMNS):
        at = e.offset(source, min(column, columns - 1) * across)
        halves = [_load_part(e, e.offset(at, i * LINE), depth - i * _LANES) for i in range(2)]
        found.append(split(e, *halves))
    for part in range(PARTS):
        for row, bits in enumerate(transposed(e, [parts[part] for parts in found])):
            e.store(bits, e.offset(target, part * part_pitch + row * LINE), align=LINE)


def _each_tap(
    e: Emitter,
    plan: Plan,
    taps: list[Loop],
    tensor: int,
    source: Val,
    target: Val,
    pitch: int,
    run: Callable[[Emitter, Val, Val], None],
) -> None:
    """`run` for every index of `taps`, each of whose steps takes `pitch` bytes."""
    if not taps:
        run(e, source, target)
        return
    tap, *rest = taps
    steps = math.prod(t.size for t in rest) * plan.problem.tap_steps
    with e.loop(0, tap.size) as i:
        at = step(e, source, i, tap.strides[tensor] * 4)
        _each_tap(e, plan, rest, tensor, at, step(e, target, i, steps * pitch), pitch, run)


def _load_part(e: Emitter, pointer: Val, count: int) -> Val:
    """Up to 16 f32, zeros behind the first `count`."""
    if count <= 0:
        return e.const(vector(F32, _LANES), 0)
    return load(e, pointer, f32, _LANES, 1, count if count < _LANES else None)
