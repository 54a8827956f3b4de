"""Operators that select elements, so that the size of their result depends on data."""

from __future__ import annotations

import math

import numpy as np

from tilth.onnx.build import normal_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import host_op

_WHY = "how many elements it gives depends on data"


@host_op("NonZero", why=_WHY)
def nonzero(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    """Positions of what is not zero: i64 [rank, N]. A scalar counts as a list of one."""
    return np.array(np.atleast_1d(x).nonzero(), np.int64)[: max(x.ndim, 1)]


@host_op("Compress", why=_WHY, folds=False)
def compress(cx: NodeContext, x: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """The slices along an axis, or the elements, where the condition holds."""
    return np.compress(condition, x, cx.attr("axis", None))


@host_op("Unique", why=_WHY)
def unique(cx: NodeContext, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Unique elements, or slices along an axis; first positions, inverse and counts (all i64)."""
    axis = normal_axis(cx.attr("axis"), x.ndim) if cx.has("axis") else None
    first, inverse, counts = _unique_rows(x if axis is not None else x.reshape(-1), axis or 0)
    if not cx.attr("sorted", 1):
        order = first.argsort(kind="stable")
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    found = x.reshape(-1)[first] if axis is None else x.take(first, axis)
    return found, *(a.astype(np.int64) for a in (first, inverse, counts))


@host_op("Unique", why=_WHY, domain="com.microsoft")
def unique_of_vector(cx: NodeContext, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Unique elements in the order in which they first occur, inverse and counts (i64)."""
    first, inverse, counts = _unique_rows(x, 0)
    order = first.argsort(kind="stable")
    return x[first[order]], order.argsort()[inverse], counts[order].astype(np.int64)


def _unique_rows(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First positions of the sorted unique slices, which one each slice is, and their counts."""
    moved = np.moveaxis(x, axis, 0)
    rows = moved.reshape(len(moved), math.prod(moved.shape[1:]))
    if rows.dtype.kind == "V":  # ml_dtypes: their sorting is not NumPy's own
        rows = rows.astype(np.float32)
    order = np.lexsort(rows.T[::-1]) if rows.shape[1] else np.arange(len(rows))
    ordered = rows[order]
    starts = np.ones(len(rows), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    inverse = np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(starts) - 1
    begins = starts.nonzero()[0]
    return order[begins], inverse, np.diff([*begins, len(rows)])


@host_op("NonMaxSuppression", why=_WHY)
def non_max_suppression(
    cx: NodeContext,
    boxes: np.ndarray,
    scores: np.ndarray,
    most: np.ndarray | None = None,
    overlap: np.ndarray | None = None,
    threshold: np.ndarray | None = None,
) -> np.ndarray:
    """boxes [B, N, 4], scores [B, C, N]; gives i64 [M, 3]: batch, class and box of what is kept."""
    limit = 0 if most is None else int(most.reshape(-1)[0])
    most_shared = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
    least = None if threshold is None else float(threshold.reshape(-1)[0])
    corners = _corners(boxes, bool(cx.attr("center_point_box", 0)))
    kept = [
        (batch, kind, box)
        for batch, of_classes in enumerate(scores)
        for kind, row in enumerate(of_classes)
        for box in _suppressed(corners[batch], row, limit, most_shared, least)
    ]
    return np.array(kept, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centered: bool) -> np.ndarray:
    """Boxes as (low, low, high, high), from (x, y, w, h) or from any two opposite corners."""
    if centered:
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([center - half, center + half], -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], -1)


def _suppressed(
    boxes: np.ndarray, scores: np.ndarray, limit: int, most_shared: float, least: float | None
) -> list[int]:
    """Boxes by falling score, without those that share too much with one taken before."""
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > least]
    taken: list[int] = []
    while order.size and len(taken) < limit:
        best, order = int(order[0]), order[1:]
        taken.append(best)
        order = order[_shared(boxes[best], boxes[order]) <= most_shared]
    return taken


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box and each of the others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    areas = (others[:, 2:] - others[:, :2]).prod(-1) + (box[2:] - box[:2]).prod()
    union = areas - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
