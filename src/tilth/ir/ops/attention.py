"""Scaled dot-product attention as a composite."""

from __future__ import annotations

import math
from typing import Any

from tilth.ir.graph import Value
from tilth.ir.ops.checks import check_broadcasts_to, check_kind, check_same_dtype
from tilth.ir.ops.helpers import in_float32, matmul, scalar
from tilth.ir.ops.table import Default, composite, decompose, infer, op
from tilth.ir.types import Shape, TensorType, i32

_SCALE: Any = Default(lambda q, *_: 1 / math.sqrt(q.dims[-1]))

composite("attention", "softmax(scale q k^T + mask) v")


@infer("attention")
def _(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    mask: TensorType | None = None,
    *,
    scale: float = _SCALE,
    causal: bool = False,
) -> TensorType:
    """q [..., S, D], k [..., T, D], v [..., T, E], mask broadcasting to [..., S, T].

    `causal` hides from query i the keys after position i, counted from the first key.
    """
    check_kind(q, "float")
    check_same_dtype(q, k, v, *(() if mask is None else (mask,)))
    if q.rank < 2 or k.rank != q.rank or v.rank != q.rank:
        raise ValueError(f"{q}, {k} and {v} must have one rank, at least 2")
    batch = q.dims[:-2]
    if k.dims[:-2] != batch or v.dims[:-2] != batch:
        raise ValueError(f"{q}, {k} and {v} differ in their batch axes")
    if k.dims[-1] != q.dims[-1] or v.dims[-2] != k.dims[-2]:
        raise ValueError(f"{q}, {k} and {v} do not contract")
    if mask is not None:
        check_broadcasts_to(mask, (*batch, q.dims[-2], k.dims[-2]))
    return q.with_shape((*q.dims[:-1], v.dims[-1]))


@decompose("attention")
@in_float32
def _(
    q: Value, k: Value, v: Value, mask: Value | None = None, *, scale: float, causal: bool
) -> Value:
    rank = len(q.shape)
    batch = tuple(range(rank - 2))
    scores = op.dot_general(
        q,
        k,
        lhs_batch=batch,
        rhs_batch=batch,
        lhs_contract=(rank - 1,),
        rhs_contract=(rank - 1,),
    )
    scores = op.multiply(scores, scalar(scale, q))
    if mask is not None:
        scores = op.add(scores, mask)
    if causal:
        scores = op.select(_visible(scores.shape[-2:]), scores, scalar(-math.inf, q))
    return matmul(op.softmax(scores, axis=rank - 1), v)


def _visible(shape: Shape) -> Value:
    """Which keys (columns) each query (row) may see: those at or before its own position."""
    query = op.iota(dtype=i32, shape=shape, axis=0)
    key = op.iota(dtype=i32, shape=shape, axis=1)
    return op.compare(key, query, direction="LE")
