"""The matrices of Winograd's minimal filtering F(m x m, 3 x 3), and code that applies them.

With n = m + 2, a tile of results is A^T [(G g G^T) * (B^T d B)] A for a filter g and a patch d of
n x n pixels. The matrices come from interpolation points (Toom-Cook): 0, pairs +-p, and infinity.
Thanks to the pairs, half of every row is an even and half an odd function of p, so that a line of
data takes 12 instructions to transform and a line of results 12, when m is 4.
Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from tilth.cpu.emit import Emitter, Val

TAPS = 3
Line = Callable[[int], Val]  # gives the value at a position of a line
Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Transform:
    """F(m x m, 3 x 3) over the points 0, +-p for each p of `pairs`, and infinity."""

    pairs: tuple[Fraction, ...]

    @property
    def size(self) -> int:
        """n, the width of a patch."""
        return 2 * len(self.pairs) + 2

    @property
    def outputs(self) -> int:
        """m, the width of a tile of results."""
        return self.size - TAPS + 1

    @cached_property
    def _points(self) -> tuple[Fraction, ...]:
        return (Fraction(0), *itertools.chain(*((p, -p) for p in self.pairs)))

    @cached_property
    def data(self) -> Matrix:
        """B^T, n x n: the coefficients of the polynomials that vanish at all other points."""
        rows = [_vanishing(self._points[:j] + self._points[j + 1 :]) for j in range(self.size - 1)]
        return (*((*row, Fraction(0)) for row in rows), _vanishing(self._points))

    @cached_property
    def filter(self) -> Matrix:
        """G, n x 3: the filter's polynomial at each point, divided by B's row there."""
        rows = []
        for point, polynomial in zip(self._points, self.data, strict=False):
            scale = sum(c * point**i for i, c in enumerate(polynomial))
            rows.append(tuple(point**k / scale for k in range(TAPS)))
        return (*rows, (Fraction(0), Fraction(0), Fraction(1)))

    @cached_property
    def result(self) -> Matrix:
        """A^T, m x n: powers of the points."""
        last = self.outputs - 1
        return tuple(
            (*(point**k for point in self._points), Fraction(k == last))
            for k in range(self.outputs)
        )

    def weights(self, filters: np.ndarray) -> np.ndarray:
        """G g G^T for filters [3, 3, c, k], computed in float64: f32 [n * n, c, k]."""
        g = np.array([[float(x) for x in row] for row in self.filter])
        both = np.kron(g, g)  # of the two axes at once
        taps = filters.reshape(TAPS * TAPS, *filters.shape[2:])
        result = np.empty((self.size**2, *filters.shape[2:]), np.float32)
        for c in range(filters.shape[2]):  # a channel at a time stays in cache
            result[:, c] = both @ taps[:, c].astype(np.float64)
        return result

    # -- code --------------------------------------------------------------------------------
    def data_groups(self) -> list[tuple[int, ...]]:
        """Rows of B^T that share work."""
        pairs = [(1 + 2 * i, 2 + 2 * i) for i in range(len(self.pairs))]
        return [(0,), *pairs, (self.size - 1,)]

    def result_groups(self) -> list[tuple[int, ...]]:
        """Rows of A^T that share work."""
        return [tuple(range(parity, self.outputs, 2)) for parity in (0, 1)]

    def data_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """B^T times a line, the rows of one group."""
        terms = [(c, i) for i, c in enumerate(self.data[rows[0]]) if c]
        if len(rows) == 1:
            return [_sum(e, [(c, line(i)) for c, i in terms])]
        even = _sum(e, [(c, line(i)) for c, i in terms if i % 2 == 0])
        point = self._points[rows[0]]
        odd = _sum(e, [(c / point, line(i)) for c, i in terms if i % 2])
        return [_add(e, even, sign * point, odd) for sign in (1, -1)]

    def result_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """A^T times a line, the rows of one group."""
        parity = rows[0] % 2
        halves = [
            _add(e, line(1 + 2 * i), Fraction((-1) ** parity), line(2 + 2 * i))
            for i in range(len(self.pairs))
        ]
        results = []
        for k in rows:
            terms = [(p**k, half) for p, half in zip(self.pairs, halves, strict=True)]
            ends = [(self.result[k][j], j) for j in (0, self.size - 1)]
            results.append(_sum(e, terms + [(c, line(j)) for c, j in ends if c]))
        return results


F2 = Transform((Fraction(1),))
# of small dyadic points these gave the least error, a third of that of the usual 1 and 2
F4 = Transform((Fraction(5, 8), Fraction(3, 2)))


def _vanishing(points: Iterable[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - point), lowest first."""
    product = [Fraction(1)]
    for point in points:
        shifted, scaled = [Fraction(0), *product], [*(c * point for c in product), Fraction(0)]
        product = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return tuple(product)


def _sum(e: Emitter, terms: Sequence[tuple[Fraction, Val]]) -> Val:
    """The sum of coefficient times value."""
    units = [i for i, (c, _) in enumerate(terms) if c == 1]
    first = units[-1] if units else 0
    coefficient, total = terms[first]
    if coefficient != 1:
        total = e.b.fmul(total, e.const(total.type, float(coefficient)))
    for i, (c, value) in enumerate(terms):
        if i != first:
            total = _add(e, total, c, value)
    return total


def _add(e: Emitter, x: Val, coefficient: Fraction, y: Val) -> Val:
    """x + coefficient * y in one instruction."""
    if abs(coefficient) == 1:
        return e.b.fadd(x, y) if coefficient == 1 else e.b.fsub(x, y)
    return e.fma(y, e.const(y.type, float(coefficient)), x)


def transform_2d(
    e: Emitter,
    groups: Sequence[tuple[int, ...]],
    rows: Callable[[Emitter, tuple[int, ...], Line], list[Val]],
    size: int,
    load: Callable[[int, int], Val],
    store: Callable[[int, int, Val], None],
) -> None:
    """Apply a transform of lines to the columns and to the rows of a size x size block.

    It goes by groups of rows of the result, each of which reads what it needs of the block again:
    at most two rows are in registers at a time.
    """
    for group in groups:
        columns = [
            rows(e, group, lambda i, c=column: load(i, c))  # type: ignore[misc]
            for column in range(size)
        ]
        for within, row in enumerate(group):
            line = [column[within] for column in columns]
            for across in groups:
                values = rows(e, across, line.__getitem__)
                for position, value in zip(across, values, strict=True):
                    store(row, position, value)
