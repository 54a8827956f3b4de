"""Reading a model: a path, bytes or a `ModelProto` becomes an `OnnxModel`, checked on the way.

An `OnnxModel` is the proto (never written to) with its weights as arrays and its interface as
`Port`s. It is what the importer, the inspector and the public `Model` look at. Large weights stay
in the file, which is mapped into memory; the proto refers to them there, as to external data.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tilth.ir.errors import ModelError
from tilth.ir.types import Dim
from tilth.onnx.check import check_model, check_text, opset_imports
from tilth.onnx.tensors import ExternalFiles, element_type, sparse_array, tensor_array, tensor_dims
from tilth.onnx.wire import WireError, without_large_tensors
from tilth.runtime.known import Stamp
from tilth.runtime.ports import Port as Port

ModelSource = Any  # str | os.PathLike | bytes | onnx.ModelProto | OnnxModel
_PROTOBUF_LIMIT = 2**31 - 1
_LFS_POINTER = b"version https://git-lfs"
_PLAIN_NAME = re.compile(r"[\w.+ -]+")  # of a file that a location can refer to anywhere


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A checked model. `proto` must not be changed by anyone while this object is in use."""

    proto: Any
    files: ExternalFiles = field(default_factory=ExternalFiles)
    path: Path | None = None
    stamp: Stamp | None = None  # of the file, before it was read
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """Those of all files that were read so far."""
        own = (self.stamp,) if self.stamp else ()
        return tuple(dict.fromkeys((*own, *self.files.stamps)))

    @property
    def name(self) -> str:
        """The file's name without its ending, else the name of the graph."""
        return self.path.stem if self.path else self.proto.graph.name or "model"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the model and its external data."""
        from tilth.onnx.digest import model_digest

        return model_digest(self)

    @cached_property
    def opsets(self) -> Mapping[str, int]:
        """Domain to version; the domain "ai.onnx" is written ""."""
        return opset_imports(self.proto)

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """What a caller feeds: graph inputs without the initialisers repeated among them."""
        weights = self._initializers.keys() | self._sparse.keys()
        return tuple(_port(v) for v in self.proto.graph.input if v.name not in weights)

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(_port(v) for v in self.proto.graph.output)

    @cached_property
    def weight_names(self) -> tuple[str, ...]:
        return (*self._initializers, *self._sparse)

    def weight(self, name: str) -> np.ndarray:
        """The initialiser `name` (read-only, decoded once, memory-mapped if external)."""
        if name not in self._arrays:
            if name in self._initializers:
                array = tensor_array(self._initializers[name], self.files, f"initialiser '{name}'")
            else:
                array = sparse_array(self._sparse[name], self.files)
            self._arrays[name] = array
        return self._arrays[name]

    @cached_property
    def _initializers(self) -> dict[str, Any]:
        return {t.name: t for t in self.proto.graph.initializer}

    @cached_property
    def _sparse(self) -> dict[str, Any]:
        return {t.values.name: t for t in self.proto.graph.sparse_initializer}


def load_model(source: ModelSource, infer_types: bool = False) -> OnnxModel:
    """Read and check a model from a path, the bytes of a file, or a `ModelProto`.

    `infer_types`: the standard wants a type on each output; one that is left out is inferred by
    the `onnx` package.

    Raises ModelError: unreadable or truncated file, no graph, newer than this library, no opset
    import, a name that is missing or defined twice, a cycle, an unknown element type.
    """
    if isinstance(source, OnnxModel):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        # Links are followed once: external data may lie beside the link or beside its target.
        files = ExternalFiles([path.parent, path.resolve().parent])
        data, stamp = _map_file(path)
        rest = _to_parse(data, path, files, stamp)
        model = OnnxModel(_parse(rest, f"'{path}'"), files, path, stamp)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model = OnnxModel(_parse(bytes(source), "the given bytes"))
    elif hasattr(source, "opset_import") and hasattr(source, "graph"):
        model = OnnxModel(source)
    else:
        raise ModelError(
            f"cannot load a model from {type(source).__name__}; give a path, bytes or a ModelProto"
        )
    check_model(model.proto)
    if infer_types and any(v.type.WhichOneof("value") is None for v in model.proto.graph.output):
        model = replace(model, proto=_with_output_types(model.proto))
    _ = model.inputs, model.outputs  # their types are checked by being read
    return model


def _with_output_types(proto: Any) -> Any:
    """A copy in which outputs have the types that ONNX infers, where it can."""
    import onnx.shape_inference

    try:
        return onnx.shape_inference.infer_shapes(proto)
    except Exception as e:  # C++ errors of many kinds: the model is invalid or over 2 GB
        raise ModelError(f"an output has no type, and none can be inferred: {e}") from e


def _map_file(path: Path) -> tuple[mmap.mmap | bytes, Stamp]:
    """The file's contents, mapped unless it is empty."""
    try:
        with path.open("rb") as file:
            stamp = Stamp.of(path, file.fileno())
            if stamp.size > _PROTOBUF_LIMIT:
                raise ModelError(
                    f"'{path}' has {stamp.size} bytes; a protobuf ends at 2 GB, so the file is not "
                    f"one (save large weights as external data)"
                )
            if not stamp.size:
                return b"", stamp
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), stamp
    except (OSError, ValueError) as e:
        raise ModelError(f"cannot read '{path}': {getattr(e, 'strerror', None) or e}") from e


