"""Meaning of gather, scatter and dynamic slices, against NumPy and StableHLO's definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.ops.helpers import take
from tilth.ir.types import f32, i32


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), max_size=2),
    st.data(),
)
def test_take_is_numpy_take(shape, indices_shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    indices = rng.integers(0, shape[axis], indices_shape)
    result = run(lambda x, i: take(x, i, axis), x, indices)
    np.testing.assert_array_equal(result, np.take(x, indices, axis), strict=True)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64])
def test_gather_clamps_into_the_tensor(dtype):
    x = np.arange(5, dtype=np.float32)
    big = np.iinfo(dtype).max
    small = np.iinfo(dtype).min
    result = run(lambda x, i: take(x, i, 0), x, np.array([big, small, 3], dtype))
    np.testing.assert_array_equal(result, [4, 0, 3])


def naive_gather(x, indices, a):
    """StableHLO's definition, element by element."""
    dropped = (*a["collapsed_slice_dims"], *a["operand_batching_dims"])
    batch = [d for i, d in enumerate(indices.shape) if i != a["index_vector_dim"]]
    offsets = [s for i, s in enumerate(a["slice_sizes"]) if i not in dropped]
    rank = len(batch) + len(offsets)
    sizes, others = dict(zip(a["offset_dims"], offsets, strict=True)), iter(batch)
    result = np.zeros([sizes[i] if i in sizes else next(others) for i in range(rank)], x.dtype)
    for index in np.ndindex(*result.shape):
        batch_index = [index[i] for i in range(rank) if i not in a["offset_dims"]]
        place = list(batch_index)
        place.insert(a["index_vector_dim"], slice(None))
        vector = (
            np.atleast_1d(indices[tuple(place)])
            if indices.ndim > len(batch)
            else [indices[tuple(batch_index)]]
        )
        start = [0] * x.ndim
        for k, axis in enumerate(a["start_index_map"]):
            start[axis] = vector[k]
        full = list(batch_index)
        full.insert(a["index_vector_dim"], None)
        for axis, source in zip(
            a["operand_batching_dims"], a["start_indices_batching_dims"], strict=True
        ):
            start[axis] = full[source]
        offset = iter(index[i] for i in a["offset_dims"])
        result[index] = x[
            tuple(
                np.clip(s, 0, d - n) + (0 if axis in dropped else next(offset))
                for axis, (s, d, n) in enumerate(zip(start, x.shape, a["slice_sizes"], strict=True))
            )
        ]
    return result


GATHERS = [
    {  # windows with all axes kept, index vector in front
        "shape": (4, 5),
        "indices": (2, 3),
        "offset_dims": (0, 2),
        "collapsed_slice_dims": (),
        "start_index_map": (1, 0),
        "index_vector_dim": 0,
        "slice_sizes": (2, 3),
    },
    {  # numpy's gather_nd
        "shape": (4, 5, 3),
        "indices": (6, 2),
        "offset_dims": (1,),
        "collapsed_slice_dims": (0, 1),
        "start_index_map": (0, 1),
        "index_vector_dim": 1,
        "slice_sizes": (1, 1, 3),
    },
    {  # batched: each row of x has its own indices
        "shape": (4, 7),
        "indices": (4, 3, 1),
        "offset_dims": (),
        "collapsed_slice_dims": (1,),
        "start_index_map": (1,),
        "index_vector_dim": 2,
        "slice_sizes": (1, 1),
        "operand_batching_dims": (0,),
        "start_indices_batching_dims": (0,),
    },
    {  # no run-time position: the same slice for each batch element
        "shape": (4, 5),
        "indices": (3, 0),
        "offset_dims": (1, 2),
        "collapsed_slice_dims": (),
        "start_index_map": (),
        "index_vector_dim": 1,
        "slice_sizes": (2, 5),
    },
]


@pytest.mark.parametrize("case", GATHERS)
def test_gather_follows_its_definition(case, rng):
    attrs = {"operand_batching_dims": (), "start_indices_batching_dims": (), **case}
    x = rng.standard_normal(attrs.pop("shape")).astype(np.float32)
    indices = rng.integers(-2, 7, attrs.pop("indices"))
    result = run(lambda x, i: op.gather(x, i, **attrs), x, indices)
    np.testing.assert_array_equal(result, naive_gather(x, indices, attrs), strict=True)


def scatter_rows(kind):
    return lambda x, i, u: op.scatter(
        x,
        i,
        u,
        update_window_dims=(1,),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        index_vector_dim=1,
        kind=kind,
    )


@pytest.mark.parametrize(
    ("kind", "ufunc"),
    [("add", np.add), ("multiply", np.multiply), ("max", np.maximum), ("min", np.minimum)],
)
def test_scatter_combines_updates_that_meet(kind, ufunc, rng):
    x, u = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    i = np.array([1, 3, 1, 0, 1])
    expected = x.copy()
    ufunc.at(expected, i, u)
    np.testing.assert_allclose(run(scatter_rows(kind), x, i, u), expected)


