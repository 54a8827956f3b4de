"""Strings are Python objects: no compiled code may copy, move or compare them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilth.compiler.driver import compile_graph
from tilth.cpu.kernels import unsupported
from tilth.ir.graph import Graph, Value, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.ops.helpers import take
from tilth.ir.types import TensorType, bool_, i64, string
from tilth.runtime.devices import parse_device
from tilth.runtime.target import Options

X = make_input(TensorType(string, (2, 3)), "x")
BUILDERS: dict[str, Callable[[], Value]] = {
    "reshape": lambda: op.reshape(X, shape=(6,)),
    "transpose": lambda: op.transpose(X, permutation=(1, 0)),
    "slice": lambda: op.slice(X, start=(0, 1), limit=(2, 3)),
    "concatenate": lambda: op.concatenate(X, X, axis=0),
    "broadcast": lambda: op.broadcast_in_dim(X, shape=(4, 2, 3), dims=(1, 2)),
    "gather": lambda: take(X, make_input(TensorType(i64, (4,)), "i"), 0),
    "select": lambda: op.select(make_input(TensorType(bool_, (2, 3)), "p"), X, X),
    "compare": lambda: op.compare(X, X, direction="EQ"),
    "index_of": lambda: op.index_of(X, make_constant(np.array(["a"], object))),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_strings_never_reach_a_kernel(name):
    assert "strings" in (unsupported(BUILDERS[name]().node) or "")


def test_numbers_that_lead_to_strings_are_compiled():
    """Labels are looked up on the host; what chooses them is not."""
    x = make_input(TensorType(i64, (3,)), "x")
    labels = make_constant(np.array(["a", "b", "c"], object))
    graph = Graph((x,), (take(labels, op.negate(x), 0),), ("y",))
    executable = compile_graph(graph, parse_device("cpu"), Options(1))
    assert [r.device for r in executable.report.regions] == ["cpu", "reference"]
    (result,) = executable({"x": np.array([0, -2, -1])}).values()
    assert result.tolist() == ["a", "c", "b"]
