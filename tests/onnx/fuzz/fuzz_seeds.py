"""Valid models to start from: small ones written here, and those of the official operator tests.

Every seed comes with the values its inputs may take, so that a mutation can turn an input such as
the target of a Reshape into a constant that the importer must look at.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "ai.onnx.ml" : 5, "local" : 1]>'

_TEXTS = Path(__file__).with_name("seeds.txt")  # graph bodies, with functions after them


@dataclass(frozen=True)
class Seed:
    """A model, serialised, and what may be fed to its inputs."""

    name: str
    model: bytes
    values: tuple[onnx.TensorProto, ...] = field(default=())

    def proto(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self.model)


def own_seeds() -> list[Seed]:
    """The small models of `seeds.txt` at an old and a new opset, and two without a text form."""
    seeds = []
    texts = _TEXTS.read_text().split("\n\n")
    for opset in (13, 24):
        for i, text in enumerate(texts):
            proto = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
            seeds.append(Seed(f"own{i}_opset{opset}", proto.SerializeToString()))
    return [*seeds, _sparse(), _external()]


def _sparse() -> Seed:
    proto = onnx.parser.parse_model(
        HEADER.format(opset=20) + "g (float[2,2] x) => (float[2,2] y) { y = Add(x, w) }"
    )
    sparse = proto.graph.sparse_initializer.add(dims=[2, 2])
    sparse.values.CopyFrom(onnx.TensorProto(name="w", data_type=1, dims=[1], float_data=[5]))
    sparse.indices.CopyFrom(onnx.TensorProto(data_type=7, dims=[1], int64_data=[3]))
    return Seed("own_sparse", proto.SerializeToString())


def _external() -> Seed:
    """Its weight lies in `weights.bin`, which every fuzzed file has beside it."""
    proto = onnx.parser.parse_model(
        HEADER.format(opset=20) + "g (float[4] x) => (float[4] y) { y = Add(x, w) }"
    )
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in (("location", "weights.bin"), ("offset", "16"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return Seed("own_external", proto.SerializeToString())


def official_seeds(modules: int | None = None, largest: int = 20_000) -> list[Seed]:
    """The official operator tests (of the first `modules` files), up to `largest` bytes each."""
    import onnx.backend.test.case.node as suite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [m.name for m in pkgutil.iter_modules(suite.__path__) if m.name[0] != "_"]
        for name in names[:modules]:
            importlib.import_module(f"{suite.__name__}.{name}")
    seeds = []
    for case in suite._NodeTestCases:
        values = tuple(_named_values(case))
        data = case.model.SerializeToString()
        if len(data) + sum(v.ByteSize() for v in values) <= largest:
            seeds.append(Seed(case.name, data, values))
    return seeds


def _named_values(case: Any) -> Iterator[onnx.TensorProto]:
    """The inputs of a test's first data set as tensors with the names of the graph's inputs."""
    (inputs, _), *_ = case.data_sets
    for info, value in zip(case.model.graph.input, inputs, strict=False):
        try:
            proto = onnx.numpy_helper.from_array(value, info.name)
        except Exception:  # a sequence, a map, a tensor that is a proto already
            continue
        yield proto