def test_scatter_assigns_the_last_update():
    x, u = np.zeros((3, 1), np.float32), np.array([[1], [2], [3]], np.float32)
    result = run(scatter_rows("assign"), x, np.array([0, 0, 2]), u)
    np.testing.assert_array_equal(result, [[2], [0], [3]])


def test_scatter_leaves_out_what_falls_outside():
    x, u = np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)
    result = run(scatter_rows("add"), x, np.array([-1, 1, 3]), u)
    np.testing.assert_array_equal(result, [[0, 0], [1, 1], [0, 0]])


def test_scatter_writes_windows():
    x, u = np.zeros((4, 4), np.float32), np.ones((1, 2, 2), np.float32)
    result = run(
        lambda x, i, u: op.scatter(
            x,
            i,
            u,
            update_window_dims=(1, 2),
            inserted_window_dims=(),
            scatter_dims_to_operand_dims=(0, 1),
            index_vector_dim=1,
        ),
        x,
        np.array([[1, 2]]),
        u,
    )
    x[1:3, 2:4] = 1
    np.testing.assert_array_equal(result, x)


@pytest.mark.parametrize(("kind", "expected"), [("assign", 3), ("add", 16), ("max", 10)])
def test_a_scalar_is_gathered_from_and_scattered_to(kind, expected):
    x, nowhere = np.float32(10), np.zeros((3, 0), np.int32)
    gathered = run(
        lambda x, i: op.gather(
            x,
            i,
            offset_dims=(),
            collapsed_slice_dims=(),
            start_index_map=(),
            slice_sizes=(),
            index_vector_dim=1,
        ),
        x,
        nowhere,
    )
    np.testing.assert_array_equal(gathered, [10, 10, 10])
    scattered = run(
        lambda x, i, u: op.scatter(
            x,
            i,
            u,
            update_window_dims=(),
            inserted_window_dims=(),
            scatter_dims_to_operand_dims=(),
            kind=kind,
            index_vector_dim=1,
        ),
        x,
        nowhere,
        np.array([1, 2, 3], np.float32),
    )
    assert scattered == expected


@given(st.lists(st.integers(1, 4), max_size=3), st.data())
@settings(max_examples=50)
def test_dynamic_slices_clamp_their_start(shape, data):
    sizes = [data.draw(st.integers(0, d)) for d in shape]
    starts = [data.draw(st.integers(-2, 6)) for _ in shape]
    x = np.random.default_rng(0).standard_normal(shape)
    where = tuple(
        slice(c := min(max(s, 0), d - n), c + n)
        for s, d, n in zip(starts, shape, sizes, strict=True)
    )
    scalars = [np.int32(s) for s in starts]
    got = run(lambda x, *s: op.dynamic_slice(x, *s, sizes=sizes), x, *scalars)
    np.testing.assert_array_equal(got, x[where])
    update = np.ones(sizes)
    expected = x.copy()
    expected[where] = update
    got = run(lambda x, u, *s: op.dynamic_update_slice(x, u, *s), x, update, *scalars)
    np.testing.assert_array_equal(got, expected)


def test_broken_rules_are_refused():
    x, i = tensor(f32, 4, 3), tensor(i32, 2)
    rows = {
        "offset_dims": (1,),
        "collapsed_slice_dims": (0,),
        "start_index_map": (0,),
        "index_vector_dim": 1,
        "slice_sizes": (1, 3),
    }
    for message, indices, change in [
        ("not int or uint", x, {}),
        ("beyond", i, {"index_vector_dim": 2}),
        ("index vectors of 2", i, {"index_vector_dim": 0}),
        ("does not fit", i, {"slice_sizes": (1, 4)}),
        ("are dropped", i, {"slice_sizes": (2, 3)}),
        ("repeat", i, {"collapsed_slice_dims": (0, 0)}),
        ("needs 1 entries", i, {"offset_dims": (0, 1)}),
        ("not an int in", i, {"offset_dims": (2,)}),
    ]:
        with pytest.raises(VerifyError, match=message):
            op.gather(x, indices, **(rows | change))
    with pytest.raises(VerifyError, match="batch shape"):
        scatter_rows("add")(x, i, tensor(f32, 3, 3))
    with pytest.raises(VerifyError, match="do not fit"):
        scatter_rows("add")(x, i, tensor(f32, 2, 4))
    with pytest.raises(VerifyError, match="needs 2 starts"):
        op.dynamic_slice(x, tensor(i32), sizes=(1, 1))
    with pytest.raises(VerifyError, match="expected a scalar"):
        op.dynamic_slice(x, *itertools.repeat(i, 2), sizes=(1, 1))
