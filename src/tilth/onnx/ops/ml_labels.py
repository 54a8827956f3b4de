"""Mapping labels to labels: LabelEncoder and CategoryMapper."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilth.ir.graph import Value
from tilth.ir.types import f32, f64, i16, i64, string
from tilth.onnx.context import NodeContext
from tilth.onnx.lookup import lookup
from tilth.onnx.registry import onnx_op

_DOMAIN = "ai.onnx.ml"
_KINDS = {"strings": object, "int64s": np.int64, "floats": np.float32}
_DEFAULTS: dict[np.dtype, tuple[str, Any]] = {
    string.numpy: ("default_string", "_Unused"),
    i64.numpy: ("default_int64", -1),
    f32.numpy: ("default_float", -0.0),
}
_TENSOR_DEFAULTS: dict[np.dtype, Any] = {string.numpy: "_Unused", i64.numpy: -1, i16.numpy: -1}


@onnx_op("LabelEncoder", domain=_DOMAIN)
def label_encoder_of_classes(cx: NodeContext, x: Value) -> Value:
    """Strings to positions in a list of classes, or back."""
    classes = np.array(cx.attr("classes_strings"), object)
    places = np.arange(len(classes))
    if x.tensor.dtype == string:
        return lookup(x, classes, places, np.array(cx.attr("default_int64", -1)))
    default = np.array(cx.attr("default_string", "_Unused"), object)
    return lookup(x, places, classes, default)


@onnx_op("LabelEncoder", domain=_DOMAIN, since=2)
def label_encoder(cx: NodeContext, x: Value) -> Value:
    keys, values = _list(cx, "keys"), _list(cx, "values")
    if keys.dtype != x.tensor.dtype.numpy:
        raise ValueError(f"the keys are {keys.dtype}")
    return lookup(x, keys, values, _default(cx, values.dtype))


@onnx_op("CategoryMapper", domain=_DOMAIN)
def category_mapper(cx: NodeContext, x: Value) -> Value:
    """Strings to the integers listed beside them, or back."""
    names = np.array(cx.attr("cats_strings"), object)
    numbers = np.array(cx.attr("cats_int64s"), np.int64)
    if x.tensor.dtype == string:
        return lookup(x, names, numbers, np.array(cx.attr("default_int64", -1)))
    return lookup(x, numbers, names, np.array(cx.attr("default_string", "_Unused"), object))


def _list(cx: NodeContext, prefix: str) -> np.ndarray:
    """The attribute `PREFIX_tensor`, or the one of `PREFIX_{strings,int64s,floats}` that is set."""
    if cx.has(f"{prefix}_tensor"):
        return cx.attr(f"{prefix}_tensor").reshape(-1)
    for kind, dtype in _KINDS.items():
        if cx.has(f"{prefix}_{kind}"):
            return np.array(cx.attr(f"{prefix}_{kind}"), dtype)
    raise ValueError(f"it has no {prefix}_*")


def _default(cx: NodeContext, dtype: np.dtype) -> np.ndarray:
    if cx.has("default_tensor"):
        return cx.attr("default_tensor")
    if dtype in _DEFAULTS and not cx.has("values_tensor"):
        name, otherwise = _DEFAULTS[dtype]
        return np.array(cx.attr(name, otherwise), dtype)
    otherwise = -0.0 if dtype in (f32.numpy, f64.numpy) else _TENSOR_DEFAULTS.get(dtype, -1)
    return np.array(otherwise, dtype)
