"""The public face of a loaded model: look at it, call it, compile it.

A `Model` holds the file as it is. Each set of input shapes gets an `Executable` of its own; a call
makes it on first use and keeps the latest few, and the on-disk cache keeps them between processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tilth.interface import bind_shapes, ports_for
from tilth.ir.errors import InputError, UnsupportedError
from tilth.ir.graph import Graph
from tilth.ir.types import Shape
from tilth.runtime.cache import Cache, cache_key, default_cache
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.executable import Executable
from tilth.runtime.feeds import check_feeds
from tilth.runtime.stages import Progress, Stages
from tilth.runtime.target import Device, Options, target

if TYPE_CHECKING:
    from tilth.onnx.dynamic import DynamicModel
    from tilth.onnx.load import ModelSource, OnnxModel, Port

EXECUTABLES_KEPT = 8
log = logging.getLogger("tilth")


def load(source: ModelSource) -> Model:
    """Read and check a model: a path, the bytes of an ONNX file, or an `onnx.ModelProto`.

    Raises ModelError when it is unreadable, truncated, or contradicts itself.
    """
    from tilth.onnx import load_model

    return Model(load_model(source))


class Model:
    """A model as loaded; thread-safe. Make one with `tilth.load`."""

    def __init__(self, source: OnnxModel):
        self.source = source
        self._executables: OrderedDict[tuple[Shape, ...], Executable] = OrderedDict()
        self._latest: Executable | None = None
        self._dynamic: DynamicModel | None = None
        self._compiled = 0
        self._digest = ""
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The file's name without its ending, else the name of the graph."""
        path = self.source.path
        return path.stem if path else self.source.proto.graph.name or "model"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Name, dtype and shape of each input; a dimension is an int or a symbol's name."""
        return self.source.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.source.outputs

    def __repr__(self) -> str:
        ends = (", ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"<tilth.Model {self.name} ({') -> ('.join(ends)})>"

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to array) on the CPU; output name to array, in model order.

        Compiles when these shapes are new. Where the model has them, strings are object arrays,
        sequences lists, and empty optionals None. Raises InputError for wrong feeds.
        """
        latest = self._latest
        arrays = latest.match(feeds) if latest is not None else None
        if latest is not None and arrays is not None:
            return latest.run(arrays)
        if self._dynamic is not None:
            return self._dynamic(feeds)
        if any(p.container for p in (*self.inputs, *self.outputs)):
            return self._run_dynamic(feeds)
        arrays = check_feeds(ports_for(self.inputs, feeds), feeds)
        try:
            executable = self._executable_for(tuple(a.shape for a in arrays))
        except UnsupportedError:
            return self._run_dynamic(feeds)
        return executable.run(arrays)

    def prepare(
        self,
        device: str | Device = "cpu",
        threads: int = 0,
        precision: Literal["default", "exact"] = "default",
    ) -> DynamicModel:
        """The model for any shapes and kinds of values: what calls need is compiled when they come.

        It is called like the model, and its `report` says what runs where. A model that is no
        static graph (results whose shape depends on data, strings, sequences) runs in stages:
        compiled segments, and host operators between them. Raises UnsupportedError (listing
        everything missing), InputError, DeviceError.
        """
        from tilth.onnx.dynamic import DynamicModel

        return DynamicModel(self.source, parse_device(device), _options(threads, precision))

    def compile(
        self,
        device: str | Device = "cpu",
        threads: int = 0,
        shapes: Mapping[str, int | Sequence[int]] | None = None,
        precision: Literal["default", "exact"] = "default",
        cache: bool = True,
        progress: Progress | None = None,
    ) -> Executable:
        """Compile for exact shapes, or take it from the on-disk cache.

        `shapes` gives an input's shape by its name, or a symbol's extent by the symbol's; it may
        be left out for a model without symbols. `threads` 0 means all cores this process may use.
        `precision="exact"` forbids kernels that round differently from the plain definition.
        `progress` is called with the name of each stage. Raises InputError, DeviceError,
        UnsupportedError (listing everything missing), CompileError.
        """
        where = parse_device(device)
        options = _options(threads, precision)
        bound = bind_shapes(self.inputs, shapes or {})
        store = default_cache() if cache and self._is_complete() else None
        if store is None:
            return self._build(where, options, bound, progress)
        return self._cached(store, where, options, bound, progress)

    def graph(self, shapes: Mapping[str, int | Sequence[int]] | None = None) -> Graph:
        """The model as an IR graph for exact shapes (see `compile`), before any pass."""
        from tilth.onnx import import_graph

        return import_graph(self.source, bind_shapes(self.inputs, shapes or {}))

    def digest(self) -> str:
        """SHA-256 over the model and its external data."""
        from tilth.onnx.digest import model_digest

        if not self._digest:
            self._digest = model_digest(self.source)
        return self._digest

    def _is_complete(self) -> bool:
        """Whether what is compiled follows from the model alone, and may be kept on disk."""
        from tilth.onnx.registered import uses_registered_ops

        return not uses_registered_ops(self.source.proto)

    def _build(
        self, device: Device, options: Options, shapes: dict[str, Shape], progress: Progress | None
    ) -> Executable:
        from tilth.compiler.driver import compile_graph
        from tilth.onnx import import_graph

        stages = Stages(progress)
        with stages("import"):
            graph = import_graph(self.source, shapes)
        return compile_graph(graph, device, options, stages, name=self.name)

    def _cached(
        self,
        cache: Cache,
        device: Device,
        options: Options,
        shapes: dict[str, Shape],
        progress: Progress | None,
    ) -> Executable:
        key = cache_key(
            model=self.digest(),
            shapes=shapes,
            device=str(device),
            precision=options.precision,
            target=target(device.kind).fingerprint(options),
        )
        executable = _restore(cache, key, self.name)
        if executable is None:
            executable = self._build(device, options, shapes, progress)
            cache.store(key, executable.state())
        return executable

    def _run_dynamic(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run without a static graph, now and from now on."""
        with self._lock:
            if self._dynamic is None:
                self._dynamic = self.prepare()
        return self._dynamic(feeds)

    def _executable_for(self, shapes: tuple[Shape, ...]) -> Executable:
        """The kept executable of these input shapes; compiles, and drops the oldest, if need be."""
        with self._lock:
            if shapes not in self._executables:
                self._explain_recompilation(shapes)
                named = {p.name: s for p, s in zip(self.inputs, shapes, strict=True)}
                self._executables[shapes] = self.compile(shapes=named)
                self._compiled += 1
                if len(self._executables) > EXECUTABLES_KEPT:
                    self._executables.popitem(last=False)
            self._executables.move_to_end(shapes)
            self._latest = self._executables[shapes]
            return self._latest

    def _explain_recompilation(self, shapes: tuple[Shape, ...]) -> None:
        if not self._executables:
            return
        last = next(reversed(self._executables))
        changes = [
            f"input '{port.name}' is now {list(new)}, was {list(old)}"
            for port, new, old in zip(self.inputs, shapes, last, strict=True)
            if new != old
        ]
        log.warning(
            "compiling %s again (number %d; the latest %d are kept): %s",
            *(self.name, self._compiled + 1, EXECUTABLES_KEPT, "; ".join(changes)),
        )


def _options(threads: int, precision: Literal["default", "exact"]) -> Options:
    if threads < 0:
        raise InputError(f"threads must be 0 (all cores) or more, not {threads}")
    if precision not in ("default", "exact"):
        raise InputError(f"precision must be 'default' or 'exact', not '{precision}'")
    return Options(threads or usable_cores(), precision)


def _restore(cache: Cache, key: str, name: str) -> Executable | None:
    """The cached executable of `key`; an entry that cannot be brought back is deleted."""
    start = time.perf_counter()
    state = cache.load(key)
    if state is None:
        return None
    try:
        executable = Executable.from_state(state)
    except Exception as e:  # whatever is wrong with the entry, compiling again puts it right
        cache.reject(key, f"{type(e).__name__}: {e}")
        return None
    executable.report = executable.report.loaded(name, time.perf_counter() - start)
    return executable
