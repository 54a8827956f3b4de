"""Our vector functions stay within their stated error and treat special values as IEEE 754 does."""

import math

import numpy as np
import pytest

from tilth.cpu.harness import CompiledKernel
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task, dense
from tilth.cpu.kernels import elementwise
from tilth.ir.graph import Graph, make_input
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32

# name: (exact function of float64, allowed error in ulp, range of samples)
FUNCTIONS = {
    "exponential": (np.exp, 2, (-87.33, 88.7)),
    "exponential_minus_one": (np.expm1, 3, (-20.0, 88.7)),
    "log": (np.log, 2, (1e-38, 1e38)),
    "log_plus_one": (np.log1p, 3, (-0.999, 1e6)),
    "tanh": (np.tanh, 3, (-12.0, 12.0)),
    "erf": (np.vectorize(math.erf), 2, (-5.0, 5.0)),
    "logistic": (lambda x: 1 / (1 + np.exp(-x)), 3, (-85.0, 85.0)),
}


def run(name: str, x: np.ndarray, isa=None) -> np.ndarray:
    value = make_input(TensorType(f32, x.shape), "x")
    body = Graph((value,), (getattr(op, name)(value),))
    operand = dense(TensorType(f32, x.shape))
    isa = isa or host_isa()
    kernel = elementwise.lower(Task(body, (operand,), (operand,), isa, 1))
    result = np.empty_like(x)
    CompiledKernel(kernel, isa)([x], [result])
    return result


def samples(low: float, high: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    near = rng.normal(0, 1, 20_000)
    tiny = np.exp(rng.uniform(-80, 0, 20_000)) * rng.choice([-1, 1], 20_000)
    wide = rng.uniform(max(low, -1e6), min(high, 1e6), 40_000)
    large = np.exp(rng.uniform(0, 80, 20_000))
    x = np.concatenate([near, tiny, wide, large]).astype(np.float32)
    return x[(x >= low) & (x <= high)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_within_the_stated_bound(name):
    exact, bound, limits = FUNCTIONS[name]
    x = samples(*limits)
    expected = exact(x.astype(np.float64))
    ulp = np.spacing(np.maximum(np.abs(expected), 2.0**-126).astype(np.float32)).astype(np.float64)
    error = np.abs(run(name, x).astype(np.float64) - expected) / ulp
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


def test_exponentials_are_normal_or_zero():
    """As those of masked scores, of which products would be slow."""
    x = np.linspace(-110, -80, 10_000, dtype=np.float32)
    y = run("exponential", x)
    least = np.finfo(np.float32).smallest_normal
    assert ((y == 0) | (y >= least)).all()
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=1e-6, atol=least)


def test_exponentials_reach_infinity_where_they_should_and_keep_any_nan():
    last = np.nextafter(np.float32(88.7228394), np.float32(0))
    y = run("exponential", np.array([last, np.nextafter(last, np.float32(100)), 1000], np.float32))
    np.testing.assert_allclose(y, [np.exp(np.float64(last)), np.inf, np.inf], rtol=1e-6)
    nans = np.array([0x7FC00000, 0x7FC001FF, 0x7FFFFFFF, 0xFFC000AA], np.uint32)
    assert np.isnan(run("exponential", nans.view(np.float32))).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values(name):
    exact = FUNCTIONS[name][0]
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-40, 1.0], np.float32)
    expected = exact(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(run(name, x), expected, rtol=1e-6, atol=3e-39)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fewer_registers_give_the_same_values(name):
    x = samples(-20, 20)[:1003]
    x = np.abs(x) if name.startswith("log") and name != "logistic" else x
    np.testing.assert_array_equal(run(name, x), run(name, x, ISAS["avx2"]))
