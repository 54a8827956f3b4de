"""ONNX Runtime's Python interface over Tilth: change `import onnxruntime as ort` to
`import tilth.onnx.session as ort`.

A session compiles for the shapes that are fed, on first use; a model whose shapes are all known is
compiled when the session is made. `session_options.WITHOUT_EFFECT` lists the options that are taken
and ignored. Errors have ONNX Runtime's names and are Tilth's errors too.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tilth.compiler.pipeline import run_shared
from tilth.interface import bind_shapes, free_symbols
from tilth.ir.errors import InputError, TilthError, UnsupportedError
from tilth.model import Model
from tilth.onnx import session_errors
from tilth.onnx.compile import Compiler
from tilth.onnx.dynamic import DynamicModel
from tilth.onnx.ends import TensorModel, with_tensor_ends
from tilth.onnx.export import save_model
from tilth.onnx.load import OnnxModel, load_model
from tilth.onnx.origin import Origin
from tilth.onnx.registered import uses_registered_ops
from tilth.onnx.resolve import Resolver
from tilth.onnx.session_errors import (
    EngineError,
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    MissingInput,
    NoModel,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
    renamed,
    translated,
)
from tilth.onnx.session_feeds import checked_feeds
from tilth.onnx.session_options import (
    WITHOUT_EFFECT,
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
    set_default_logger_severity,
    set_default_logger_verbosity,
    severity,
)
from tilth.onnx.session_profile import Trace
from tilth.onnx.session_types import ModelMetadata, NodeArg, metadata, node_arg
from tilth.onnx.session_values import IOBinding, OrtDevice, OrtValue, copy_tensors
from tilth.runtime.cache import default_cache
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.target import Options

__all__ = [
    "WITHOUT_EFFECT",
    "EPFail",
    "EngineError",
    "ExecutionMode",
    "ExecutionOrder",
    "Fail",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "MissingInput",
    "ModelMetadata",
    "NoModel",
    "NoSuchFile",
    "NodeArg",
    "NotImplemented",
    "OrtDevice",
    "OrtValue",
    "RunOptions",
    "RuntimeException",
    "SessionOptions",
    "capi",
    "copy_tensors",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_version_string",
    "preload_dlls",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_seed",
]

# The release of ONNX Runtime whose interface this is: programs ask for it.
__version__ = "1.31.0"

# Execution providers and the devices that stand for them.
PROVIDERS = {"CPUExecutionProvider": "cpu", "TilthReferenceExecutionProvider": "reference"}
_DEFAULT = "CPUExecutionProvider"
_DEFAULT_RUN = RunOptions()
_NONE_FED: frozenset[str] = frozenset()  # no initialiser is fed

# Where programs look for the exceptions.
capi = SimpleNamespace(onnxruntime_pybind11_state=session_errors, _pybind_state=session_errors)


def get_available_providers() -> list[str]:
    return list(PROVIDERS)


def get_all_providers() -> list[str]:
    return list(PROVIDERS)


def get_device() -> str:
    return "CPU"


def get_version_string() -> str:
    return __version__


def get_build_info() -> str:
    import tilth

    return f"Tilth {tilth.__version__}, with the interface of ONNX Runtime {__version__}"


def set_seed(seed: int) -> None:
    """Without effect: random operators follow the seeds in the model."""


def enable_telemetry_events() -> None:
    """Without effect: nothing is ever sent anywhere."""


def disable_telemetry_events() -> None:
    """Without effect: nothing is ever sent anywhere."""


def preload_dlls(*args: Any, **options: Any) -> None:
    """Without effect: there are none."""


class InferenceSession:
    """A model ready to run. Calls are thread-safe.

    `path_or_bytes` is a path, the bytes of a model, or a `ModelProto`. `providers` are names, or
    pairs of a name and options (which are kept and have no effect); those that are not available
    are skipped with a warning. Raises NoSuchFile, InvalidProtobuf, InvalidGraph, NotImplemented
    (listing every operator that is missing), InvalidArgument, EngineError.
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **ignored: Any,
    ):
        is_path = isinstance(path_or_bytes, (str, os.PathLike))
        self._model_path = os.fspath(path_or_bytes) if is_path else None  # read by other libraries
        self._options = sess_options or SessionOptions()
        with translated(), severity(self._options.log_severity_level):
            self._model = _with_initializers(_load(path_or_bytes), self._options.initializers)
            self._tensors = with_tensor_ends(self._model)
            Resolver(self._tensors.model).require_supported()
        self._overridden: dict[frozenset[str], TensorModel] = {}
        graph, overrides = self._model.proto.graph, self._options.free_dimensions
        weights = set(self._model.weight_names)
        args = [node_arg(v, overrides) for v in graph.input]
        self._inputs = [a for a in args if a.name not in weights]
        self._overridable = [a for a in args if a.name in weights]
        self._outputs = [node_arg(v, overrides) for v in graph.output]
        self._output_names = [o.name for o in self._outputs]
        self._trace: Trace | None = None
        self.set_providers(providers, provider_options)
        if self._options.enable_profiling:
            self._trace = Trace(self._options.profile_file_prefix, self.get_providers()[0])
        self._prepare()

    # What it is

    def get_inputs(self) -> list[NodeArg]:
        return list(self._inputs)

    def get_outputs(self) -> list[NodeArg]:
        return list(self._outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs with a default value in the model; they may be fed."""
        return list(self._overridable)

    def get_modelmeta(self) -> ModelMetadata:
        return metadata(self._model.proto)

    def get_session_options(self) -> SessionOptions:
        return self._options

    def get_providers(self) -> list[str]:
        return list(self._providers)

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        return {name: dict(options) for name, options in self._providers.items()}

    def set_providers(
        self,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Choose where to run from now on: on the first of these that is available."""
        self._providers = _chosen_providers(providers, provider_options)
        self._runners: dict[frozenset[str], DynamicModel] = {}

    def disable_fallback(self) -> None:
        """Without effect: a run never changes its provider."""

    def enable_fallback(self) -> None:
        """Without effect: a run never changes its provider."""

    # Running it

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """The outputs with these names, or all if None or empty: arrays, or lists of dictionaries.

        Feeds are arrays of the model's types, lists, OrtValues, or dictionaries for maps. Raises
        InvalidArgument, Fail (shapes that do not go together), EngineError.
        """
        names = self._names(output_names)
        options = run_options or _DEFAULT_RUN
        if options.terminate:
            raise Fail("the run is refused: RunOptions.terminate is set")
        levels = self._options.log_severity_level, options.log_severity_level
        try:
            with severity(*levels):
                results = self._results(input_feed)
        except TilthError as e:
            raise renamed(e, running=True) from e
        return [results[name] for name in names]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        return [OrtValue(r) for r in self.run(output_names, input_dict_ort_values, run_options)]

    def run_with_iobinding(
        self, iobinding: IOBinding, run_options: RunOptions | None = None
    ) -> None:
        """Run on the bound inputs and put the bound outputs where they are wanted."""
        if not iobinding.output_names:
            raise InvalidArgument("no output is bound")
        iobinding.deliver(self.run(iobinding.output_names, iobinding.feeds, run_options))

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], None],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """Run in a thread of its own; `callback(results, user_data, error)` is told the end."""

        def task() -> None:
            try:
                results, error = self.run(output_names, input_feed, run_options), ""
            except Exception as e:  # told to the callback, as there is nobody to raise it to
                results, error = [], str(e)
            callback(results, user_data, error)

        threading.Thread(target=task, daemon=True).start()

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, on the monotonic clock; 0 if it did not."""
        return self._trace.start if self._trace else 0

    def end_profiling(self) -> str:
        """Write the trace of all runs; the name of the file, "" if there is nothing to write."""
        trace, self._trace = self._trace, None
        return trace.write() if trace else ""

    # Inside

    def _names(self, wanted: Sequence[str] | None) -> list[str]:
        if isinstance(wanted, (str, bytes)):
            raise InvalidArgument(f"output_names must be a list of names, not '{wanted!s}'")
        if not wanted:
            return self._output_names
        for name in wanted:
            if name not in self._output_names:
                known = ", ".join(self._output_names)
                raise InvalidArgument(f"the model has no output '{name}'; it has {known}")
        return list(wanted)

    def _results(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name."""
        plain = self._runners.get(_NONE_FED)
        match = plain.match(feeds) if plain is not None and self._trace is None else None
        if match is not None:
            executable, ready = match
            return self._tensors.completed(executable.run(ready))
        self._require_all(feeds)
        fed_weights = frozenset(a.name for a in self._overridable if a.name in feeds)
        tensors, runner = self._served_by(fed_weights)
        given = tensors.tensors(feeds)
        arrays = checked_feeds(tensors.model.inputs, given, self._options.free_dimensions)
        begin = self._trace.now() if self._trace else 0.0
        results = runner(arrays)
        if self._trace:
            self._trace.add_run(begin, runner, arrays)
        return tensors.completed(results)

    def _require_all(self, feeds: Mapping[str, Any]) -> None:
        if not isinstance(feeds, Mapping):
            raise InvalidArgument(
                f"input_feed must map input names to values, not be a {type(feeds).__name__}"
            )
        missing = [i for i in self._inputs if i.name not in feeds]
        if missing:
            wanted = ", ".join(f"'{i.name}' ({i.type})" for i in missing)
            raise MissingInput(f"required inputs are not fed: {wanted}; fed are {list(feeds)}")

    def _served_by(self, fed_weights: frozenset[str]) -> tuple[TensorModel, DynamicModel]:
        """The model in which these initialisers are inputs, and its runner."""
        tensors = self._tensors
        if fed_weights:
            if fed_weights not in self._overridden:
                freed = _without_initializers(self._model, fed_weights)
                self._overridden[fed_weights] = with_tensor_ends(freed)
            tensors = self._overridden[fed_weights]
        if fed_weights not in self._runners:
            self._runners[fed_weights] = self._runner(tensors.model)
        return tensors, self._runners[fed_weights]

    def _runner(self, model: OnnxModel) -> DynamicModel:
        exact = self._options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
        threads = self._options.intra_op_num_threads
        options = Options(
            threads if threads > 0 else usable_cores(), "exact" if exact else "default"
        )
        device = parse_device(PROVIDERS[self.get_providers()[0]])
        kept = not self._options.initializers and not uses_registered_ops(model.proto)
        store = default_cache() if kept else None
        return DynamicModel(Compiler(Origin(model), device, options, store))

    def _prepare(self) -> None:
        """Compile now what is for one set of shapes only, and write it if that is asked for."""
        model, path = self._tensors.model, self._options.optimized_model_filepath
        given = self._options.free_dimensions
        known = {name: given[name] for name in free_symbols(model.inputs) if name in given}
        try:
            shapes = bind_shapes(model.inputs, known)
        except (InputError, UnsupportedError) as e:  # something is open, or no tensor
            if path:
                raise session_errors.NotImplemented(
                    f"optimized_model_filepath: only a model of exact shapes can be written ({e}); "
                    f"fix symbols with add_free_dimension_override_by_name"
                ) from e
            return
        with translated(), severity(self._options.log_severity_level):
            if path:
                save_model(run_shared(Model(model).graph(shapes), Options()).graph, path)
            self._served_by(_NONE_FED)[1].start(shapes)


