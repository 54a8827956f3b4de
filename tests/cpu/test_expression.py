"""Every elementwise op on every dtype it takes agrees with the interpreter, edge cases included."""

import numpy as np
import pytest
from kernel_check import body_of, check, random_array

from tilth.cpu import expression
from tilth.cpu.isa import host_isa
from tilth.cpu.kernels import elementwise
from tilth.ir import types
from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.ops.table import OPS, has_tag
from tilth.ir.types import DTYPES, TensorType, bool_, f16, f32, i8, i32, i64, u8

MACHINE = [
    d
    for d in DTYPES.values()
    if d.kind != "string"
    and d.name
    in (
        *("bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"),
        *("bf16", "f16", "f32", "f64"),
    )
]
UNARY = sorted(expression._UNARY)
BINARY = sorted(expression._BINARY)
LENGTH = 21  # a register and a rest
POSITIVE = {"log", "sqrt", "rsqrt", "acosh", "power", "log_plus_one"}
UNIT = {"asin", "acos", "atanh"}


def sample(name, dtype, rng):
    x = random_array(rng, dtype, (LENGTH,))
    if dtype.is_float and name in POSITIVE:
        x = np.abs(x) + dtype.numpy.type(1)
    if dtype.is_float and name in UNIT:
        x = (rng.uniform(-0.9, 0.9, LENGTH)).astype(dtype.numpy)
    return x


def run(build, arrays, tolerance=None):
    operands = [TensorType(types.dtype_of(a.dtype), a.shape) for a in arrays]
    try:
        body = body_of(build, *operands)
    except VerifyError:
        pytest.skip("the op does not take this dtype")
    check(elementwise.lower, body, arrays, tolerance=tolerance, isas=[host_isa()])


def test_all_elementwise_ops_are_known():
    names = {n for n in OPS if has_tag(n, "elementwise") and OPS[n].kind == "primitive"}
    assert not {n for n in names if not expression.is_elementwise(n)}


@pytest.mark.parametrize("dtype", MACHINE, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, dtype, rng):
    run(lambda x: getattr(op, f"{name}_")(x), [sample(name, dtype, rng)])


@pytest.mark.parametrize("dtype", MACHINE, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, dtype, rng):
    x, y = sample(name, dtype, rng), sample(name, dtype, rng)
    if dtype.is_integer:  # shifts, powers and quotients of all sizes, zero among them
        y = rng.integers(-9 if dtype.kind == "int" else 0, 9, LENGTH).astype(dtype.numpy)
    run(lambda x, y: getattr(op, f"{name}_")(x, y), [x, y])


@pytest.mark.parametrize("dtype", MACHINE, ids=str)
@pytest.mark.parametrize("direction", ["EQ", "NE", "LT", "LE", "GT", "GE"])
def test_compare(direction, dtype, rng):
    x = random_array(rng, dtype, (LENGTH,))
    y = np.where(rng.random(LENGTH) < 0.4, x, random_array(rng, dtype, (LENGTH,)))
    if dtype == f32:
        y[:3] = np.nan
    run(lambda x, y: op.compare(x, y, direction=direction), [x, y.astype(dtype.numpy)])


@pytest.mark.parametrize("target", MACHINE, ids=str)
@pytest.mark.parametrize("source", MACHINE, ids=str)
def test_convert(source, target, rng):
    x = random_array(rng, source, (LENGTH,))
    if source.is_float:
        with np.errstate(over="ignore"):
            x[:5] = np.array([1e30, -1e30, np.nan, np.inf, -np.inf]).astype(source.numpy)
    run(lambda x: op.convert(x, dtype=target), [x])


@pytest.mark.parametrize("dtype", MACHINE, ids=str)
def test_select_and_clamp(dtype, rng):
    pred = random_array(rng, bool_, (LENGTH,))
    x, y = (random_array(rng, dtype, (LENGTH,)) for _ in range(2))
    run(lambda p, x, y: op.select(p, x, y), [pred, x, y])
    low, high = (
        np.sort([x, y], axis=0) if dtype != types.bf16 else (np.minimum(x, y), np.maximum(x, y))
    )
    run(lambda a, x, b: op.clamp(a, x, b), [low, random_array(rng, dtype, (LENGTH,)), high])


@pytest.mark.parametrize(
    "source, target", [("f32", "i32"), ("i16", "bf16"), ("f16", "u16"), ("u64", "f64")]
)
def test_bitcast(source, target, rng):
    x = random_array(rng, DTYPES[source], (LENGTH,))
    run(lambda x: op.bitcast_convert(x, dtype=DTYPES[target]), [x])


@pytest.mark.parametrize("dtype", [i8, i32, i64, u8], ids=str)
@pytest.mark.parametrize("name", ["divide", "remainder"])
def test_integer_division_never_traps(name, dtype, rng):
    limits = np.iinfo(dtype.numpy)
    x = np.array([limits.min, limits.max, 7, 0, 100] * 4, dtype.numpy)
    y = np.array([0, 1, limits.max, limits.min or 1, -1 if limits.min else 3] * 4, dtype.numpy)
    x, y = x.repeat(5), np.tile(y, 5)
    run(lambda x, y: getattr(op, name)(x, y), [x, y])


def test_smallest_integer_divided_by_minus_one_wraps():
    x = np.full(20, np.iinfo(np.int32).min, np.int32)
    run(lambda x, y: op.divide(x, y), [x, np.full(20, -1, np.int32)])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extrema_keep_nan(name):
    x = np.array([np.nan, 1, np.nan, 2] * 5, np.float32)
    y = np.array([1, np.nan, np.nan, 3] * 5, np.float32)
    run(lambda x, y: getattr(op, name)(x, y), [x, y])


def test_f16_rounds_where_it_is_converted():
    x = np.linspace(1000, 3000, 50).astype(np.float32)
    run(lambda x: op.convert(op.convert(x, dtype=f16), dtype=f32), [x], tolerance=1e-9)


def test_scalar_constants_stand_inside_a_body(rng):
    x = random_array(rng, f32, (LENGTH,))
    run(lambda x: op.maximum(op.add(x, scalar(1.5, x)), scalar(0, x)), [x])
