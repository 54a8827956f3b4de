"""What the tests of the IR share: running one expression, and a sample node for every op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilth.ir.graph import Graph, Node, Value, make_constant, make_input
from tilth.ir.interpreter import interpret
from tilth.ir.ops import OPS, has_tag, make, op
from tilth.ir.types import DType, TensorType, bool_, dtype_of, f32, i8, i32, i64, u8, u64


def tensor(dtype: DType, *shape: int, name: str = "x") -> Value:
    """A graph input."""
    return make_input(TensorType(dtype, shape), name)


def graph_of(build: Callable[..., Any], *inputs: Value) -> Graph:
    """The graph of an expression over inputs."""
    results = build(*inputs)
    return Graph(inputs, results if isinstance(results, tuple) else (results,))


def run_all(build: Callable[..., Any], *arrays: Any) -> list[np.ndarray]:
    """All results of an expression over arrays, by the interpreter."""
    arrays = tuple(map(np.asarray, arrays))
    inputs = (tensor(dtype_of(a.dtype), *a.shape, name=f"x{i}") for i, a in enumerate(arrays))
    return interpret(graph_of(build, *inputs), arrays)


def run(build: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """The one result of an expression over arrays."""
    (result,) = run_all(build, *arrays)
    return result


def body(build: Callable[..., Any], *types: TensorType) -> Graph:
    """A sub-graph over inputs of these types."""
    return graph_of(build, *(make_input(t, f"a{i}") for i, t in enumerate(types)))


def sample(op_name: str) -> Node:
    """A small valid node of any op."""
    if op_name in _SAMPLES:
        return _SAMPLES[op_name]()
    assert has_tag(op_name, "elementwise"), f"add a sample of '{op_name}'"
    integer = op_name in ("not", "popcnt", "and", "or", "xor") or op_name.startswith("shift")
    names = "xy" if op_name in _BINARY else "x"
    return make(op_name, *(tensor(i32 if integer else f32, 2, 3, name=n) for n in names))


def samples() -> list[Node]:
    return [sample(name) for name in OPS]


_BINARY = (
    *("add", "subtract", "multiply", "divide", "remainder", "power", "maximum", "minimum"),
    *("and", "or", "xor", "shift_left", "shift_right_arithmetic", "shift_right_logical", "atan2"),
)


def _x(*shape: int, name: str = "x") -> Value:
    return tensor(f32, *shape, name=name)


def _negated(*types: TensorType) -> Graph:
    return body(lambda x, *_: op.negate(x), *types)


_VECTOR = TensorType(f32, (2, 3))
_SLICE = TensorType(f32, (3,))
_STATE = TensorType(i32, ())

_SAMPLES: dict[str, Callable[[], Node]] = {
    "constant": lambda: make_constant(np.arange(40.0)).node,
    "iota": lambda: make("iota", dtype=i32, shape=(2, 3), axis=1),
    "compare": lambda: make("compare", _x(2, 3), _x(3, name="y"), direction="LT"),
    "select": lambda: make("select", tensor(bool_, 2, 1, name="p"), _x(2, 3), _x(3, name="y")),
    "clamp": lambda: make("clamp", _x(name="low"), _x(2, 3), _x(name="high")),
    "convert": lambda: make("convert", _x(2, 3), dtype=i8),
    "bitcast_convert": lambda: make("bitcast_convert", _x(2, 3), dtype=i32),
    "reshape": lambda: make("reshape", _x(2, 3), shape=(3, 2)),
    "transpose": lambda: make("transpose", _x(2, 3), permutation=(1, 0)),
    "broadcast_in_dim": lambda: make("broadcast_in_dim", _x(3), shape=(2, 3), dims=(1,)),
    "slice": lambda: make("slice", _x(4, 5), start=(1, 0), limit=(4, 5), strides=(2, 1)),
    "reverse": lambda: make("reverse", _x(2, 3), axes=(1,)),
    "pad": lambda: make("pad", _x(2, 3), _x(name="v"), low=(1, -1), high=(0, 2), interior=(1, 0)),
    "concatenate": lambda: make("concatenate", _x(2, 3), _x(1, 3, name="y"), axis=0),
    "gather": lambda: make(
        "gather",
        _x(4, 3),
        tensor(i64, 2, name="i"),
        offset_dims=(1,),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        index_vector_dim=1,
        slice_sizes=(1, 3),
    ),
    "scatter": lambda: make(
        "scatter",
        _x(4, 3),
        tensor(i64, 2, name="i"),
        _x(2, 3, name="u"),
        update_window_dims=(1,),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        index_vector_dim=1,
        kind="add",
    ),
    "dynamic_slice": lambda: make("dynamic_slice", _x(5), tensor(i32, name="i"), sizes=(2,)),
    "dynamic_update_slice": lambda: make(
        "dynamic_update_slice", _x(5), _x(2, name="u"), tensor(i32, name="i")
    ),
    "reduce": lambda: make("reduce", _x(2, 3), kind="sum", axes=(1,)),
    "arg_reduce": lambda: make("arg_reduce", _x(2, 3), kind="max", axis=0),
    "reduce_window": lambda: make(
        "reduce_window", _x(4, 5), kind="max", window=(2, 3), padding=((0, 1), (1, 1))
    ),
    "cumulative": lambda: make("cumulative", _x(2, 3), kind="sum", axis=1),
    "sort": lambda: make("sort", _x(2, 3), tensor(i32, 2, 3, name="y"), axis=1),
    "top_k": lambda: make("top_k", _x(2, 3), k=2, axis=1),
    "index_of": lambda: make("index_of", _x(2, 3), _x(4, name="k")),
    "dot_general": lambda: make(
        "dot_general", _x(2, 3), _x(3, 4, name="y"), lhs_contract=(1,), rhs_contract=(0,)
    ),
    "convolution": lambda: make("convolution", _x(1, 2, 5, 5), _x(4, 2, 3, 3, name="w")),
    "rng_bits": lambda: make("rng_bits", tensor(u64, 2, name="key"), shape=(3, 2), bits=32),
    "uniform_quantize": lambda: make(
        "uniform_quantize", _x(2, 3), _x(3, name="s"), tensor(u8, 3, name="z"), dtype=u8, axis=1
    ),
    "uniform_dequantize": lambda: make(
        "uniform_dequantize", tensor(u8, 2, 3), _x(name="s"), tensor(u8, name="z"), dtype=f32
    ),
    "if": lambda: make(
        "if",
        tensor(bool_, name="p"),
        _x(2, 3),
        **{"then": _negated(_VECTOR), "else": body(lambda x: op.abs(x), _VECTOR)},
    ),
    "while": lambda: make(
        "while",
        tensor(i32, name="n"),
        cond=body(lambda n: op.compare(n, make_constant(np.int32(9)), direction="LT"), _STATE),
        body=body(lambda n: op.add(op.add(n, n), make_constant(np.int32(1))), _STATE),
    ),
    "scan": lambda: make(
        "scan",
        _x(3, name="c"),
        _x(2, 3),
        body=body(lambda c, x: (op.add(c, x), op.negate(c)), _SLICE, _SLICE),
        carries=1,
    ),
    "fusion": lambda: make("fusion", _x(2, 3), kind="elementwise", body=_negated(_VECTOR)),
    "softmax": lambda: make("softmax", _x(2, 3), axis=1),
    "log_softmax": lambda: make("log_softmax", _x(2, 3), axis=0),
    "layer_norm": lambda: make("layer_norm", _x(2, 3), _x(3, name="s"), _x(3, name="b"), axis=1),
    "rms_norm": lambda: make("rms_norm", _x(2, 3), _x(3, name="s"), axis=1),
    "batch_norm": lambda: make("batch_norm", _x(2, 3, 4), *(_x(3, name=n) for n in "sbmv")),
    "instance_norm": lambda: make("instance_norm", _x(2, 3, 4), _x(3, name="s"), _x(3, name="b")),
    "group_norm": lambda: make(
        "group_norm", _x(2, 4, 5), _x(4, name="s"), _x(4, name="b"), groups=2
    ),
    "lrn": lambda: make("lrn", _x(2, 5, 3), size=3),
    "average_pool": lambda: make(
        "average_pool", _x(1, 2, 5), window=(1, 1, 3), padding=((0, 0), (0, 0), (1, 1))
    ),
    "attention": lambda: make(
        "attention", _x(2, 3, 4), _x(2, 5, 4, name="k"), _x(2, 5, 6, name="v"), causal=True
    ),
    "lstm_recurrence": lambda: make(
        "lstm_recurrence", _x(5, 2, 12), *(_x(*s, name=n) for n, s in _LSTM_STATE.items())
    ),
    "gru_recurrence": lambda: make(
        "gru_recurrence", _x(5, 2, 9), _x(9, 3, name="r"), _x(9, name="rb"), _x(2, 3, name="h0")
    ),
}
_LSTM_STATE = {"r": (12, 3), "h0": (2, 3), "c0": (2, 3)}


def random_array(rng: np.random.Generator, type_: TensorType) -> np.ndarray:
    """Values that suit any op: small integers, positive floats below 2, an even split of bools."""
    if type_.dtype.is_float:
        return rng.uniform(0.1, 1.9, type_.dims).astype(type_.dtype.numpy)
    return rng.integers(0, 2, type_.dims).astype(type_.dtype.numpy)
