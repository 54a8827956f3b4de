"""Running a model on whatever is fed: what serves these feeds, and what is made if nothing does.

Executables are for exact shapes, and some for exact values of inputs that shapes depend on; the
latest few are kept. A model that cannot be one executable runs in stages from then on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.ir.errors import UnsupportedError
from tilth.ir.types import Shape
from tilth.model import EXECUTABLES_KEPT, Model
from tilth.onnx.context import DataDependentError
from tilth.onnx.load import OnnxModel
from tilth.onnx.specialise import specialise
from tilth.onnx.staged import StagedModel
from tilth.runtime.devices import parse_device
from tilth.runtime.executable import Executable
from tilth.runtime.target import Options

Serving = Executable | StagedModel


@dataclass(frozen=True, eq=False)
class _Variant:
    """An executable, and the values of inputs it holds for."""

    shapes: tuple[Shape, ...]
    fixed: Mapping[str, np.ndarray]
    executable: Executable

    def serves(self, shapes: tuple[Shape, ...], feeds: Mapping[str, Any]) -> bool:
        return self.shapes == shapes and all(
            np.array_equal(feeds[name], array) for name, array in self.fixed.items()
        )


@dataclass
class Runner:
    """A model on one device with given options. Thread-safe."""

    source: OnnxModel
    device: str
    options: Options
    cache: bool = True
    _variants: list[_Variant] = field(default_factory=list)
    _latest: Executable | None = None
    _staged: StagedModel | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if any(p.container for p in (*self.source.inputs, *self.source.outputs)):
            self._staged = self._in_stages()

    def match(self, feeds: Any) -> tuple[Executable, list[np.ndarray]] | None:
        """The latest executable and its inputs, if these feeds need no checking."""
        latest = self._latest
        arrays = latest.match(feeds) if latest is not None else None
        return (latest, arrays) if latest is not None and arrays is not None else None

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Compile for these shapes, unless more depends on what is fed."""
        if self._staged is None:
            with contextlib.suppress(DataDependentError):
                executable = self._compiled_for(shapes)
                self._variants.append(_Variant(tuple(shapes.values()), {}, executable))

    def serving(self, feeds: Mapping[str, Any]) -> Serving:
        """What runs on checked feeds; compiles, and drops the oldest executable, if need be.

        Raises what `Model.compile` raises.
        """
        with self._lock:
            if self._staged is not None:
                return self._staged
            shapes = tuple(array.shape for array in feeds.values())
            variant = next((v for v in self._variants if v.serves(shapes, feeds)), None)
            if variant is None:
                try:
                    variant = self._compiled(shapes, feeds)
                except UnsupportedError:  # as one graph; every operator is known
                    self._staged = self._in_stages()
                    return self._staged
            else:
                self._variants.remove(variant)
            self._variants = [*self._variants, variant][-EXECUTABLES_KEPT:]
            self._latest = None if variant.fixed else variant.executable
            return variant.executable

    def _compiled(self, shapes: tuple[Shape, ...], feeds: Mapping[str, Any]) -> _Variant:
        if not any(variant.fixed for variant in self._variants):
            try:
                named = dict(zip(feeds, shapes, strict=True))
                return _Variant(shapes, {}, self._compiled_for(named))
            except DataDependentError:
                pass  # a shape depends on what is fed
        special = specialise(self.source, feeds)
        place = parse_device(self.device)
        return _Variant(shapes, special.fixed, compile_graph(special.graph, place, self.options))

    def _compiled_for(self, shapes: Mapping[str, Shape]) -> Executable:
        """For these shapes and any values, from the on-disk cache if it is there."""
        return Model(self.source).compile(
            device=self.device,
            threads=self.options.threads,
            shapes=shapes,
            precision=self.options.precision,
            cache=self.cache,
        )

    def _in_stages(self) -> StagedModel:
        return StagedModel(self.source, parse_device(self.device), self.options)
