"""The public face of a loaded model: look at it, call it, compile it.

A `Model` holds the file as it is. A call makes what it needs for the shapes that are fed, and keeps
it for the next call with the same ones; the on-disk cache keeps it between processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tilth.interface import bind_shapes, exact_shapes, with_extents
from tilth.ir.errors import InputError
from tilth.runtime.cache import default_cache
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.executable import VARIANTS_KEPT
from tilth.runtime.stages import Progress
from tilth.runtime.target import Device, Options

if TYPE_CHECKING:
    from tilth.ir.graph import Graph
    from tilth.onnx.dynamic import DynamicModel
    from tilth.onnx.load import ModelSource, OnnxModel
    from tilth.runtime.executable import Compiled
    from tilth.runtime.known import KnownModel
    from tilth.runtime.ports import Port
    from tilth.runtime.report import HostOpReport, Report


def load(source: ModelSource) -> Model:
    """Read and check a model: a path, the bytes of an ONNX file, or an `onnx.ModelProto`.

    A file that was read and compiled before, and did not change since, is only looked at: the cache
    knows it (see `runtime.known`), and it is read when something needs what it says.

    Raises ModelError when it is unreadable, truncated, or contradicts itself.
    """
    from tilth.runtime.known import recall

    cache = default_cache() if isinstance(source, (str, os.PathLike)) else None
    known = recall(cache, Path(source)) if cache is not None else None
    return Model(known or _read(source))


def _read(source: ModelSource) -> OnnxModel:
    from tilth.onnx.load import load_model

    return load_model(source)


class Model:
    """A model as loaded; thread-safe. Make one with `tilth.load`."""

    def __init__(self, found: OnnxModel | KnownModel):
        from tilth.onnx.origin import Origin

        self._origin = Origin(found)
        self._prepared: DynamicModel | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The file's name without its ending, else the name of the graph."""
        return self._origin.name

    @property
    def source(self) -> OnnxModel:
        """What the file says; it is read now if it was not yet."""
        return self._origin.model

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Name, dtype and shape of each input; a dimension is an int or a symbol's name."""
        return self._origin.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self._origin.outputs

    @property
    def report(self) -> Report:
        """What calls made so far, and why."""
        return (self._prepared or self.prepare()).report

    def __repr__(self) -> str:
        ends = (", ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"<tilth.Model {self.name} ({') -> ('.join(ends)})>"

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to array) on the CPU; output name to array, in model order.

        Compiles when these shapes are new. Where the model has them, strings are object arrays,
        sequences lists, and empty optionals None. Raises InputError for wrong feeds.
        """
        prepared = self._prepared
        if prepared is None:
            with self._lock:
                prepared = self._prepared = self._prepared or self.prepare()
        return prepared(feeds)

    def prepare(
        self,
        device: str | Device = "cpu",
        threads: int = 0,
        precision: Literal["default", "exact"] = "default",
        shapes: Mapping[str, int | Sequence[int]] | None = None,
        cache: bool = True,
        progress: Progress | None = None,
        variants: int = VARIANTS_KEPT,
        buckets: Mapping[str, Sequence[int]] | None = None,
        padding: Mapping[str, float] | None = None,
        tune: bool = False,
    ) -> DynamicModel:
        """The model for any shapes and kinds of values: what calls need is compiled when they come.

        It is called like the model, and its `report` says what was made, and why. See `compile`
        for the arguments and errors; nothing is compiled or looked into before the first call.
        """
        from tilth.onnx.compile import Compiler
        from tilth.onnx.dynamic import DynamicModel

        store = default_cache() if cache and self._is_complete() else None
        options = replace(_options(threads, precision), tune=tune)
        inputs = with_extents(self.inputs, shapes or {})
        padded = None
        if buckets:
            from tilth.onnx.buckets import Buckets

            padded = Buckets(inputs, buckets, padding or {})
        compiler = Compiler(self._origin, parse_device(device), options, store, progress)
        return DynamicModel(compiler, inputs, variants, padded)

    def compile(
        self,
        device: str | Device = "cpu",
        threads: int = 0,
        shapes: Mapping[str, int | Sequence[int]] | None = None,
        precision: Literal["default", "exact"] = "default",
        cache: bool = True,
        progress: Progress | None = None,
        variants: int = VARIANTS_KEPT,
        buckets: Mapping[str, Sequence[int]] | None = None,
        padding: Mapping[str, float] | None = None,
        tune: bool = False,
    ) -> Compiled:
        """Compile for these shapes, or take it from the on-disk cache.

        `shapes` gives an input's shape by its name, or a symbol's extent by the symbol's. With all
        of them known the result is an `Executable` for just these. Where some are open, or the
        model is no static graph (sizes that depend on data, strings, sequences), it is a
        `DynamicModel`: the same methods, but it compiles further when calls need it, and keeps
        code for the latest `variants` shapes.

        `threads` 0 means all cores this process may use. `precision="exact"` forbids kernels that
        round differently from the plain definition (Winograd's convolutions and inner product,
        Strassen's products, f32 split into bf16 parts for a matrix unit). `progress` is called with
        the name of each stage. `buckets` gives sizes that a symbol is padded to, and `padding` the
        values that inputs are padded with (0 if not said); that is right only where what is added
        changes nothing before it (see `tilth.onnx.buckets`). `tune` times a few ways to compute
        each matrix product and convolution, and remembers the fastest; without it, compiling is
        deterministic.

        Raises InputError, DeviceError, UnsupportedError (listing everything missing), CompileError.
        """
        model = self.prepare(
            device, threads, precision, shapes, cache, progress, variants, buckets, padding, tune
        )
        known = exact_shapes(model.inputs)
        if known is not None and not buckets:
            return model.start(known) or model
        model.check()
        return model

    def graph(self, shapes: Mapping[str, int | Sequence[int]] | None = None) -> Graph:
        """The model as an IR graph for exact shapes (see `compile`), before any pass."""
        from tilth.onnx import import_graph

        return import_graph(self.source, bind_shapes(self.inputs, shapes or {}))

    def foreseen(
        self, shapes: Mapping[str, int | Sequence[int]] | None = None
    ) -> tuple[HostOpReport, ...]:
        """What will run on the host when the model runs in stages, as far as shapes tell.

        Raises UnsupportedError (listing everything missing), InputError.
        """
        from tilth.onnx.compile import Compiler
        from tilth.onnx.staged import StagedModel

        inputs = with_extents(self.inputs, shapes or {})
        bound = bind_shapes([p for p in inputs if not p.container], {})
        compiler = Compiler(self._origin, parse_device("cpu"), Options())
        return StagedModel(compiler).foreseen(bound)

    def digest(self) -> str:
        """SHA-256 over the model and its external data."""
        return self._origin.digest

    def _is_complete(self) -> bool:
        """Whether what is compiled follows from the model alone, and may be kept on disk."""
        from tilth.onnx.registered import REGISTERED, uses_registered_ops

        return not REGISTERED or not uses_registered_ops(self.source.proto)


def _options(threads: int, precision: Literal["default", "exact"]) -> Options:
    if threads < 0:
        raise InputError(f"threads must be 0 (all cores) or more, not {threads}")
    if precision not in ("default", "exact"):
        raise InputError(f"precision must be 'default' or 'exact', not '{precision}'")
    return Options(threads or usable_cores(), precision)
