"""Attention over many positions is computed in blocks of heads and rows."""

import numpy as np
import pytest
from graph_samples import assert_same, count, graph, tensor

from tilth.compiler.attention_blocks import block_attention
from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.table import op

HEADS, ROWS, KEYS = 3, 11, 6
q = tensor(2, HEADS, ROWS, 4, name="q")
k = tensor(2, HEADS, KEYS, 4, name="k")
v = tensor(2, HEADS, KEYS, 5, name="v")
BATCH = {"lhs_batch": (0, 1), "rhs_batch": (0, 1)}
SCORES = 2 * HEADS * ROWS * KEYS * 4  # bytes


def attention(*masks: Value, axis: int = 3) -> Value:
    scores = op.dot_general(q, k, lhs_contract=(3,), rhs_contract=(3,), **BATCH)
    scores = op.multiply(scores, make_constant(np.float32(0.5)))
    for mask in masks:
        scores = op.add(scores, mask)
    shares = op.softmax(scores, axis=axis)
    return op.dot_general(shares, v, lhs_contract=(3,), rhs_contract=(2,), **BATCH)


def blocks_of(most_bytes: int, *masks: Value, **how: int) -> int:
    before = graph(attention(*masks, **how))
    after = block_attention(before, most_bytes)
    assert_same(before, after)
    return count(after)["softmax"]


def test_scores_that_fit_stay_whole():
    assert blocks_of(SCORES) == 1


@pytest.mark.parametrize(("share", "blocks"), [(2, 2), (6, 6), (12, 12), (7, 12)])
def test_batches_are_cut_first_then_heads_then_rows(share, blocks):
    assert blocks_of(SCORES // share) == blocks


def test_masks_are_cut_along_what_they_are_not_broadcast_over():
    masks = [
        tensor(ROWS, KEYS, name="a"),
        tensor(2, 1, 1, KEYS, name="b"),
        tensor(1, HEADS, ROWS, 1, name="c"),
    ]
    assert blocks_of(SCORES // 12, *masks) == 12


def test_shares_that_do_not_sum_up_over_keys_stay():
    assert blocks_of(SCORES // 6, axis=2) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_only_heads_that_share_keys_are_cut_if_that_is_asked_for(shared):
    keys = tensor(2, 1 if shared else HEADS, KEYS, 4, name="k")
    if shared:
        keys = op.broadcast_in_dim(keys, shape=(2, HEADS, KEYS, 4), dims=(0, 1, 2, 3))
    scores = op.dot_general(q, keys, lhs_contract=(3,), rhs_contract=(3,), **BATCH)
    values = op.softmax(scores, axis=3)
    result = op.dot_general(values, v, lhs_contract=(3,), rhs_contract=(2,), **BATCH)
    after = block_attention(graph(result), SCORES // 6, only_shared=True)
    assert count(after)["softmax"] == (6 if shared else 1)


def test_no_attention_becomes_very_many_blocks():
    assert blocks_of(1) == 1


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_attention_without_rows_stays(shape):
    batch, rows, depth = shape
    x, y = tensor(*shape, name="x"), tensor(batch, 3, depth, name="y")
    scores = op.dot_general(
        x, y, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0,), rhs_batch=(0,)
    )
    shares = op.softmax(scores, axis=2)
    result = op.dot_general(
        shares, y, lhs_contract=(2,), rhs_contract=(1,), lhs_batch=(0,), rhs_batch=(0,)
    )
    assert result.shape == (batch, rows, depth)
    assert count(block_attention(graph(result), 1))["softmax"] == 1
