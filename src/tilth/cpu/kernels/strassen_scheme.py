"""Strassen's scheme: what is added up before and after its seven products, once or twice over.

With quarters A11 A12 / A21 A22 of the left operand, and so on, the seven products are

    P0 = (A11 + A22) (B11 + B22)   P1 = (A21 + A22) B11   P2 = A11 (B12 - B22)
    P3 = A22 (B21 - B11)   P4 = (A11 + A12) B22
    P5 = (A21 - A11) (B11 + B12)   P6 = (A12 - A22) (B21 + B22)

    C11 = P0 + P3 - P4 + P6   C12 = P2 + P4   C21 = P1 + P3   C22 = P0 - P1 + P2 + P5

The products of quarters can be made in the same way, from 4 x 4 parts: 49 in place of 64. What the
parts are, values of emitted code or arrays, does not matter here.

Source: Strassen, "Gaussian Elimination is not Optimal", 1969.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

PRODUCTS = 7

T = TypeVar("T")
Parts = list[list[T]]  # a square of 1, 2 or 4 parts a side


@dataclass(frozen=True)
class Sums(Generic[T]):
    """The sums, of whatever `add` and `sub` work on. Each is made when it is asked for, so that few
    are alive at once."""

    add: Callable[[T, T], T]
    sub: Callable[[T, T], T]

    def left(self, a: Parts[T]) -> Iterator[T]:
        """The left factors of all products."""
        if len(a) == 1:
            yield a[0][0]
            return
        (a11, a12), (a21, a22) = _quarters(a)
        yield from self.left(self._each(self.add, a11, a22))
        yield from self.left(self._each(self.add, a21, a22))
        yield from self.left(a11)
        yield from self.left(a22)
        yield from self.left(self._each(self.add, a11, a12))
        yield from self.left(self._each(self.sub, a21, a11))
        yield from self.left(self._each(self.sub, a12, a22))

    def right(self, b: Parts[T]) -> Iterator[T]:
        """The right factors of all products."""
        if len(b) == 1:
            yield b[0][0]
            return
        (b11, b12), (b21, b22) = _quarters(b)
        yield from self.right(self._each(self.add, b11, b22))
        yield from self.right(b11)
        yield from self.right(self._each(self.sub, b12, b22))
        yield from self.right(self._each(self.sub, b21, b11))
        yield from self.right(b22)
        yield from self.right(self._each(self.add, b11, b12))
        yield from self.right(self._each(self.add, b21, b22))

    def results(self, products: Iterator[T], side: int) -> Parts[T]:
        """The parts of the result, from products that are asked for in order."""
        if side == 1:
            return [[next(products)]]

        def quarter() -> Parts[T]:
            return self.results(products, side // 2)

        c11 = c22 = quarter()
        c21 = quarter()
        c22 = self._each(self.sub, c22, c21)
        c12 = quarter()
        c22 = self._each(self.add, c22, c12)
        p = quarter()
        c11, c21 = self._each(self.add, c11, p), self._each(self.add, c21, p)
        p = quarter()
        c11, c12 = self._each(self.sub, c11, p), self._each(self.add, c12, p)
        c22 = self._each(self.add, c22, quarter())
        c11 = self._each(self.add, c11, quarter())
        upper = [left + right for left, right in zip(c11, c12, strict=True)]
        return upper + [left + right for left, right in zip(c21, c22, strict=True)]

    def _each(self, f: Callable[[T, T], T], x: Parts[T], y: Parts[T]) -> Parts[T]:
        rows = zip(x, y, strict=True)
        return [[f(a, b) for a, b in zip(*row, strict=True)] for row in rows]


def _quarters(m: Parts[T]) -> tuple[tuple[Parts[T], Parts[T]], tuple[Parts[T], Parts[T]]]:
    half = len(m) // 2
    upper, lower = m[:half], m[half:]
    return (
        ([row[:half] for row in upper], [row[half:] for row in upper]),
        ([row[:half] for row in lower], [row[half:] for row in lower]),
    )
