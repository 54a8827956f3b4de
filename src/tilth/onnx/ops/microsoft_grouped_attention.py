"""GroupQueryAttention of com.microsoft: heads in groups that share keys, with a cache of them.

The cache [B, K, C, H] may be longer than what it holds: `lengths` says how much of it counts, for
each batch element on its own. Rows of a group are stacked, so that its keys are read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, broadcast_to, split
from tilth.ir.ops.table import op
from tilth.ir.types import DType, i64
from tilth.onnx.attention import (
    attend,
    hidden_unless,
    join_heads,
    scores_of,
    split_heads,
    weighted,
    weights_of,
)
from tilth.onnx.build import concatenate, expand_dims, full, iota, pad_axes, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.microsoft_rotary import rotated
from tilth.onnx.registry import onnx_op


@onnx_op("GroupQueryAttention", domain="com.microsoft")
def group_query_attention(
    cx: NodeContext,
    query: Value,
    key: Value | None,
    value: Value | None,
    past_key: Value | None,
    past_value: Value | None,
    lengths: Value,
    total_length: Value,
    cosines: Value | None = None,
    sines: Value | None = None,
    positions: Value | None = None,
    added: Value | None = None,
    sink: Value | None = None,
    k_scale: Value | None = None,
    v_scale: Value | None = None,
    q_norm: Value | None = None,
    k_norm: Value | None = None,
) -> list[Value | None]:
    """Gives the result [B, S, N H], the caches and, with `qk_output`, scores or weights.

    `lengths` [B] are one less than what there is of each sequence, the new part included;
    `total_length` is the longest of them and must be known while compiling.
    """
    _require_plain_cache(cx, past_key, k_scale, v_scale)
    q, k, v = _heads(cx, query, key, value)
    epsilon = cx.attr("qk_norm_epsilon", 1e-6)
    if q_norm is not None and k_norm is not None:
        q, k = (op.rms_norm(x, w, axis=3, epsilon=epsilon) for x, w in ((q, q_norm), (k, k_norm)))
    (longest,) = cx.ints(total_length, "the total sequence length")
    state = _State.of(q, past_key, lengths, longest)
    if cx.attr("do_rotary", 0):
        if cosines is None or sines is None:
            raise ValueError("do_rotary needs tables of cosines and sines")
        places = state.positions(positions)
        interleaved = bool(cx.attr("rotary_interleaved", 0))
        q, k = (rotated(x, places, cosines, sines, interleaved) for x in (q, k))
    k, v = state.appended(past_key, k), state.appended(past_value, v)
    keys, values = (slice_axis(x, 2, 0, longest) for x in (k, v))
    mask = state.mask(cx, longest, q.tensor.dtype)
    mask = mask if added is None else op.add(added, mask)
    y, details = _attended(cx, q, keys, values, mask, sink)
    return [y, k, v, details]


def _require_plain_cache(cx: NodeContext, past: Value | None, *scales: Value | None) -> None:
    if any(s is not None for s in scales) or (past and not past.tensor.dtype.is_float):
        raise UnsupportedError(f"{cx.label}: a quantised cache")
    if cx.attr("sliding_window_cache", 0):
        raise UnsupportedError(f"{cx.label}: a cache as short as the window")


def _heads(
    cx: NodeContext, query: Value, key: Value | None, value: Value | None
) -> tuple[Value, Value, Value]:
    """Queries [B, N, S, H], keys and values [B, K, S, H], from one packed tensor or from three."""
    heads, shared = cx.attr("num_heads"), cx.attr("kv_num_heads")
    if heads % shared:
        raise ValueError(f"{heads} heads do not form groups over {shared} heads of keys")
    if key is None or value is None:
        size = query.shape[2] // (heads + 2 * shared)
        query, key, value = split(query, (heads * size, shared * size, shared * size), 2)
    return split_heads(query, heads), split_heads(key, shared), split_heads(value, shared)


def _attended(
    cx: NodeContext, q: Value, k: Value, v: Value, mask: Value, sink: Value | None
) -> tuple[Value, Value | None]:
    """The result [B, S, N E], and scores (0 where hidden) or weights [B, N, S, T] if asked for."""
    (batch, heads, queries, size), shared = q.shape, k.shape[1]
    scale = cx.attr("scale", 0.0) or 1 / math.sqrt(size)
    group = heads // shared
    rows = as_shape(q, (batch, shared, group * queries, size))
    mask = _grouped(mask, shared, group)
    if sink is None and cx.attr("smooth_softmax", 0) > 0:
        sink = full(0, (heads,), q.tensor.dtype)
    wanted, cap = cx.attr("qk_output", 0), cx.attr("softcap", 0.0)
    if sink is None and not wanted and not cap:
        y = attend(rows, k, v, scale, mask)
        return join_heads(as_shape(y, (*q.shape[:3], v.shape[3]))), None
    scores = scores_of(rows, k, scale, mask, cap)
    weights = weights_of(scores, None if sink is None else _per_row(sink, shared, queries))
    y = join_heads(as_shape(weighted(weights, v), (*q.shape[:3], v.shape[3])))
    if not wanted:
        return y, None
    details = op.select(op.is_inf(scores), scalar(0, scores), scores) if wanted == 1 else weights
    return y, as_dtype(as_shape(details, (*q.shape[:3], k.shape[2])), q.tensor.dtype)


def _grouped(mask: Value, shared: int, group: int) -> Value:
    """A mask [B, 1 or N, S, T] for the stacked rows of each group: [B, 1 or K, G S, T]."""
    batch, heads, queries, keys = mask.shape
    if heads == 1 != queries:
        mask = broadcast_to(mask, (batch, group, queries, keys))
    elif heads == 1:
        return mask
    return as_shape(mask, (batch, 1 if heads == 1 else shared, group * queries, keys))


def _per_row(sink: Value, shared: int, queries: int) -> Value:
    """One value per head [N] for the stacked rows of each group: [K, G S, 1]."""
    (heads,) = sink.shape
    repeated = broadcast_to(as_shape(sink, (heads, 1)), (heads, queries))
    return as_shape(repeated, (shared, heads // shared * queries, 1))


@dataclass(frozen=True)
class _State:
    """Where the new part begins in each sequence.

    `begin` is that place where it is known: a first prompt begins at 0, and a single sequence whose
    cache has no room to spare goes on at the cache's end.
    """

    past: Value  # i64 [B]
    new: int  # S
    capacity: int  # rows of the cache afterwards
    begin: int | None

    @staticmethod
    def of(q: Value, past_key: Value | None, lengths: Value, longest: int) -> _State:
        batch, _, new, _ = q.shape
        held = 0 if past_key is None else past_key.shape[2]
        capacity = max(longest, held)
        if new == longest or (batch == 1 and held + new == longest):
            begin = longest - new
            return _State(full(begin, (batch,), i64), new, capacity, begin)
        if past_key is None:
            raise ValueError("there is no past to go on from")
        past = op.add(as_shape(as_dtype(lengths, i64), (batch,)), scalar(1 - new, i64))
        return _State(past, new, capacity, None)

    def positions(self, given: Value | None) -> Value:
        """[B, S]; a first prompt only takes its first position from those `given`."""
        first = self.begin == 0
        if given is not None and not first:
            return given
        steps = iota((self.past.shape[0], self.new), 1, i64)
        if given is None:
            return op.add(steps, expand_dims(self.past, (1,)))
        return op.add(steps, slice_axis(slice_axis(given, 0, 0, 1), 1, 0, 1))

    def appended(self, cache: Value | None, new: Value) -> Value:
        """The cache [B, K, C, H] with the new rows behind the past ones."""
        if self.begin is not None:
            old = [slice_axis(cache, 2, 0, self.begin)] if cache and self.begin else []
            return self._padded(concatenate([*old, new], 2))
        assert cache is not None
        batch = new.shape[0]
        starts = [expand_dims(v, (1,)) for v in (iota((batch,), 0, i64), self.past)]
        return op.scatter(
            self._padded(cache),
            concatenate(starts, 1),
            new,
            update_window_dims=(1, 2, 3),
            inserted_window_dims=(0,),
            scatter_dims_to_operand_dims=(0, 2),
            index_vector_dim=1,
            kind="assign",
        )

    def _padded(self, cache: Value) -> Value:
        room = self.capacity - cache.shape[2]
        return pad_axes(cache, [(0, 0), (0, 0), (0, room), (0, 0)])

    def mask(self, cx: NodeContext, keys: int, dtype: DType) -> Value:
        """[B, 1, S, T], or [1, 1, S, T] for a known begin: keys up to the query, in its window."""
        batch = self.past.shape[0] if self.begin is None else 1
        shape = (batch, 1, self.new, keys)
        place = iota(shape, 3, i64)
        past = as_shape(slice_axis(self.past, 0, 0, batch), (batch, 1, 1, 1))
        causal, window = cx.attr("causal", 1), cx.attr("local_window_size", -1)
        last = op.add(past, iota(shape, 2, i64) if causal else scalar(self.new - 1, i64))
        visible = op.compare(place, last, direction="LE")
        if window > 0:
            begin = op.subtract(last, scalar(window, i64))
            visible = op.and_(visible, op.compare(place, begin, direction="GT"))
        return hidden_unless(visible, dtype)
