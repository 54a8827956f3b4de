"""TfIdfVectorizer: how often each n-gram of a pool is found in a row of words or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import host_op

Ngram = tuple[Any, ...]


@host_op("TfIdfVectorizer", why="n-grams are counted on the host")
def tfidf_vectorizer(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    """x [C] or [N, C] gives f32 [columns] or [N, columns]."""
    places = _pool(cx)
    columns = cx.attr("ngram_indexes")
    counts = np.zeros((*x.shape[:-1], max(columns) + 1), np.float32)
    shortest, longest = cx.attr("min_gram_length"), cx.attr("max_gram_length")
    rows = x.reshape(-1, x.shape[-1]).tolist()
    for row, count in zip(rows, counts.reshape(len(rows), -1), strict=True):
        for length in range(max(1, shortest), min(longest, len(row)) + 1):
            for ngram in _ngrams(row, length, cx.attr("max_skip_count")):
                if ngram in places:
                    count[columns[places[ngram]]] += 1
    mode = cx.choice("mode", {m: m for m in ("TF", "IDF", "TFIDF")}, "TF")
    if mode == "IDF":
        np.minimum(counts, 1, out=counts)
    if mode != "TF" and cx.has("weights"):
        weights = np.ones(counts.shape[-1], np.float32)
        weights[list(columns)] = cx.attr("weights")
        counts *= weights
    return counts


def _pool(cx: NodeContext) -> dict[Ngram, int]:
    """Each n-gram of the pool and its number. The pool lists all 1-grams, then all 2-grams, ..."""
    items = cx.attr("pool_strings" if cx.has("pool_strings") else "pool_int64s")
    starts = [*cx.attr("ngram_counts"), len(items)]
    ngrams = [
        tuple(items[i : i + length])
        for length, (start, stop) in enumerate(pairwise(starts), 1)
        for i in range(start, stop, length)
    ]
    return {ngram: number for number, ngram in enumerate(ngrams)}


def _ngrams(row: Sequence[Any], length: int, skips: int) -> Iterator[Ngram]:
    """All n-grams with the same distance, up to `skips + 1`, between neighbours."""
    farthest = min(skips + 1, len(row)) if length > 1 else 1
    for distance in range(1, farthest + 1):
        for start in range(len(row) - distance * (length - 1)):
            yield tuple(row[start : start + distance * length : distance])
