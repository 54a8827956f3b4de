"""The shape of an ONNX backend: a `ModelProto` becomes a function from a list to a list of values.

This is what the official ONNX backend tests drive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilth.ir.errors import DeviceError, InputError
from tilth.onnx.compile import Compiler
from tilth.onnx.dynamic import DynamicModel
from tilth.onnx.load import ModelSource, load_model
from tilth.onnx.origin import Origin
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.report import Report
from tilth.runtime.target import Options


class Prepared:
    """A model that is ready to be run, as `onnx.backend.base.BackendRep` is."""

    def __init__(self, model: ModelSource, device: str = "cpu") -> None:
        options = Options(usable_cores(), "exact")
        compiler = Compiler(Origin(load_model(model)), parse_device(device), options)
        self._model = DynamicModel(compiler)
        self._model.check()

    @property
    def report(self) -> Report:
        """What the latest call ran."""
        return self._model.report

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The model's outputs for its inputs, both in order.

        Inputs are arrays (NumPy scalars are taken as arrays of rank 0), lists for sequences, None
        for empty optionals. Raises InputError.
        """
        names = [p.name for p in self._model.inputs]
        if len(inputs) != len(names):
            raise InputError(f"the model has inputs {names}, got {len(inputs)} values")
        feeds = {n: _value(x) for n, x in zip(names, inputs, strict=True)}
        return list(self._model(feeds).values())


def prepare_callable(
    model: ModelSource, device: str = "cpu"
) -> Callable[[Sequence[Any]], list[Any]]:
    """A function from the model's inputs, in order, to its outputs (see `Prepared.run`).

    Raises ModelError and UnsupportedError at once, InputError from the function.
    """
    return Prepared(model, device).run


def prepare(model: ModelSource, device: str = "CPU", **options: Any) -> Prepared:
    """As `onnx.backend.base.Backend.prepare`; further options are for other backends."""
    return Prepared(model, device.lower())


def run_model(
    model: ModelSource, inputs: Sequence[Any], device: str = "CPU", **options: Any
) -> list[Any]:
    """As `onnx.backend.base.Backend.run_model`."""
    return prepare(model, device).run(inputs)


def supports_device(device: str) -> bool:
    """As `onnx.backend.base.Backend.supports_device`; ONNX writes "CPU" and "CUDA:0"."""
    try:
        parse_device(device.lower())
    except DeviceError:
        return False
    return True


def _value(fed: Any) -> Any:
    """NumPy scalars as arrays; lists, dictionaries and None as they are."""
    return fed if fed is None or isinstance(fed, (list, tuple, dict)) else np.asarray(fed)
