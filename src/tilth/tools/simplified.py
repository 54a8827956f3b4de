"""A model as the passes that all targets share leave it, written back as ONNX."""

from __future__ import annotations

from pathlib import Path

from tilth.compiler.pipeline import run_shared
from tilth.interface import Binding, complete
from tilth.model import Model
from tilth.onnx.check import count_nodes
from tilth.onnx.export import save_model
from tilth.runtime.target import Options


def write_simplified(model: Model, shapes: Binding, path: Path) -> tuple[int, int]:
    """Write the simplified graph for exact shapes; open symbols are 1.

    Gives the number of nodes before and after. Raises what importing and exporting raise, OSError.
    """
    graph = run_shared(model.graph(complete(model.inputs, shapes)), Options()).graph
    return count_nodes(model.source.proto), count_nodes(save_model(graph, path))
