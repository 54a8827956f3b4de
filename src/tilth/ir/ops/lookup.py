"""Looking elements up by equality: what strings need before numbers can go on."""

from __future__ import annotations

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.ops.checks import check_same_dtype
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import TensorType, i64

primitive(
    "index_of", "each element's position in a list of distinct keys; -1, or an error, if nowhere"
)


@infer("index_of")
def _(x: TensorType, keys: TensorType, *, required: bool = False) -> TensorType:
    check_same_dtype(x, keys)
    if keys.rank != 1:
        raise ValueError(f"the keys {keys} are no list")
    return x.with_dtype(i64)


@reference("index_of")
def _(x: Array, keys: Array, *, required: bool) -> Array:
    places = {key: i for i, key in enumerate(keys.tolist())}
    elements = x.reshape(-1).tolist()
    found = [places.get(element, -1) for element in elements]
    if required and -1 in found:
        unknown = elements[found.index(-1)]
        raise InputError(f"{unknown!r} is not one of the {len(places)} values that are known")
    return np.array(found, np.int64).reshape(x.shape)
