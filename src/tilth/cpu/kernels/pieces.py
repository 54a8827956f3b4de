"""Code over the pieces that an extent is cut into: where each begins, and which size it has.

Contractions and Winograd convolutions divide work among items in even parts, and each part into
register tiles of at most two sizes (see `tiles.Cover`).
"""

from __future__ import annotations

from collections.abc import Callable

from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.kernels.tiles import Cover


def even_part(e: Emitter, index: int | Val, count: int, parts: int) -> tuple[int | Val, int | Val]:
    """The range of part `index` when `count` things are divided into `parts`."""
    if parts == 1:
        return 0, count

    def start(i: Val) -> Val:
        return e.b.udiv(e.b.mul(i, I64(count)), I64(parts))

    return start(e.i64(index)), start(e.b.add(e.i64(index), I64(1)))


def piece_start(e: Emitter, cover: Cover, index: int | Val) -> int | Val:
    """Where piece `index` of a cover begins (the extent itself behind the last piece).

    Pieces of both sizes are mixed, so that parts with equally many pieces are equally large.
    """
    if isinstance(index, int):
        return index * cover.extent // cover.count
    if cover.large == cover.count:
        return e.b.mul(index, I64(cover.size))
    return e.b.udiv(e.b.mul(index, I64(cover.extent)), I64(cover.count))


def by_size(e: Emitter, cover: Cover, index: Val, body: Callable[[int], object]) -> None:
    """Emit `body(size)` for the size of piece `index`, one of at most two."""
    if cover.large == cover.count:
        body(cover.size)
        return
    start, more = e.i64(piece_start(e, cover, index)), cover.extent % cover.count
    rest = e.b.sub(e.b.mul(index, I64(cover.extent)), e.b.mul(start, I64(cover.count)))
    is_large = e.b.icmp_signed(">=", rest, I64(cover.count - more))  # the next start is rounded up
    either(e, is_large, lambda: body(cover.size), lambda: body(cover.size - 1))


def either(
    e: Emitter, condition: Val, then: Callable[[], object], other: Callable[[], object]
) -> None:
    """Emit both under a condition."""
    with e.b.if_else(condition) as (yes, no):
        with yes:
            then()
        with no:
            other()
