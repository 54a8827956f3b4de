"""IR graphs as ONNX models: the way back, valid by ONNX's own checker.

Each IR node becomes one or a few ONNX nodes (the rules are in `export_*`); composites that ONNX
does not have are exported in parts. What has no counterpart is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tilth.onnx.export_compute
import tilth.onnx.export_control
import tilth.onnx.export_elementwise
import tilth.onnx.export_movement  # noqa: F401  (these four fill the table of rules)
from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph
from tilth.onnx.export_core import GraphExporter, Target, info
from tilth.onnx.registry import NEWEST_OPSETS

OLDEST_OPSET = 21
_INLINE_BYTES = 2_000_000_000  # with more weights than this a file would not be a protobuf
_ALIGNMENT = 4096  # of external tensors, so that they can be memory-mapped one by one


def export_model(graph: Graph, opset: int | None = None) -> Any:
    """The graph as an `onnx.ModelProto` that holds its weights.

    `opset` is 21 or newer; by default the newest that both the installed `onnx` and Tilth know.
    Raises UnsupportedError for another one and for nodes that ONNX has no counterpart of.
    """
    proto, weights = _model(graph, opset)
    _add_weights(proto, weights)
    return proto


def save_model(graph: Graph, path: str | Path, opset: int | None = None) -> Any:
    """Write the graph as an ONNX file; more than 2 GB of weights go into a file beside it.

    Gives the proto as written. Raises what `export_model` raises, and OSError.
    """
    path = Path(path)
    proto, weights = _model(graph, opset)
    if sum(a.nbytes for a in weights.values()) > _INLINE_BYTES:
        _add_external_weights(proto, weights, path.with_name(path.name + ".data"))
    else:
        _add_weights(proto, weights)
    path.write_bytes(proto.SerializeToString())
    return proto


def _add_weights(proto: Any, weights: Mapping[str, np.ndarray]) -> None:
    from onnx.numpy_helper import from_array

    proto.graph.initializer.extend(from_array(array, name) for name, array in weights.items())


def _add_external_weights(proto: Any, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the weights one by one to `path`, and refer to it; strings stay in the proto."""
    from onnx.numpy_helper import from_array

    with path.open("wb") as file:
        for name, array in weights.items():
            tensor = from_array(array, name)
            if array.dtype != object:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                file.write(_moved_out(tensor, path.name, file.tell()))
            proto.graph.initializer.append(tensor)


def _moved_out(tensor: Any, location: str, offset: int) -> bytes:
    """Make a tensor one whose data lies in another file; gives the data."""
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = 1  # TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", len(raw))):
        tensor.external_data.add(key=key, value=str(value))
    return raw


def _model(graph: Graph, opset: int | None) -> tuple[Any, Mapping[str, np.ndarray]]:
    """The model without its weights, and these."""
    import onnx
    import onnx.helper

    newest = min(onnx.defs.onnx_opset_version(), NEWEST_OPSETS[""])
    opset = newest if opset is None else opset
    if not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedError(f"opset {opset}: models are exported for {OLDEST_OPSET} to {newest}")
    target = Target(opset, used={*graph.input_names, *graph.output_names})
    exporter = GraphExporter(target, {v: v.node.name for v in graph.inputs})
    results = exporter.inline(graph, graph.input_names)
    _name_outputs(exporter, graph.output_names, results)
    inputs = [info(v.node.name, v.type) for v in graph.inputs]
    outputs = [
        info(name, v.type) for name, v in zip(graph.output_names, graph.outputs, strict=True)
    ]
    proto = exporter.proto(graph.name or "main", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(proto, opset_imports=opsets, producer_name="tilth")
    model.ir_version = onnx.helper.find_min_ir_version_for(opsets)
    read = set(_reads(proto))
    return model, {name: array for name, array in target.weights.items() if name in read}


def _reads(graph: Any) -> Iterator[str]:
    """The names that nodes read, and those in graphs inside them."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _reads(attribute.g)


def _name_outputs(exporter: GraphExporter, names: Sequence[str], results: Sequence[str]) -> None:
    """Give the values `results` the names of the graph's outputs.

    A value that a node makes is renamed; an input, a weight, or one with two names is copied.
    """
    made = {output for node in exporter.nodes for output in node.output}
    renamed: dict[str, str] = {}
    copies = []
    for name, result in zip(names, results, strict=True):
        if result in made and result not in renamed:
            renamed[result] = name
        else:
            copies.append((name, result))
    _rename(exporter.nodes, renamed)
    exporter.infos = [i for i in exporter.infos if i.name not in renamed]
    for name, result in copies:
        exporter.nodes.append(_identity(renamed.get(result, result), name))


def _rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Change names in nodes and in the graphs inside them; all names of a model are distinct."""
    for node in nodes:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g.node, names)


def _identity(source: str, name: str) -> Any:
    import onnx.helper

    return onnx.helper.make_node("Identity", [source], [name], f"output {name}")
