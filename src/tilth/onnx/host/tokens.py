"""Tokenizer of com.microsoft: strings cut at separators, or into what an expression finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilth.onnx.context import NodeContext
from tilth.onnx.host.regex import Pattern, compiled
from tilth.onnx.host.registry import host_op

_START, _END = "\x02", "\x03"


@host_op("Tokenizer", why="strings are computed on the host", domain="com.microsoft")
def tokenizer(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    """The tokens of each string, padded to the most that one has: [...] -> [..., tokens].

    With `mark` they stand between the characters 2 and 3, before the padding.
    """
    cut = _cutter(cx)
    rows = [cut(s) for s in x.flat]
    if cx.attr("mark", 0) and any(rows):
        rows = [[_START, *row, _END] for row in rows]
    longest, pad = max(map(len, rows), default=0), cx.attr("pad_value", "")
    tokens = np.empty((len(rows), longest), object)
    for line, row in zip(tokens, rows, strict=True):
        line[:] = [*row, *[pad] * (longest - len(row))]
    return tokens.reshape(*x.shape, longest)


def _cutter(cx: NodeContext) -> Callable[[str], list[str]]:
    """How a string becomes tokens; those with fewer than `mincharnum` characters are dropped."""
    least = cx.attr("mincharnum", 1)
    separators = cx.attr("separators", ())
    if cx.has("tokenexp"):
        find = compiled(cx.attr("tokenexp"))
        return lambda s: [s[a:b] for a, b in find.finditer(s) if b - a >= max(least, 1)]
    if not separators:
        raise ValueError("it has neither separators nor tokenexp")
    if separators == ("",):
        return list
    patterns = [compiled(separator) for separator in separators]
    return lambda s: [part for part in _parts(s, patterns) if len(part) >= max(least, 1)]


def _parts(text: str, separators: list[Pattern]) -> list[str]:
    """What lies between separators; where two overlap, the one listed first counts."""
    taken: list[tuple[int, int]] = []
    for separator in separators:
        for start, end in separator.finditer(text):
            if start < end and all(end <= a or b <= start for a, b in taken):
                taken.append((start, end))
    taken.sort()
    starts, ends = [0, *(end for _, end in taken)], [*(start for start, _ in taken), len(text)]
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]
