"""Maps inside a model: dictionaries between stages.

Those at the ends of a classifier's model are taken off before it is compiled (`tilth.onnx.ends`);
here are the operators for all other places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from tilth.ir.errors import ModelError, UnsupportedError
from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import host_op
from tilth.onnx.registry import add_handler

_WHY = "it takes or gives a map"
_DOMAIN = "ai.onnx.ml"


@host_op("ZipMap", why=_WHY, domain=_DOMAIN, folds=False)
def zip_map(cx: NodeContext, x: np.ndarray) -> list[dict[int | str, float]]:
    """A dictionary per row of x [N, C] (or one for x [C]), by label."""
    labels = _keys(cx, "classlabels_strings", "classlabels_int64s")
    rows = np.atleast_2d(x)
    if rows.shape[1] != len(labels):
        raise ValueError(f"{rows.shape[1]} columns, but {len(labels)} labels")
    return [dict(zip(labels, row, strict=True)) for row in rows.tolist()]


@host_op("DictVectorizer", why=_WHY, domain=_DOMAIN, folds=False)
def dict_vectorizer(cx: NodeContext, x: Mapping[Any, Any]) -> np.ndarray:
    """The values in the order of a vocabulary, zeros (or empty text) for missing keys: [1, V]."""
    vocabulary = _keys(cx, "string_vocabulary", "int64_vocabulary")
    kind = np.asarray(list(x.values())).dtype.kind
    dtype, zero = {"i": (np.int64, 0), "U": (object, ""), "O": (object, "")}.get(
        kind, (np.float32, 0)
    )
    return np.array([[x.get(key, zero) for key in vocabulary]], dtype)


@host_op("CastMap", why=_WHY, domain=_DOMAIN, folds=False)
def cast_map(cx: NodeContext, x: Mapping[int, Any]) -> np.ndarray:
    """The values in the order of their keys, or at the places that the keys say: [1, C]."""
    types = {
        "TO_FLOAT": (np.float32, float),
        "TO_INT64": (np.int64, int),
        "TO_STRING": (object, str),
    }
    dtype, convert = cx.choice("cast_to", types, "TO_FLOAT")
    values = {key: convert(v) for key, v in x.items()}
    if cx.choice("map_form", {"DENSE": True, "SPARSE": False}, "DENSE"):
        return np.array([[values[key] for key in sorted(values)]], dtype)
    row = np.full((1, cx.attr("max_map", 1)), "" if convert is str else 0, dtype)
    for key, value in values.items():
        row[0, key] = value
    return row


def _refuse(cx: NodeContext, x: Any) -> NoReturn:
    raise UnsupportedError(f"{cx.label}: {_WHY}")


for _name in ("ZipMap", "DictVectorizer", "CastMap"):
    add_handler(_refuse, _DOMAIN, _name, since=1)


def _keys(cx: NodeContext, strings: str, integers: str) -> tuple[int | str, ...]:
    """A list of strings, or else one of integers. ModelError if both are empty."""
    found = cx.attr(strings, ()) or cx.attr(integers, ())
    if not found:
        raise ModelError(f"it has neither {strings} nor {integers}")
    return found
