"""Operators on strings, which are object arrays of `str`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tilth.onnx.context import NodeContext
from tilth.onnx.host.regex import compiled
from tilth.onnx.host.registry import host_op

_WHY = "strings are computed on the host"


def _array(strings: Iterable[str], shape: tuple[int, ...]) -> np.ndarray:
    items = list(strings)
    flat = np.empty(len(items), object)
    flat[:] = items
    return flat.reshape(shape)


@host_op("StringConcat", why=_WHY)
def string_concat(cx: NodeContext, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.broadcast_arrays(x, y)
    return _array(map(str.__add__, x.flat, y.flat), x.shape)


@host_op("RegexFullMatch", why=_WHY)
def regex_full_match(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    pattern = compiled(cx.attr("pattern"))
    return np.array([pattern.fullmatch(s) for s in x.flat], bool).reshape(x.shape)


@host_op("StringSplit", why=_WHY)
def string_split(cx: NodeContext, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts, padded with "" to the longest [..., P], and the number of parts [...]."""
    delimiter = cx.attr("delimiter", "") or None
    parts = [s.split(delimiter, cx.attr("maxsplit", -1)) for s in x.flat]
    longest = max(map(len, parts), default=0)
    padded = [p + [""] * (longest - len(p)) for p in parts]
    counts = np.array([len(p) for p in parts], np.int64)
    shape = (*x.shape, longest)
    return _array((s for p in padded for s in p), shape), counts.reshape(x.shape)


_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


@host_op("StringNormalizer", why=_WHY)
def string_normalizer(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    """Drop stop words, then change the case. x is [C] or [1, C]; one "" if nothing remains."""
    change = cx.choice("case_change_action", _CASES, "NONE")
    alike = str if cx.attr("is_case_sensitive", 0) else str.lower
    stop = {alike(word) for word in cx.attr("stopwords", ())}
    kept = [change(s) for s in x.flat if alike(s) not in stop] or [""]
    return _array(kept, (*x.shape[:-1], len(kept)))
