"""The shape of an ONNX backend: a `ModelProto` becomes a function from a list to a list of arrays.

This is what the official ONNX backend tests drive. Code is made for the shapes that are fed, and
kept for the next call with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import InputError
from tilth.onnx.importer import require_supported
from tilth.onnx.load import ModelSource, load_model
from tilth.onnx.specialise import Specialised, specialise
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.executable import Executable
from tilth.runtime.target import Options

_KEPT = 8


def prepare_callable(
    model: ModelSource, device: str = "cpu"
) -> Callable[[Sequence[Any]], list[np.ndarray]]:
    """A function from the model's inputs, in order, to its outputs.

    Inputs are arrays (NumPy scalars are taken as arrays of rank 0). Raises ModelError and
    UnsupportedError at once, InputError from the function.
    """
    source = load_model(model)
    require_supported(source)
    names = [p.name for p in source.inputs]
    options, place = Options(usable_cores(), "default"), parse_device(device)
    kept: list[tuple[Specialised, Executable]] = []

    def run(inputs: Sequence[Any]) -> list[np.ndarray]:
        if len(inputs) != len(names):
            raise InputError(f"the model has inputs {names}, got {len(inputs)} values")
        feeds = {n: np.asarray(x) for n, x in zip(names, inputs, strict=True)}
        executable = next((e for s, e in kept if s.serves(feeds)), None)
        if executable is None:
            special = specialise(source, feeds)
            executable = compile_graph(special.graph, place, options)
            kept.append((special, executable))
            del kept[:-_KEPT]
        return list(executable(feeds).values())

    return run
