"""The digest of a model: SHA-256 over the proto and every external tensor it refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tilth.onnx.load import OnnxModel
from tilth.onnx.tensors import tensor_array

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


def model_digest(model: OnnxModel) -> str:
    """Equal for models that say the same, wherever their files lie. Raises ModelError."""
    digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    for tensor in _external_tensors(model.proto.graph):
        array = tensor_array(tensor, model.files, f"initialiser '{tensor.name}'")
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


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
