"""Fast Fourier transforms of any length, as elementwise ops over a few mixed-radix stages.

A stage splits the signal into `radix` interleaved parts, transforms across them, and multiplies by
roots of unity; the shorter transforms that remain are left to the next stages (Cooley and Tukey,
1965; decimation in frequency in Stockham's self-sorting order, Van Loan, "Computational Frameworks
for the Fast Fourier Transform", 1992, section 1.7). Its rounding errors grow like log N.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_shape
from tilth.ir.ops.table import op
from tilth.onnx.build import concatenate, scalar, slice_axis

Complex = tuple[Value, Value]  # real and imaginary part

_UNROLLED = 13  # primes up to this one are written out, larger ones are products with a matrix


def fft(x: Complex, inverse: bool) -> Complex:
    """The transform along the last axis [..., N], not scaled; `inverse` turns the other way."""
    shape = x[0].shape
    batch, length = shape[:-1], shape[-1]
    sign = 1 if inverse else -1
    done = 1  # parts that the stages so far have made
    for radix in factors(length):
        rest = length // (done * radix)
        real, imaginary = (as_shape(v, (*batch, done, radix, rest)) for v in x)
        parts = _across((real, imaginary), radix, sign)
        if rest > 1:
            turns = np.outer(np.arange(radix), np.arange(rest)) * done % length / length
            parts = [parts[0], *map(_turned, parts[1:], sign * turns[1:])]
        joined = [concatenate([p[i] for p in parts], len(batch)) for i in range(2)]
        x = as_shape(joined[0], shape), as_shape(joined[1], shape)
        done *= radix
    return x


def factors(length: int) -> list[int]:
    """The radices for a length, in the order of the stages: one 2 if there is one, 4s, primes."""
    found = []
    while length % 4 == 0:
        found.append(4)
        length //= 4
    if length % 2 == 0:
        found.insert(0, 2)
        length //= 2
    prime = 3
    while prime * prime <= length:
        while length % prime == 0:
            found.append(prime)
            length //= prime
        prime += 2
    return [*found, length] if length > 1 else found


def _across(x: Complex, radix: int, sign: int) -> list[Complex]:
    """The transform of [..., done, radix, rest] along the radix: its parts [..., done, rest]."""
    if radix > _UNROLLED:
        return _split(_by_matrix(x, radix, sign), radix)
    parts = _split(x, radix)
    if radix == 2:
        return [_sum(*parts), _difference(*parts)]
    return _radix_4(parts, sign) if radix == 4 else _odd_radix(parts, sign)


def _radix_4(parts: Sequence[Complex], sign: int) -> list[Complex]:
    a, b, c, d = parts
    even, odd = _sum(a, c), _sum(b, d)
    real, imaginary = _difference(b, d)
    down, up = _difference(a, c), (op.negate(imaginary), real)  # i (b - d)
    if sign < 0:
        up = imaginary, op.negate(real)
    return [_sum(even, odd), _sum(down, up), _difference(even, odd), _difference(down, up)]


def _odd_radix(parts: Sequence[Complex], sign: int) -> list[Complex]:
    """Outputs m and radix - m share their products: cosines of sums, sines of differences."""
    radix, half = len(parts), len(parts) // 2
    first = parts[0]
    sums = [_sum(parts[j], parts[radix - j]) for j in range(1, half + 1)]
    differences = [_difference(parts[j], parts[radix - j]) for j in range(1, half + 1)]
    results = {0: reduce(_sum, sums, first)}
    for m in range(1, half + 1):
        angles = [2 * np.pi * (j * m % radix) / radix for j in range(1, half + 1)]
        cosines = [_scaled(t, np.cos(a)) for t, a in zip(sums, angles, strict=True)]
        sines = [_scaled(t, sign * np.sin(a)) for t, a in zip(differences, angles, strict=True)]
        even = reduce(_sum, cosines, first)
        real, imaginary = reduce(_sum, sines)
        odd = op.negate(imaginary), real
        results[m], results[radix - m] = _sum(even, odd), _difference(even, odd)
    return [results[m] for m in range(radix)]


def _by_matrix(x: Complex, radix: int, sign: int) -> Complex:
    """The transform along the radix as products with a matrix of roots of unity."""
    require_table(radix, radix)
    numbers = np.arange(radix)
    angles = sign * 2 * np.pi * (np.outer(numbers, numbers) % radix) / radix
    cosines, sines = _table(np.cos(angles), x[0]), _table(np.sin(angles), x[0])
    real, imaginary = x
    return (
        op.subtract(_product(cosines, real), _product(sines, imaginary)),
        op.add(_product(sines, real), _product(cosines, imaginary)),
    )


def _product(matrix: Value, x: Value) -> Value:
    """A matrix [R, R] times x [..., R, rest]."""
    rank = len(x.shape)
    out = op.dot_general(x, matrix, lhs_contract=(rank - 2,), rhs_contract=(1,))
    return op.transpose(out, permutation=(*range(rank - 2), rank - 1, rank - 2))


def _split(x: Complex, radix: int) -> list[Complex]:
    """The parts along the last axis but one, without that axis."""
    real, imaginary = x
    axis = len(real.shape) - 2
    shape = (*real.shape[:axis], real.shape[-1])

    def part(v: Value, i: int) -> Value:
        return as_shape(slice_axis(v, axis, i, i + 1), shape)

    return [(part(real, i), part(imaginary, i)) for i in range(radix)]


def _turned(x: Complex, turns: np.ndarray) -> Complex:
    """x times roots of unity; `turns` are shares of a full turn, one for each last index."""
    cosines, sines = (_table(f(2 * np.pi * turns), x[0]) for f in (np.cos, np.sin))
    real, imaginary = x
    return (
        op.subtract(op.multiply(real, cosines), op.multiply(imaginary, sines)),
        op.add(op.multiply(real, sines), op.multiply(imaginary, cosines)),
    )


def _sum(x: Complex, y: Complex) -> Complex:
    return op.add(x[0], y[0]), op.add(x[1], y[1])


def _difference(x: Complex, y: Complex) -> Complex:
    return op.subtract(x[0], y[0]), op.subtract(x[1], y[1])


def _scaled(x: Complex, factor: float) -> Complex:
    return op.multiply(x[0], scalar(factor, x[0])), op.multiply(x[1], scalar(factor, x[1]))


def _table(values: np.ndarray, like: Value) -> Value:
    return make_constant(values.astype(like.tensor.dtype.numpy))
