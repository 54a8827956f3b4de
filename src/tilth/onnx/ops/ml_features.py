"""Feature preparation of ai.onnx.ml: normalising, imputing, encoding, joining."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i64
from tilth.onnx.build import concatenate, expand_dims, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.lookup import position_in
from tilth.onnx.ops.ml_linear import rows_of_floats
from tilth.onnx.registry import onnx_op

_DOMAIN = "ai.onnx.ml"


@onnx_op("Normalizer", domain=_DOMAIN)
def normalizer(cx: NodeContext, x: Value) -> Value:
    """Each row by its maximum, its sum of absolutes, or its length; unchanged if that is zero."""
    wide = as_dtype(x, f32)
    last = (len(wide.shape) - 1,)
    norm = cx.attr("norm", "MAX")
    if norm == "MAX":
        size = reduce_keepdims(wide, "max", last)
    elif norm == "L1":
        size = reduce_keepdims(op.abs(wide), "sum", last)
    elif norm == "L2":
        size = op.sqrt(reduce_keepdims(op.multiply(wide, wide), "sum", last))
    else:
        raise ValueError(f"norm '{norm}' is none of MAX, L1, L2")
    zero = op.compare(size, scalar(0, size), direction="EQ")
    return op.divide(wide, op.select(zero, scalar(1, size), size))


@onnx_op("Imputer", domain=_DOMAIN)
def imputer(cx: NodeContext, x: Value) -> Value:
    """Elements equal to one value (or NaN) are replaced, per feature or all alike."""
    kind = "float" if x.tensor.dtype.is_float else "int64"
    given = cx.attr(f"imputed_value_{kind}s")
    replaced = cx.attr(f"replaced_value_{kind}", 0)
    if len(given) not in (1, x.shape[-1]):
        raise ValueError(f"{len(given)} imputed values for {x.shape[-1]} features")
    values = make_constant(np.array(given).astype(x.tensor.dtype.numpy))
    if math.isnan(replaced):
        missing = op.is_nan(x)
    else:
        missing = op.compare(x, scalar(replaced, x), direction="EQ")
    return op.select(missing, values, x)


@onnx_op("OneHotEncoder", domain=_DOMAIN)
def one_hot_encoder(cx: NodeContext, x: Value) -> Value:
    """A row of zeros with one 1 per element: [..., categories].

    What is none of them gives all zeros, or an error where the attribute `zeros` is 0.
    """
    if x.tensor.dtype.kind == "string":
        categories = make_constant(np.array(cx.attr("cats_strings"), object))
    else:
        categories = make_constant(np.array(cx.attr("cats_int64s"), np.int64))
        x = as_dtype(x, i64)
    required = not cx.attr("zeros", 1)
    places = make_constant(np.arange(categories.shape[0]))
    found = expand_dims(position_in(x, categories, required), (len(x.shape),))
    return as_dtype(op.compare(found, places, direction="EQ"), f32)


@onnx_op("FeatureVectorizer", domain=_DOMAIN)
def feature_vectorizer(cx: NodeContext, *xs: Value) -> Value:
    """All features of a sample side by side, as f32."""
    return concatenate([rows_of_floats(x) for x in xs], 1)
