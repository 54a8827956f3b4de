"""Models of one com.microsoft node, and their results by the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tilth.ir.interpreter import interpret
from tilth.onnx import load_model
from tilth.onnx.specialise import specialise

Arrays = Sequence[np.ndarray | None]


def node_model(
    op_type: str,
    inputs: Arrays,
    outputs: Sequence[np.dtype | type | None] = (np.float32,),
    domain: str = "com.microsoft",
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node. Inputs and outputs may be left out with None."""
    given = [("" if x is None else f"x{i}") for i, x in enumerate(inputs)]
    wanted = [("" if t is None else f"y{i}") for i, t in enumerate(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, given, wanted, domain=domain, **attrs)],
        "g",
        [_value(n, x.dtype, x.shape) for n, x in zip(given, inputs, strict=True) if x is not None],
        [_value(n, t, None) for n, t in zip(wanted, outputs, strict=True) if t is not None],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name: str, dtype: np.dtype | type, shape: tuple[int, ...] | None) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, shape)


def feeds_of(inputs: Arrays) -> dict[str, np.ndarray]:
    return {f"x{i}": x for i, x in enumerate(inputs) if x is not None}


def run_node(op_type: str, inputs: Arrays, *outputs: Any, **attrs: Any) -> list[np.ndarray]:
    """The results of a node by the interpreter; `outputs` are dtypes, one f32 if none is given."""
    source = load_model(node_model(op_type, inputs, outputs or (np.float32,), **attrs))
    feeds = feeds_of(inputs)
    return interpret(specialise(source, feeds).graph, list(feeds.values()))
