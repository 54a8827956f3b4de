"""Looking elements up by equality: what strings need before numbers can go on."""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import check_same_dtype
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import TensorType, i64

primitive("index_of", "the position of each element in a list of distinct keys, -1 if nowhere")


@infer("index_of")
def _(x: TensorType, keys: TensorType) -> TensorType:
    check_same_dtype(x, keys)
    if keys.rank != 1:
        raise ValueError(f"the keys {keys} are no list")
    return x.with_dtype(i64)


@reference("index_of")
def _(x: Array, keys: Array) -> Array:
    places = {key: i for i, key in enumerate(keys.tolist())}
    found = [places.get(element, -1) for element in x.reshape(-1).tolist()]
    return np.array(found, np.int64).reshape(x.shape)
