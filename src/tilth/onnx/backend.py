"""The shape of an ONNX backend: a `ModelProto` becomes a function from a list to a list of values.

This is what the official ONNX backend tests drive. Code is made for the shapes that are fed, and
kept for the next call with the same ones; models that cannot be one graph run in stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import DeviceError, InputError, UnsupportedError
from tilth.onnx.load import ModelSource, load_model
from tilth.onnx.specialise import Specialised, specialise
from tilth.onnx.staged import StagedModel
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.executable import Executable
from tilth.runtime.report import Report
from tilth.runtime.target import Options

_KEPT = 8


class Prepared:
    """A model that is ready to be run, as `onnx.backend.base.BackendRep` is."""

    def __init__(self, model: ModelSource, device: str = "cpu") -> None:
        self._source = load_model(model)
        self._options, self._device = Options(usable_cores(), "default"), parse_device(device)
        self._staged = StagedModel(self._source, self._device, self._options)
        ends = (*self._source.inputs, *self._source.outputs)
        self._is_staged = any(p.container for p in ends)
        self._kept: list[tuple[Specialised, Executable]] = []

    @property
    def report(self) -> Report:
        """What the latest call ran."""
        return self._staged.report if self._is_staged else self._kept[-1][1].report

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The model's outputs for its inputs, both in order.

        Inputs are arrays (NumPy scalars are taken as arrays of rank 0), lists for sequences, None
        for empty optionals. Raises InputError.
        """
        names = [p.name for p in self._source.inputs]
        if len(inputs) != len(names):
            raise InputError(f"the model has inputs {names}, got {len(inputs)} values")
        feeds = {n: _value(x) for n, x in zip(names, inputs, strict=True)}
        executable = None if self._is_staged else self._executable(feeds)
        results = self._staged(feeds) if executable is None else executable(feeds)
        return list(results.values())

    def _executable(self, feeds: Mapping[str, Any]) -> Executable | None:
        """One for these feeds, kept or new; None when it takes stages, now and from now on."""
        found = next((kept for kept in self._kept if kept[0].serves(feeds)), None)
        if found is None:
            try:
                special = specialise(self._source, feeds)
            except UnsupportedError:
                self._is_staged = True
                return None
            found = special, compile_graph(special.graph, self._device, self._options)
        self._kept = [*(kept for kept in self._kept if kept is not found), found][-_KEPT:]
        return found[1]


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