def _load(source: Any) -> OnnxModel:
    if isinstance(source, (str, os.PathLike)):
        if not Path(source).exists():
            raise NoSuchFile(f"there is no file '{source}'")
    elif not isinstance(source, (bytes, bytearray, memoryview)) and not hasattr(source, "graph"):
        raise TypeError(
            f"a session is made from a path, bytes or a ModelProto, not {type(source).__name__}"
        )
    return load_model(source, infer_types=True)


def _with_initializers(model: OnnxModel, given: Mapping[str, np.ndarray]) -> OnnxModel:
    """The model with some of its initialisers replaced by the caller's."""
    if unknown := given.keys() - set(model.weight_names):
        raise InvalidArgument(f"the model has no initialiser '{min(unknown)}'")
    return replace(model, _arrays=dict(given)) if given else model


def _without_initializers(model: OnnxModel, names: frozenset[str]) -> OnnxModel:
    """The model in which these initialisers are inputs like others."""
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(t for t in model.proto.graph.initializer if t.name not in names)
    return replace(model, proto=proto)


def _chosen_providers(
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None,
    options: Sequence[Mapping[str, Any]] | None,
) -> dict[str, dict[str, Any]]:
    """Available providers by name, with their options; the default if there is none."""
    if isinstance(providers, str):
        raise InvalidArgument(f"providers must be a list of names, not '{providers}'")
    wanted = list(providers or [])
    if options is not None and len(options) != len(wanted):
        raise InvalidArgument(f"{len(options)} provider_options for {len(wanted)} providers")
    chosen: dict[str, dict[str, Any]] = {}
    for i, provider in enumerate(wanted):
        name, own = (provider, {}) if isinstance(provider, str) else provider
        if name in PROVIDERS:
            chosen[name] = {**own, **(options[i] if options is not None else {})}
        else:
            known = ", ".join(PROVIDERS)
            warnings.warn(f"provider '{name}' is not available; there are {known}", stacklevel=3)
    return chosen or {_DEFAULT: {}}
