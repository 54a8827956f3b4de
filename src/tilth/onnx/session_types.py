"""What a session tells about its model: names, types as text, shapes, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_UNSET_VERSION = 2**63 - 1  # what ONNX Runtime reports for a model without a version
# Names of element types that are not their names in TensorProto.DataType in small letters.
_SHORT = {"FLOAT": "float", "DOUBLE": "double"}


@dataclass(frozen=True)
class NodeArg:
    """One end of a model: its name, its type as text, and its shape.

    A dimension is an int, the name of a symbol, or None where nothing is known.
    """

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class ModelMetadata:
    """What the file says about itself."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: Mapping[str, str]


def node_arg(info: Any, overrides: Mapping[str, int]) -> NodeArg:
    """A ValueInfoProto; `overrides` fixes symbols."""
    return NodeArg(info.name, type_text(info.type), _shape(info.type, overrides))


def metadata(proto: Any) -> ModelMetadata:
    return ModelMetadata(
        producer_name=proto.producer_name,
        graph_name=proto.graph.name,
        domain=proto.domain,
        description=proto.doc_string,
        graph_description=proto.graph.doc_string,
        version=proto.model_version if proto.HasField("model_version") else _UNSET_VERSION,
        custom_metadata_map={p.key: p.value for p in proto.metadata_props},
    )


def type_text(proto: Any) -> str:
    """A TypeProto as ONNX Runtime writes it: `tensor(float)`, `seq(map(int64,tensor(float)))`."""
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        return f"tensor({element_text(proto.tensor_type.elem_type)})"
    if kind == "sparse_tensor_type":
        return f"sparse_tensor({element_text(proto.sparse_tensor_type.elem_type)})"
    if kind == "sequence_type":
        return f"seq({type_text(proto.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({type_text(proto.optional_type.elem_type)})"
    if kind == "map_type":
        key = element_text(proto.map_type.key_type)
        return f"map({key},{type_text(proto.map_type.value_type)})"
    return "opaque"


def element_text(number: int) -> str:
    """The name of a TensorProto.DataType."""
    import onnx

    name = onnx.TensorProto.DataType.Name(number)
    return _SHORT.get(name, name.lower())


def _shape(proto: Any, overrides: Mapping[str, int]) -> list[int | str | None]:
    while proto.WhichOneof("value") in ("sequence_type", "optional_type"):
        proto = getattr(proto, proto.WhichOneof("value")).elem_type
    kind = proto.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return []
    dims = getattr(proto, kind).shape.dim
    return [_dim(d, overrides) for d in dims]


def _dim(dim: Any, overrides: Mapping[str, int]) -> int | str | None:
    if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
        return int(dim.dim_value)
    return overrides.get(dim.dim_param, dim.dim_param) or None
