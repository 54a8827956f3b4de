"""The matrices of Winograd's minimal filtering, and code that applies them.

A tile of m x m results is A^T [(G g G^T) * (B^T d B)] A for a 3 x 3 filter g and a patch d of n x n
pixels. The matrices come from interpolation points (Toom-Cook): 0, pairs +-p, others, and infinity.
Thanks to the pairs, rows of B^T share their sums in twos, and half of every row of A^T is an even,
half an odd function of p, so that a line of data takes 12 instructions to transform and a line of
results 12, where m is 4 and the stride 1.

With stride 2, a result takes its outer taps from pixels of even number and the middle one from one
of odd number: a filter of 2 taps, F(m, 2), over the even ones, and a plain product with each of the
odd ones, all with the same weight. A patch of 2m + 1 pixels gives m results by 2m + 1 products in
place of 3m.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (section 4);
phases as in Huang et al., "DWM: A Decomposable Winograd Method for Convolution Acceleration", 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np

from tilth.cpu.emit import Emitter, Val

TAPS = 3
Line = Callable[[int], Val]  # gives the value at a position of a line
Matrix = tuple[tuple[Fraction, ...], ...]
_ZERO, _ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True)
class Filtering:
    """F(m, taps) along a line, over the points 0, +-p for each p of `pairs`, `others`, infinity."""

    pairs: tuple[Fraction, ...]
    others: tuple[Fraction, ...] = ()
    taps: int = TAPS
    stride: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """n, the width of a patch."""
        return len(self._points) + 1

    @property
    def outputs(self) -> int:
        """m, the width of a tile of results."""
        return self.size - self.taps + 1

    @property
    def factors(self) -> int:
        """Different factors of a line: product i has that of number min(i, factors - 1)."""
        return self.size

    @cached_property
    def _points(self) -> tuple[Fraction, ...]:
        return (_ZERO, *itertools.chain(*((p, -p) for p in self.pairs)), *self.others)

    @cached_property
    def data(self) -> Matrix:
        """B^T, n x n: the coefficients of the polynomials that vanish at all other points."""
        return tuple(self._padded(_vanishing(self._but(j))) for j in range(self.size))

    def _but(self, *left: int) -> tuple[Fraction, ...]:
        """The finite points without some."""
        return tuple(p for i, p in enumerate(self._points) if i not in left)

    def _padded(self, polynomial: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
        return (*polynomial, *[_ZERO] * (self.size - len(polynomial)))

    @cached_property
    def filter(self) -> Matrix:
        """G, n x taps: the filter's polynomial at each point, divided by B's row there."""
        rows = []
        for point, polynomial in zip(self._points, self.data, strict=False):
            scale = sum(c * point**i for i, c in enumerate(polynomial))
            rows.append(tuple(point**k / scale for k in range(self.taps)))
        return (*rows, (*[_ZERO] * (self.taps - 1), _ONE))

    @cached_property
    def result(self) -> Matrix:
        """A^T, m x n: powers of the points."""
        last = self.outputs - 1
        return tuple(
            (*(point**k for point in self._points), Fraction(k == last))
            for k in range(self.outputs)
        )

    # -- code --------------------------------------------------------------------------------
    def data_groups(self) -> list[tuple[int, ...]]:
        """Rows of B^T that share work."""
        first = 1 + 2 * len(self.pairs)
        pairs = [(i, i + 1) for i in range(1, first, 2)]
        return [(0,), *pairs, *((i,) for i in range(first, self.size))]

    def result_groups(self) -> list[tuple[int, ...]]:
        """Rows of A^T that share work."""
        return [tuple(range(parity, self.outputs, 2)) for parity in (0, 1)]

    def data_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """B^T times a line, the rows of one group."""
        if len(rows) == 1:
            return [_sum(e, [(c, line(i)) for i, c in enumerate(self.data[rows[0]]) if c])]
        # of a pair: polynomials (x + p) r and (x - p) r
        terms = [(c, i) for i, c in enumerate(_vanishing(self._but(*rows))) if c]
        shifted = _sum(e, [(c, line(i + 1)) for c, i in terms])
        plain = _sum(e, [(c, line(i)) for c, i in terms])
        return [_add(e, shifted, self._points[row], plain) for row in rows]

    def result_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """A^T times a line, the rows of one group."""
        parity = rows[0] % 2
        halves = [
            _add(e, line(1 + 2 * i), Fraction((-1) ** parity), line(2 + 2 * i))
            for i in range(len(self.pairs))
        ]
        single = [0, *range(1 + 2 * len(self.pairs), self.size)]
        results = []
        for k in rows:
            terms = [(p**k, half) for p, half in zip(self.pairs, halves, strict=True)]
            terms += [(self.result[k][j], line(j)) for j in single if self.result[k][j]]
            results.append(_sum(e, terms))
        return results


@dataclass(frozen=True)
class Phases:
    """Three taps with stride 2 along a line: `even`, of two taps, over pixels of even number, then
    a product with each pixel of odd number."""

    even: Filtering
    stride: ClassVar[int] = 2

    @property
    def size(self) -> int:
        """n, the width of a patch."""
        return 2 * self.outputs + 1

    @property
    def outputs(self) -> int:
        """m, the width of a tile of results."""
        return self.even.outputs

    @property
    def factors(self) -> int:
        """Different factors of a line: product i has that of number min(i, factors - 1)."""
        return self.even.size + 1

    @cached_property
    def filter(self) -> Matrix:
        """G, factors x 3."""
        return (*((first, _ZERO, last) for first, last in self.even.filter), (_ZERO, _ONE, _ZERO))

    # -- code --------------------------------------------------------------------------------
    def data_groups(self) -> list[tuple[int, ...]]:
        """Products of which the data share work."""
        odd = range(self.even.size, self.size)
        return [*self.even.data_groups(), *((i,) for i in odd)]

    def result_groups(self) -> list[tuple[int, ...]]:
        """Results that share work."""
        return self.even.result_groups()

    def data_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """What the products of one group take of a line of data."""
        if rows[0] >= self.even.size:
            return [line(2 * (rows[0] - self.even.size) + 1)]
        return self.even.data_rows(e, rows, lambda i: line(2 * i))

    def result_rows(self, e: Emitter, rows: tuple[int, ...], line: Line) -> list[Val]:
        """One group of the results of a line of products."""
        found = self.even.result_rows(e, rows, line)
        odd = (line(self.even.size + k) for k in rows)
        return [e.b.fadd(x, y) for x, y in zip(found, odd, strict=True)]


Transform = Filtering | Phases


def weights_of(transform: Transform, filters: np.ndarray) -> np.ndarray:
    """G g G^T for filters [3, 3, c, k], computed in float64: f32 [factors * factors, c, k]."""
    g = np.array([[float(x) for x in row] for row in transform.filter])
    both = np.kron(g, g)  # of the two axes at once
    taps = filters.reshape(TAPS * TAPS, *filters.shape[2:])
    result = np.empty((transform.factors**2, *filters.shape[2:]), np.float32)
    for c in range(filters.shape[2]):  # a channel at a time stays in cache
        result[:, c] = both @ taps[:, c].astype(np.float64)
    return result


# of small dyadic points these gave the least error; F4's is a third of that of the usual 1 and 2
F2 = Filtering((_ONE,))
F4 = Filtering((Fraction(5, 8), Fraction(3, 2)))
F2_STRIDED = Phases(Filtering((), (_ONE,), taps=2))
F4_STRIDED = Phases(Filtering((Fraction(3, 4),), (Fraction(3, 2),), taps=2))


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
