"""How far one tensor is from another: errors, direction, and what is no number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class Difference:
    """A found tensor against the expected one.

    Errors are over the elements that are finite in both; `relative_error` is the largest error over
    the largest magnitude expected. All are infinite when the shapes differ, or when an element is
    finite, infinite or NaN in one tensor and something else in the other. `cosine` is that of the
    angle between the two as vectors (1 when both are zero). The counts are (found, expected).
    """

    max_error: float
    mean_error: float
    relative_error: float
    cosine: float
    nans: tuple[int, int]
    infinities: tuple[int, int]


def difference(found: np.ndarray, expected: np.ndarray) -> Difference:
    """Compare two tensors of numbers element by element, in double precision."""
    x, y = _wide(found), _wide(expected)
    nans = int(np.isnan(x).sum()), int(np.isnan(y).sum())
    infinities = int(np.isinf(x).sum()), int(np.isinf(y).sum())
    if x.shape != y.shape or not _same_kinds(x, y):
        return Difference(math.inf, math.inf, math.inf, 0.0, nans, infinities)
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if not x.size:
        return Difference(0.0, 0.0, 0.0, 1.0, nans, infinities)
    errors = np.abs(x - y)
    largest, magnitude = float(errors.max()), float(np.abs(y).max())
    relative = largest / magnitude if magnitude else (math.inf if largest else 0.0)
    return Difference(largest, float(errors.mean()), relative, _cosine(x, y), nans, infinities)


def relative_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest relative error of a model's outputs; infinite when they cannot be compared.

    Outputs of text are equal (0) or not (infinite).
    """
    if len(found) != len(expected):
        return math.inf
    return max((_relative_error(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    if expected.dtype.kind in "OSU":
        return 0.0 if np.array_equal(found, expected) else math.inf
    return difference(found, expected).relative_error


def roundoff(dtype: np.dtype) -> float:
    """The distance from 1 to the next number of a floating-point dtype; 0 for other dtypes."""
    if dtype.kind in "fcV":
        try:
            return float(ml_dtypes.finfo(dtype).eps)
        except ValueError:  # ml_dtypes' integers
            return 0.0
    return 0.0


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _same_kinds(x: np.ndarray, y: np.ndarray) -> bool:
    same_nans = bool((np.isnan(x) == np.isnan(y)).all())
    inside = np.isinf(x) | np.isinf(y)
    return same_nans and bool((x[inside] == y[inside]).all())


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    if lengths:
        return float(np.vdot(x, y).real) / lengths
    return float(not x.any() and not y.any())