def _to_parse(data: mmap.mmap | bytes, path: Path, files: ExternalFiles, stamp: Stamp) -> bytes:
    """The model's bytes, less the large tensors where those can be left in the file."""
    if isinstance(data, bytes) or not _PLAIN_NAME.fullmatch(path.name):
        return bytes(data)
    try:
        rest = without_large_tensors(memoryview(data), path.name)
    except WireError:
        return data[:]  # whatever it is, the parser will say what is wrong
    if len(rest) < len(data):
        files.adopt(path.resolve(), data, stamp)
    return rest


def _parse(data: bytes, what: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not data:
        raise ModelError(f"{what} is empty; expected an ONNX model")
    if data.startswith(_LFS_POINTER):
        raise ModelError(f"{what} is a Git LFS pointer, not the model; run `git lfs pull`")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError, RecursionError) as e:
        raise ModelError(
            f"{what} ({len(data)} bytes) is not an ONNX model: it is no valid protobuf; the file "
            f"may be truncated or of another format"
        ) from e
    return proto


def _port(info: Any) -> Port:
    """A ValueInfoProto as a Port."""
    name, proto = info.name, info.type
    kind = proto.WhichOneof("value")
    containers = []
    while kind in ("sequence_type", "optional_type"):
        containers.append(kind.removesuffix("_type"))
        proto = getattr(proto, kind).elem_type
        kind = proto.WhichOneof("value")
    if kind in ("map_type", "opaque_type"):
        return Port(name, None, None, " of ".join([*containers, kind.removesuffix("_type")]))
    if kind == "sparse_tensor_type":
        containers.append("sparse")
    if kind is None:
        raise ModelError(f"'{name}' has no type; a model's inputs and outputs must have one")
    tensor = getattr(proto, kind)
    dtype = element_type(tensor.elem_type, f"'{name}'")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_dim(d, name, axis) for axis, d in enumerate(tensor.shape.dim))
        tensor_dims([d if isinstance(d, int) else 1 for d in shape], f"'{name}'")
    return Port(name, dtype, shape, " of ".join(containers))


def _dim(dim: Any, name: str, axis: int) -> Dim:
    if dim.WhichOneof("value") == "dim_value" and dim.dim_value != -1:
        if dim.dim_value < 0:
            raise ModelError(f"'{name}': dimension {axis} is {dim.dim_value}")
        return int(dim.dim_value)
    check_text([dim.dim_param], f"'{name}', dimension {axis}")
    return dim.dim_param or f"{name}.{axis}"  # -1 is how some exporters write "unknown"
