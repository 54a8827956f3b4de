"""The digest of a model, over the proto and every external tensor it refers to.

Weights are most of a model, so it is hashed message by message: never a second copy of it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.onnx.tensors import tensor_array
from tilth.runtime.digest import combined, digest
from tilth.runtime.mapped import release

if TYPE_CHECKING:
    from tilth.onnx.load import OnnxModel

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


def model_digest(model: OnnxModel) -> str:
    """Equal for models that say the same, wherever their files lie. Raises ModelError."""
    tensors = _external_tensors(model.proto.graph)
    external = (_tensor_digest(model, tensor) for tensor in tensors)
    return combined([*_field_digests(model.proto), *external])


def _field_digests(message: Any) -> Iterator[str]:
    """Name and value of each field that is set, item by item; the graph's fields one by one."""
    for field, value in message.ListFields():
        yield digest(field.name.encode())
        if field.name == "graph":
            yield from _field_digests(value)
        elif hasattr(value, "SerializeToString") or isinstance(value, (str, bytes, int, float)):
            yield _item_digest(value)
        else:
            yield from map(_item_digest, value)


def _item_digest(item: Any) -> str:
    if hasattr(item, "SerializeToString"):
        return digest(item.SerializeToString(deterministic=True))
    return digest(repr(item).encode())


def _tensor_digest(model: OnnxModel, tensor: Any) -> str:
    array = tensor_array(tensor, model.files, f"initialiser '{tensor.name}'")
    found = digest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    release(array)
    return found


def _external_tensors(graph: Any) -> Iterator[Any]:
    """External tensors of the graph and of the graphs inside its nodes."""
    yield from filter(_is_external, graph.initializer)
    for tensor in graph.sparse_initializer:
        yield from filter(_is_external, (tensor.values, tensor.indices))
    for node in graph.node:
        for attribute in node.attribute:
            yield from filter(_is_external, (attribute.t, *attribute.tensors))
            for body in (attribute.g, *attribute.graphs):
                yield from _external_tensors(body)


def _is_external(tensor: Any) -> bool:
    return tensor.data_location == _EXTERNAL
