"""The digest of a model, over the proto and every external tensor it refers to.

Weights are most of a model, so it is hashed message by message: never a second copy of it all. It
makes no difference to an initialiser whether its bytes lie in the proto or in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.onnx.tensors import tensor_bytes
from tilth.runtime.digest import combined, digest, each
from tilth.runtime.mapped import release

if TYPE_CHECKING:
    from tilth.onnx.load import OnnxModel

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_STORED = ("raw_data", "external_data", "data_location")


def model_digest(model: OnnxModel) -> str:
    """Equal for models that say the same, wherever their files lie. Raises ModelError."""
    graph = model.proto.graph
    weights = each(lambda tensor: combined(_weight_digests(model, tensor)), graph.initializer)
    external = (_contents_digest(model, tensor) for tensor in _external_tensors(graph))
    return combined([*_field_digests(model.proto), *weights, *external])


def _field_digests(message: Any, left_out: Sequence[str] = ()) -> Iterator[str]:
    """Name and value of each field that is set, item by item; the graph's fields one by one."""
    for field, value in message.ListFields():
        if field.name in left_out:
            continue
        yield digest(field.name.encode())
        if field.name == "graph":
            yield from _field_digests(value, ("initializer",))
        elif hasattr(value, "SerializeToString") or isinstance(value, (str, bytes, int, float)):
            yield _item_digest(value)
        else:
            yield from map(_item_digest, value)


def _item_digest(item: Any) -> str:
    if hasattr(item, "SerializeToString"):
        return digest(item.SerializeToString(deterministic=True))
    return digest(repr(item).encode())


def _weight_digests(model: OnnxModel, tensor: Any) -> Iterator[str]:
    """What the tensor says of itself, and its bytes."""
    yield from _field_digests(tensor, _STORED)
    if _is_external(tensor):
        yield _contents_digest(model, tensor)
    elif tensor.HasField("raw_data"):
        yield digest(tensor.raw_data)


def _contents_digest(model: OnnxModel, tensor: Any) -> str:
    """Of the bytes of an external tensor."""
    raw = tensor_bytes(tensor, model.files, f"initialiser '{tensor.name}'")
    found = digest(raw)
    release(np.frombuffer(raw, np.uint8))
    return found


def _external_tensors(graph: Any) -> Iterator[Any]:
    """External tensors of a graph and of those inside its nodes; not its own initialisers."""
    for tensor in graph.sparse_initializer:
        yield from filter(_is_external, (tensor.values, tensor.indices))
    for node in graph.node:
        for attribute in node.attribute:
            yield from filter(_is_external, (attribute.t, *attribute.tensors))
            for body in (attribute.g, *attribute.graphs):
                yield from filter(_is_external, body.initializer)
                yield from _external_tensors(body)


def _is_external(tensor: Any) -> bool:
    return tensor.data_location == _EXTERNAL
