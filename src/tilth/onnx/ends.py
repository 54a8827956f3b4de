"""Maps and lists at the ends of a model: dictionaries go in, lists come out.

The standard has operators that read a map (DictVectorizer, CastMap) and one that makes a list of
them (ZipMap), but none in between; and a list that is only made to be an output is as well made
outside. So these are taken off a model: what remains has tensors at its ends, and here is what
turns dictionaries into these tensors, and tensors into dictionaries and lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilth.ir.errors import InputError, ModelError
from tilth.onnx.load import OnnxModel
from tilth.onnx.tensors import element_type

_FLOAT, _INT64, _STRING, _DOUBLE = 1, 7, 8, 11  # TensorProto.DataType
_MAPPED = (_FLOAT, _INT64, _STRING, _DOUBLE)
_CASTS = {"TO_FLOAT": _FLOAT, "TO_STRING": _STRING, "TO_INT64": _INT64}


@dataclass(frozen=True)
class MapReader:
    """Makes the tensor input of a model out of the dictionary that is fed as `source`."""

    source: str
    read: Callable[[Mapping[Any, Any]], np.ndarray]

    def __call__(self, feeds: Mapping[str, Any]) -> np.ndarray:
        fed = feeds.get(self.source)
        if not isinstance(fed, Mapping):
            raise InputError(
                f"input '{self.source}': expected a dictionary, got {type(fed).__name__}"
            )
        try:
            return self.read(fed)
        except (TypeError, ValueError, IndexError) as e:
            raise InputError(f"input '{self.source}': {e}") from e


@dataclass(frozen=True)
class MapWriter:
    """Makes a list with a dictionary per row out of a tensor output."""

    sources: tuple[str]
    labels: Sequence[int | str]

    def __call__(self, results: Mapping[str, np.ndarray]) -> list[dict[int | str, float]]:
        rows = np.atleast_2d(results[self.sources[0]])
        if rows.shape[1] != len(self.labels):
            raise ModelError(f"ZipMap: {rows.shape[1]} columns, but {len(self.labels)} labels")
        return [dict(zip(self.labels, row, strict=True)) for row in rows.tolist()]


@dataclass(frozen=True)
class ListWriter:
    """Makes a list of several tensor outputs."""

    sources: tuple[str, ...]

    def __call__(self, results: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [results[name] for name in self.sources]


Writer = MapWriter | ListWriter


@dataclass(frozen=True)
class TensorModel:
    """A model of tensors, and how its ends are made of the original one's and into them."""

    model: OnnxModel
    readers: Mapping[str, MapReader]
    writers: Mapping[str, Writer]

    def tensors(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The feeds with tensors in the place of dictionaries. InputError if they are none."""
        sources = {reader.source for reader in self.readers.values()}
        given = {name: fed for name, fed in feeds.items() if name not in sources}
        return given | {name: read(feeds) for name, read in self.readers.items()}

    def completed(self, results: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The results and the lists made of them."""
        return {**results, **{name: write(results) for name, write in self.writers.items()}}


def with_tensor_ends(model: OnnxModel) -> TensorModel:
    """Take maps and lists off a model's ends; one without any stays as it is."""
    graph = model.proto.graph
    if not any(port.container for port in (*model.inputs, *model.outputs)):
        return TensorModel(model, {}, {})
    fed = {v.name: v.type.map_type for v in graph.input if v.type.HasField("map_type")}
    wanted = {v.name: v.type for v in graph.output}
    readers: dict[str, MapReader] = {}
    writers: dict[str, Writer] = {}
    types: dict[str, int] = {}
    nodes = []
    for node in graph.node:
        output = node.output[0] if node.output else ""
        if node.op_type in _READERS and node.input[0] in fed:
            read, types[output] = _READERS[node.op_type](_Attributes(node), fed[node.input[0]])
            readers[output] = MapReader(node.input[0], read)
        elif node.op_type == "ZipMap" and output in wanted:
            labels = _Attributes(node).one_of("classlabels_strings", "classlabels_int64s")
            writers[output] = MapWriter((node.input[0],), labels)
            types[node.input[0]] = _FLOAT
        elif node.op_type == "SequenceConstruct" and output in wanted:
            writers[output] = ListWriter(tuple(node.input))
            elem_type = wanted[output].sequence_type.elem_type.tensor_type.elem_type
            types.update(dict.fromkeys(node.input, elem_type))
        else:
            nodes.append(node)
    return TensorModel(_rebuilt(model, nodes, readers, writers, types), readers, writers)


def _rebuilt(
    model: OnnxModel,
    nodes: Sequence[Any],
    readers: Mapping[str, MapReader],
    writers: Mapping[str, Writer],
    types: Mapping[str, int],
) -> OnnxModel:
    """The model with these nodes, and the readers' and writers' tensors at its ends."""
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend(v for v in model.proto.graph.input if not v.type.HasField("map_type"))
    graph.output.extend(v for v in model.proto.graph.output if v.name not in writers)
    for name in readers:
        _add_tensor(graph.input, name, types[name])
    sources = (name for writer in writers.values() for name in writer.sources)
    for name in dict.fromkeys(sources):
        if name not in {v.name for v in graph.output}:
            _add_tensor(graph.output, name, types[name])
    return replace(model, proto=proto)


def _add_tensor(ends: Any, name: str, elem_type: int) -> None:
    """Add a tensor of unknown shape to the inputs or outputs of a graph."""
    info = ends.add()
    info.name = name
    info.type.tensor_type.elem_type = elem_type


class _Attributes:
    """A node's attributes by name, as Python values."""

    def __init__(self, node: Any) -> None:
        import onnx.helper

        self._node = node
        self._values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def get(self, name: str, default: Any) -> Any:
        value = self._values.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def one_of(self, strings: str, integers: str) -> list[int | str]:
        """A list of strings, or else one of integers. ModelError if both are empty."""
        found = self._values.get(strings) or self._values.get(integers)
        if not found:
            raise ModelError(f"{self._node.op_type} has neither {strings} nor {integers}")
        return [x.decode() if isinstance(x, bytes) else int(x) for x in found]


_Read = Callable[[Mapping[Any, Any]], np.ndarray]


def _dict_vectorizer(attributes: _Attributes, kind: Any) -> tuple[_Read, int]:
    """The values in the order of a vocabulary, zeros for missing keys: [1, vocabulary]."""
    vocabulary = attributes.one_of("string_vocabulary", "int64_vocabulary")
    elem_type = kind.value_type.tensor_type.elem_type
    if elem_type not in _MAPPED:
        raise ModelError("DictVectorizer takes maps to floats, doubles, int64s or strings")
    dtype = element_type(elem_type, "the values of a map").numpy
    zero = "" if elem_type == _STRING else 0

    def read(fed: Mapping[Any, Any]) -> np.ndarray:
        return np.array([[fed.get(key, zero) for key in vocabulary]], dtype)

    return read, elem_type


def _cast_map(attributes: _Attributes, kind: Any) -> tuple[_Read, int]:
    """The values in the order of their integer keys, or at the places that the keys say: [1, C]."""
    cast = attributes.get("cast_to", "TO_FLOAT")
    if cast not in _CASTS:
        raise ModelError(f"CastMap: cast_to '{cast}' is none of {', '.join(_CASTS)}")
    dtype = element_type(_CASTS[cast], "CastMap").numpy
    convert = str if cast == "TO_STRING" else float if cast == "TO_FLOAT" else int
    sparse, size = attributes.get("map_form", "DENSE") == "SPARSE", attributes.get("max_map", 1)

    def read(fed: Mapping[Any, Any]) -> np.ndarray:
        if not sparse:
            return np.array([[convert(fed[key]) for key in sorted(fed)]], dtype)
        row = np.full((1, size), "" if cast == "TO_STRING" else 0, dtype)
        for key, value in fed.items():
            row[0, key] = convert(value)
        return row

    return read, _CASTS[cast]


_READERS: dict[str, Callable[[_Attributes, Any], tuple[_Read, int]]] = {
    "DictVectorizer": _dict_vectorizer,
    "CastMap": _cast_map,
}
