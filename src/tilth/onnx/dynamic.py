"""Models for whatever is fed: any shapes, and what cannot be one static graph.

A call for which a static graph can be made, perhaps for given values of small inputs, runs one
executable; these are kept for the next call with the same shapes. Other models run in stages.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import UnsupportedError
from tilth.onnx.load import ModelSource, Port, load_model
from tilth.onnx.specialise import Specialised, specialise
from tilth.onnx.staged import StagedModel, check_values
from tilth.runtime.executable import Executable
from tilth.runtime.report import Report
from tilth.runtime.target import Device, Options

EXECUTABLES_KEPT = 8


class DynamicModel:
    """A model on one device, for any shapes; thread-safe.

    Raises ModelError and UnsupportedError when it is made.
    """

    def __init__(self, source: ModelSource, device: Device, options: Options) -> None:
        self._source = load_model(source)
        self._staged = StagedModel(self._source, device, options)
        self._device, self._options = device, options
        ends = (*self._source.inputs, *self._source.outputs)
        self._in_stages = any(p.container for p in ends)
        self._kept: list[tuple[Specialised, Executable]] = []
        self._lock = threading.RLock()

    @property
    def inputs(self) -> Sequence[Port]:
        return self._source.inputs

    @property
    def outputs(self) -> Sequence[Port]:
        return self._source.outputs

    @property
    def report(self) -> Report:
        """What the latest call ran; for a model in stages, all that calls ran so far."""
        in_one = not self._in_stages and self._kept
        return self._kept[-1][1].report if in_one else self._staged.report

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to value); output name to value, in the model's order.

        Values are arrays (of `str` objects for strings), lists for sequences, None for an empty
        optional. Compiles when shapes are new. Raises InputError for wrong feeds.
        """
        executable = None if self._in_stages else self._executable(feeds)
        return self._staged(feeds) if executable is None else executable(feeds)

    def _executable(self, feeds: Mapping[str, Any]) -> Executable | None:
        """One for these feeds, kept or new; None when it takes stages, now and from now on."""
        arrays = check_values(self.inputs, feeds)
        with self._lock:
            found = next((kept for kept in self._kept if kept[0].serves(arrays)), None)
            if found is None:
                try:
                    special = specialise(self._source, arrays)
                except UnsupportedError:
                    self._in_stages = True
                    return None
                found = special, compile_graph(special.graph, self._device, self._options)
            others = [kept for kept in self._kept if kept is not found]
            self._kept = [*others, found][-EXECUTABLES_KEPT:]
            return found[1]
