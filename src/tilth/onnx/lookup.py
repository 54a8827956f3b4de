"""Looking elements up in a list of keys: label encoders, category mappers, one-hot encoders.

Numbers are compared with all keys, which compiles; strings are looked up on the host.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import take
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import expand_dims, scalar


def position_in(x: Value, keys: Value, required: bool = False) -> Value:
    """Where each element of x is in the distinct `keys` [K]: i64, -1 if nowhere. NaN finds NaN.

    If `required`, what is no key is an error when the model runs; then numbers too go to the host.
    """
    if x.tensor.dtype.kind == "string" or required:
        return op.index_of(x, keys, required=required)
    column = expand_dims(x, (len(x.shape),))
    same = op.compare(column, keys, direction="EQ")
    if x.tensor.dtype.is_float:
        same = op.or_(same, op.and_(op.is_nan(column), op.is_nan(keys)))
    numbered = op.select(same, make_constant(np.arange(keys.shape[0])), scalar(-1, i64))
    return op.reduce(numbered, kind="max", axes=(len(x.shape),))


def lookup(x: Value, keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> Value:
    """`values` where x is the key of the same position, `default` where it is no key.

    Of a repeated key the last value counts.
    """
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys, but {len(values)} values")
    keys, values = _distinct(keys, values)
    table = np.concatenate([values, np.asarray(default, values.dtype).reshape(1)])
    found = position_in(x, make_constant(keys))
    missing = op.compare(found, scalar(-1, i64), direction="EQ")
    found = op.select(missing, scalar(len(keys), i64), found)
    return take(make_constant(table), found, 0)


def _distinct(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, with its last value."""
    last = {_canonical(key): i for i, key in enumerate(keys.tolist())}
    chosen = list(last.values())
    return keys[chosen], values[chosen]


def _canonical(key: object) -> object:
    return "NaN" if key != key else key
