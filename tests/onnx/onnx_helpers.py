"""Small models, written in ONNX's text form, and the reference interpreter as their runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser

from tilth.ir.graph import Graph
from tilth.ir.interpreter import interpret
from tilth.onnx import import_graph, load_model
from tilth.onnx.specialise import specialise


def model(text: str, opset: int = 20, **domains: int) -> onnx.ModelProto:
    """A model from the body of a graph in ONNX's text form."""
    imports = ", ".join(f'"{d}" : {v}' for d, v in {"": opset, **domains}.items())
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> {text}")


def run(proto: onnx.ModelProto, *inputs: Any) -> list[np.ndarray]:
    """The outputs of a model, by the reference interpreter."""
    source = load_model(proto)
    arrays = [np.asarray(x) for x in inputs]
    feeds = {p.name: a for p, a in zip(source.inputs, arrays, strict=True)}
    return interpret(specialise(source, feeds).graph, arrays)


def graph(text: str, opset: int = 20, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    return import_graph(model(text, opset), shapes)


def op_names(of: Graph) -> list[str]:
    """The ops of a graph's nodes in order, constants left out."""
    return [n.op for n in of.nodes if n.op != "constant"]
