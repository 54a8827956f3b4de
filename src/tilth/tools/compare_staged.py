"""The values inside a model that runs in stages: those of its own graph, not of inner ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilth.onnx.compile import Compiler
from tilth.onnx.load import OnnxModel
from tilth.onnx.origin import Origin
from tilth.onnx.segments import as_array
from tilth.onnx.staged import StagedModel
from tilth.onnx.values import check_values
from tilth.runtime.target import Device, Options


def staged_values(
    model: OnnxModel, feeds: Mapping[str, Any], device: Device, options: Options, every: bool
) -> dict[str, np.ndarray]:
    """Tensors of numbers by name, from one run on `device`.

    `every`: nothing is fused across values, so that all are there; else those between stages.
    Raises what making and running a model raises.
    """
    nodes = (node for node in model.proto.graph.node if node.op_type != "Constant")
    made = {name for node in nodes for name in node.output}
    found: dict[str, np.ndarray] = {}

    def observe(environment: Mapping[str, Any]) -> None:
        for name in made.intersection(environment).difference(found):
            array = as_array(environment[name])
            if isinstance(array, np.ndarray) and array.dtype != object:
                found[name] = array.copy()

    compiler = Compiler(Origin(model), device, options)
    StagedModel(compiler, observer=observe, exposes=every)(check_values(model.inputs, feeds))
    return found
