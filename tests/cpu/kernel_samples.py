"""A small problem for every kernel family, for tests that go through all of them.

Extents are no multiples of a vector, so that main loops and remainders run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from kernel_check import body_of, random_array

from tilth.cpu.harness import operand
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Lower, Task
from tilth.cpu.kernels import FUSION_KINDS, OPS, inner_product, strassen, winograd
from tilth.ir.graph import Graph, Value, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar, take
from tilth.ir.types import DType, TensorType, bf16, dtype_of, f16, f32, i8, i32

Build = Callable[..., Value | tuple[Value, ...]]


@dataclass(frozen=True)
class Sample:
    """A body, arrays for it, and the function that lowers it; `constants` are places of weights.

    The kernel family stands before the colon of `name`. `multiplies`: the time goes into sums of
    products; `scalar`: it works element by element; `libm`: it calls the C library's mathematics.
    """

    name: str
    lower: Lower
    body: Graph
    inputs: tuple[np.ndarray, ...]
    constants: tuple[int, ...] = ()
    multiplies: bool = False
    scalar: bool = False
    libm: bool = False

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]

    def kernel(self, isa: Isa) -> Kernel:
        operands = tuple(operand(x, i in self.constants) for i, x in enumerate(self.inputs))
        results = tuple(map(operand, interpret(self.body, list(self.inputs))))
        return self.lower(Task(self.body, operands, results, isa, 2))


def sample(name: str, build: Build, *inputs: np.ndarray, **about) -> Sample:
    types = tuple(TensorType(dtype_of(x.dtype), x.shape) for x in inputs)
    lower = _LOWER[name.partition(":")[0]]
    if lower in (*FUSION_KINDS.values(), *_PRODUCTS.values()):
        return Sample(name, lower, body_of(build, *types), inputs, **about)
    values = tuple(make_input(t, f"x{i}") for i, t in enumerate(types))
    results = build(*values)
    body = Graph(values, results if isinstance(results, tuple) else (results,))
    return Sample(name, lower, body, inputs, **about)


_PRODUCTS = {
    "inner product": inner_product.lower,
    "strassen": strassen.lower,
    "winograd": winograd.lower,
}
_LOWER = {**FUSION_KINDS, **OPS, **_PRODUCTS}


def array(*shape: int, dtype: DType = f32) -> np.ndarray:
    return random_array(np.random.default_rng(shape), dtype, shape)


def indices(limit: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, limit, shape)


def convolution(x: Value, w: Value, groups: int = 1) -> Value:
    return op.convolution(
        *(x, w),
        strides=(1, 1),
        padding=((0, 0), (0, 0)),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        groups=groups,
        layout="channels_last",
    )


def pool(x: Value, kind: str) -> Value:
    return op.reduce_window(
        x,
        kind=kind,
        window=(1, 3, 3, 1),
        strides=(1, 2, 2, 1),
        padding=((0, 0),) * 4,
        base_dilation=(1,) * 4,
        window_dilation=(1,) * 4,
    )


def dot(x: Value, w: Value) -> Value:
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))


def shifted_maximum(x: Value, y: Value) -> Value:
    return op.add(op.maximum(x, y), op.shift_right_logical(x, op.abs(y)))


def add_rows(x: Value, i: Value, updates: Value) -> Value:
    return op.scatter(
        *(x, i, updates),
        update_window_dims=(1,),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        index_vector_dim=1,
        kind="add",
    )


def fused(kind: str, build: Build, *values: Value) -> Value:
    """A fusion inside a body."""
    inputs = tuple(make_input(v.type, f"p{i}") for i, v in enumerate(values))
    return op.fusion(*values, kind=kind, body=Graph(inputs, (build(*inputs),)))


def chain() -> Sample:
    """Pointwise, depthwise, pointwise."""
    arrays = array(2, 6, 9, 5), array(1, 1, 5, 20), array(3, 3, 1, 20), array(1, 1, 20, 19)
    values = tuple(make_input(TensorType(f32, x.shape), f"x{i}") for i, x in enumerate(arrays))
    x, expand, filters, project = values
    wide = fused("contraction", convolution, x, expand)
    borders = {"low": (0, 1, 1, 0), "high": (0, 1, 1, 0), "interior": (0,) * 4}
    padded = op.pad(wide, scalar(0, x), **borders)
    middle = fused("window", lambda x, w: convolution(x, w, groups=20), padded, filters)
    body = Graph(values, (fused("contraction", convolution, middle, project),))
    return Sample(
        "chain", FUSION_KINDS["chain"], body, arrays, constants=(1, 2, 3), multiplies=True
    )


def fusions() -> Iterator[Sample]:
    yield chain()
    yield sample(
        "elementwise",
        lambda x, y, b: op.add(op.multiply(x, y), b),
        *(array(5, 7, 37), array(5, 7, 37), array(37)),
        multiplies=True,
    )
    yield sample("elementwise:gelu", op.gelu, array(1003), multiplies=True)
    for name in ("exponential", "exponential_minus_one", "log_plus_one", "tanh", "logistic"):
        x = np.abs(array(1003))
        yield sample(f"elementwise:{name}", getattr(op, name), x, multiplies=True)
    yield sample("elementwise:sine", op.sine, array(103), libm=True)
    integers = array(1003, dtype=i32), array(1003, dtype=i32)
    yield sample("elementwise:i32", shifted_maximum, *integers)
    for dtype in (f16, bf16):
        half = array(1003, dtype=dtype)
        yield sample(f"elementwise:{dtype}", lambda x: op.multiply(x, x), half)
    codes = array(1003, dtype=i8)
    yield sample("elementwise:convert", lambda x: op.convert(x, dtype=f32), codes)
    yield sample("elementwise:transpose", op.negate, array(67, 45).T)
    yield sample("row:softmax", lambda x: op.softmax(x, axis=1), array(9, 133), multiplies=True)
    yield sample(
        "row:layer_norm",
        lambda x, s, b: op.layer_norm(x, s, b, axis=1, epsilon=1e-5),
        *(array(9, 133), array(133), array(133)),
        multiplies=True,
    )
    yield sample(
        "reduce",
        lambda x: op.reduce(op.multiply(x, x), kind="sum", axes=(1,)),
        array(3, 49, 133),
        multiplies=True,
    )
    yield sample(
        "reduce:i32",
        lambda x: op.reduce(x, kind="max", axes=(0,)),
        array(49, 133, dtype=i32),
    )
    yield sample("window:max", lambda x: pool(x, "max"), array(1, 11, 13, 37))
    yield sample("window:sum", lambda x: pool(x, "sum"), array(1, 11, 13, 64))
    yield sample(
        "window:depthwise",
        lambda x, w: convolution(x, w, groups=37),
        *(array(1, 11, 13, 37), array(3, 3, 1, 37)),
        constants=(1,),
        multiplies=True,
    )


def contractions() -> Iterator[Sample]:
    about = {"constants": (1,), "multiplies": True}
    yield sample("contraction", dot, array(45, 70), array(70, 67), **about)
    yield sample("contraction:variables", dot, array(45, 70), array(70, 67), multiplies=True)
    yield sample("contraction:one row", dot, array(1, 256), array(256, 67), **about)
    integers = array(13, 70, dtype=i32), array(70, 67, dtype=i32)
    yield sample("contraction:i32", dot, *integers)
    yield sample(
        "contraction:convolution",
        lambda x, w, b: op.relu(op.add(convolution(x, w), b)),
        *(array(1, 11, 13, 16), array(3, 3, 16, 37), array(37)),
        **about,
    )
    yield sample(
        "contraction:groups",
        lambda x, w: convolution(x, w, groups=4),
        *(array(1, 11, 13, 16), array(3, 3, 4, 24)),
        **about,
    )
    yield sample("inner product", dot, array(23, 64), array(64, 80), **about)
    yield sample("strassen", dot, array(23, 64), array(64, 80), **about)
    yield sample("winograd", convolution, array(1, 14, 14, 32), array(3, 3, 32, 40), **about)


def single_nodes() -> Iterator[Sample]:
    yield sample(
        "pad",
        lambda x, v: op.pad(x, v, low=(1, 2), high=(3, 4), interior=(0, 0)),
        *(array(9, 37), array()),
    )
    x, start = array(9, 70), (np.array(2), np.array(7))
    yield sample("dynamic_slice", lambda *v: op.dynamic_slice(*v, sizes=(5, 33)), x, *start)
    yield sample("dynamic_update_slice", op.dynamic_update_slice, x, array(5, 33), *start)
    yield sample("gather", lambda x, i: take(x, i, 0), x, indices(9, 13))
    yield sample("scatter", add_rows, x, indices(9, 13), array(13, 70))
    for axis in (0, 1):
        yield sample(
            f"arg_reduce:axis {axis}",
            lambda x, axis=axis: op.arg_reduce(x, kind="max", axis=axis, last=False),
            array(30, 133),
        )
    yield sample(
        "cumulative",
        lambda x: op.cumulative(x, kind="sum", axis=0, exclusive=False, reverse=False),
        array(9, 133),
    )
    yield sample(
        "sort",
        lambda x, y: op.sort(x, y, axis=1, descending=False),
        *(array(5, 70), array(5, 70, dtype=i32)),
        scalar=True,
    )
    yield sample(
        "top_k", lambda x: op.top_k(x, k=5, axis=1, largest=True), array(5, 70), scalar=True
    )
    key = np.array([1, 2], np.uint64)
    yield sample("rng_bits", lambda k: op.rng_bits(k, shape=(1003,), bits=32), key)
    about = {"constants": (1,), "multiplies": True}
    yield sample(
        "lstm_recurrence",
        lambda *v: op.lstm_recurrence(*v, reverse=False),
        *(array(5, 2, 80), array(80, 20) / 5, array(2, 20), array(2, 20)),
        **about,
    )
    for linear in (False, True):
        yield sample(
            f"gru_recurrence:{'linear' if linear else 'reset'} first",
            lambda *v, linear=linear: op.gru_recurrence(
                *v, reverse=False, linear_before_reset=linear
            ),
            *(array(5, 2, 60), array(60, 20) / 5, array(60), array(2, 20)),
            **about,
        )


SAMPLES = (*fusions(), *contractions(), *single_nodes())
