"""The shape of an ONNX backend: a `ModelProto` becomes a function from a list to a list of arrays.

This is what the official ONNX backend tests drive. Code is made for the shapes that are fed, and
kept for the next call with the same ones; models that cannot be one graph run in stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import InputError, UnsupportedError
from tilth.onnx.load import ModelSource, load_model
from tilth.onnx.specialise import Specialised, specialise
from tilth.onnx.staged import StagedModel
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.executable import Executable
from tilth.runtime.target import Options

_KEPT = 8


def prepare_callable(
    model: ModelSource, device: str = "cpu"
) -> Callable[[Sequence[Any]], list[Any]]:
    """A function from the model's inputs, in order, to its outputs.

    Inputs are arrays (NumPy scalars are taken as arrays of rank 0), lists for sequences, None for
    empty optionals. Raises ModelError and UnsupportedError at once, InputError from the function.
    """
    source = load_model(model)
    names = [p.name for p in source.inputs]
    options, place = Options(usable_cores(), "default"), parse_device(device)
    staged = StagedModel(source, place, options)
    kept: list[tuple[Specialised, Executable]] = []
    dynamic = any(p.container for p in (*source.inputs, *source.outputs))

    def executable_for(feeds: Mapping[str, Any]) -> Executable | StagedModel:
        nonlocal dynamic
        if not dynamic:
            found = next((e for s, e in kept if s.serves(feeds)), None)
            if found is not None:
                return found
            try:
                special = specialise(source, feeds)
            except UnsupportedError:
                dynamic = True
            else:
                kept.append((special, compile_graph(special.graph, place, options)))
                del kept[:-_KEPT]
                return kept[-1][1]
        return staged

    def run(inputs: Sequence[Any]) -> list[Any]:
        if len(inputs) != len(names):
            raise InputError(f"the model has inputs {names}, got {len(inputs)} values")
        feeds = {n: _value(x) for n, x in zip(names, inputs, strict=True)}
        return list(executable_for(feeds)(feeds).values())

    return run


def _value(fed: Any) -> Any:
    """NumPy scalars and strings as arrays; lists and None as they are."""
    return fed if fed is None or isinstance(fed, (list, tuple, dict)) else np.asarray(fed)
