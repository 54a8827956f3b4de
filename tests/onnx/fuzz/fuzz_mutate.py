"""Mutations of valid models: of their structure, of the fields of their messages, of their bytes.

Structural mutations know what an ONNX file means and aim at what a loader trusts too easily: sizes,
types, names, nesting. Everything is drawn from one seeded generator, so a case is its number.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from fuzz_seeds import Seed
from google.protobuf.descriptor import FieldDescriptor

EXTENTS = (0, 1, 2, 3, -1, -2, 7, 255, 65536, 10**6, 2**31 - 1, 2**31, 2**32, 2**40, 2**62,
           2**63 - 1, -(2**63))  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "x", "y", "linear", "constant", "SAME_UPPER", "..", "../../etc/passwd", "\0",
         "i,j->", "é" * 40, "x" * 1000)  # fmt: skip
LOCATIONS = ("weights.bin", "../weights.bin", "/etc/passwd", "a/../../b", "", ".", "\0", "nul\0l",
             "C:\\x", "weights.bin/", "x" * 5000, "model.onnx", "fifo", "link")  # fmt: skip
OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas()})

Mutation = Callable[[onnx.ModelProto, random.Random, Sequence[Seed]], Any]


def mutated(seeds: Sequence[Seed], number: int, base: int = 0) -> bytes:
    """The bytes of case `number`."""
    rng = random.Random(f"{base}:{number}")
    seed = rng.choice(seeds)
    proto = seed.proto()
    if seed.values and rng.random() < 0.6:
        _fix_inputs(proto, seed, rng)
    if rng.random() < 0.9:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
            rng.choice(STRUCTURAL)(proto, rng, seeds)
    data = proto.SerializeToString()
    if rng.random() < 0.15:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data = _change_bytes(data, rng, seeds)
    return data


def graphs_of(proto: onnx.ModelProto) -> list[Any]:
    """The graph, its sub-graphs and the bodies of functions: whatever has `.node`."""
    found = [proto.graph, *proto.functions]
    for graph in found:
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.g] if attribute.HasField("g") else []
                found += attribute.graphs
    return found


def _graph(proto: onnx.ModelProto, rng: random.Random) -> Any:
    return rng.choice(graphs_of(proto))


def _node(proto: onnx.ModelProto, rng: random.Random) -> Any:
    nodes = [node for graph in graphs_of(proto) for node in graph.node]
    return rng.choice(nodes) if nodes else proto.graph.node.add(op_type="Relu")


def _tensors(proto: onnx.ModelProto) -> list[Any]:
    found = [t for g in graphs_of(proto) for t in getattr(g, "initializer", ())]
    found += [a.t for g in graphs_of(proto) for n in g.node for a in n.attribute if a.HasField("t")]
    for sparse in proto.graph.sparse_initializer:
        found += [sparse.values, sparse.indices]
    return found


def _names(proto: onnx.ModelProto) -> list[str]:
    names = [n for g in graphs_of(proto) for node in g.node for n in (*node.input, *node.output)]
    return [*names, *(t.name for t in proto.graph.initializer), "", "nowhere"]


def _infos(proto: onnx.ModelProto) -> list[Any]:
    return [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]


def _integer(rng: random.Random) -> int:
    return rng.choice(EXTENTS) if rng.random() < 0.8 else rng.randrange(-(2**63), 2**63)


def _fix_inputs(proto: onnx.ModelProto, seed: Seed, rng: random.Random) -> None:
    """Make some inputs constants: all but the first, so that shapes and axes are known."""
    for value in seed.values[rng.choice((0, 1, 1)) :]:
        proto.graph.initializer.append(value)


def change_extent(proto: Any, rng: random.Random, seeds: Any) -> None:
    dims = [d for t in _tensors(proto) for d in [t.dims] if len(t.dims)]
    shapes = [i.type.tensor_type.shape for i in _infos(proto)]
    if dims and rng.random() < 0.5:
        chosen = rng.choice(dims)
        chosen[rng.randrange(len(chosen))] = _integer(rng)
    elif shapes and (shape := rng.choice(shapes)).dim:
        rng.choice(shape.dim).dim_value = _integer(rng)


def change_rank(proto: Any, rng: random.Random, seeds: Any) -> None:
    shape = rng.choice(_infos(proto) or [onnx.ValueInfoProto()]).type.tensor_type.shape
    if rng.random() < 0.5 and shape.dim:
        del shape.dim[rng.randrange(len(shape.dim))]
    else:
        for _ in range(rng.choice((1, 1, 30, 100))):
            shape.dim.add(dim_value=rng.choice((1, 2)))


def change_type(proto: Any, rng: random.Random, seeds: Any) -> None:
    number = rng.choice((*range(-1, 28), 10**6))
    if rng.random() < 0.5 and (infos := _infos(proto)):
        rng.choice(infos).type.tensor_type.elem_type = number
    elif tensors := _tensors(proto):
        rng.choice(tensors).data_type = number


def change_values(proto: Any, rng: random.Random, seeds: Any) -> None:
    """New elements of the right number: shapes, axes and pads are what matters."""
    tensors = [t for t in _tensors(proto) if t.data_type in (1, 6, 7, 11)]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    count = 1
    for dim in tensor.dims:
        count *= max(0, min(dim, 64))
    field = {1: "float_data", 6: "int32_data", 7: "int64_data", 11: "double_data"}[tensor.data_type]
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(name)
    for _ in range(min(count, 64)):
        value: Any = rng.choice(FLOATS) if tensor.data_type in (1, 11) else _integer(rng)
        if tensor.data_type == 6:
            value = max(-(2**31), min(2**31 - 1, value))
        getattr(tensor, field).append(value)


def change_size_of_data(proto: Any, rng: random.Random, seeds: Any) -> None:
    tensors = [t for t in _tensors(proto) if t.raw_data]
    if tensors:
        tensor = rng.choice(tensors)
        raw = tensor.raw_data
        tensor.raw_data = rng.choice((raw[:-1], raw + b"\0", b"", raw * 3, raw[: len(raw) // 2]))


def change_external_data(proto: Any, rng: random.Random, seeds: Any) -> None:
    tensors = _tensors(proto)
    if not tensors:
        return
    tensor = rng.choice(tensors)
    tensor.data_location = 1
    values = {
        "location": rng.choice(LOCATIONS),
        "offset": rng.choice((str(_integer(rng)), "0", "16", "1e3", "", "0x10", "٣")),
        "length": rng.choice((str(_integer(rng)), "16", "-1")),
        "checksum": "0",
    }
    for key in rng.sample(sorted(values), rng.randrange(1, 4)):
        tensor.external_data.add(key=key, value=values[key])


def rewire(proto: Any, rng: random.Random, seeds: Any) -> None:
    """Another operand (a cycle, a dangling name, a wrong type), or one more or less."""
    node = _node(proto, rng)
    name = rng.choice(_names(proto))
    if node.input and rng.random() < 0.7:
        node.input[rng.randrange(len(node.input))] = name
    elif node.input and rng.random() < 0.5:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.input.append(name)


def rename_output(proto: Any, rng: random.Random, seeds: Any) -> None:
    node = _node(proto, rng)
    name = rng.choice(_names(proto))
    if node.output and rng.random() < 0.8:
        node.output[rng.randrange(len(node.output))] = name
    else:
        node.output.append(name)


def change_operator(proto: Any, rng: random.Random, seeds: Any) -> None:
    node = _node(proto, rng)
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.1:
        node.domain = rng.choice(("", "local", "ai.onnx.ml", "com.microsoft", "nowhere"))


def remove_or_repeat_node(proto: Any, rng: random.Random, seeds: Any) -> None:
    graph = _graph(proto, rng)
    if not graph.node:
        return
    place = rng.randrange(len(graph.node))
    if rng.random() < 0.4:
        del graph.node[place]
        return
    node = graph.node.add()
    node.CopyFrom(graph.node[place])
    if rng.random() < 0.8:  # a chain: the copy reads the original's result
        renamed = [f"{o}_{len(graph.node)}" for o in node.output]
        node.input[:1] = node.output[:1] or node.input[:1]
        node.output[:] = renamed


def change_attribute(proto: Any, rng: random.Random, seeds: Any) -> None:
    node = _node(proto, rng)
    if not node.attribute or rng.random() < 0.2:
        _add_attribute(node, rng)
        return
    attribute = rng.choice(node.attribute)
    kind = rng.randrange(7)
    if kind == 0:
        attribute.type = rng.randrange(15)
    elif kind == 1:
        node.attribute.remove(attribute)
    elif kind == 2 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = _integer(rng)
    elif kind == 3:
        attribute.ints.extend(_integer(rng) for _ in range(rng.choice((1, 2, 40))))
    elif kind == 4:
        attribute.ref_attr_name = rng.choice(TEXTS)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = _integer(rng)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice((*(t.encode() for t in TEXTS), b"\xff\xfe"))
    elif attribute.ints:
        attribute.ints[:] = [_integer(rng) for _ in attribute.ints]


def _add_attribute(node: Any, rng: random.Random) -> None:
    """One that the operator knows, with a value of any kind."""
    names = ["axis", "axes", "perm", "pads"]
    if node.op_type in OPERATORS and onnx.defs.has(node.op_type, node.domain):
        names = [*onnx.defs.get_schema(node.op_type, node.domain).attributes] or names
    value = rng.choice((_integer(rng), rng.choice(FLOATS), rng.choice(TEXTS), [_integer(rng)] * 2))
    del node.attribute[50:]
    node.attribute.append(onnx.helper.make_attribute(rng.choice(names), value))


def change_version(proto: Any, rng: random.Random, seeds: Any) -> None:
    version = rng.choice((*range(1, 30), 0, -1, 10**9))
    if rng.random() < 0.8 and proto.opset_import:
        rng.choice(proto.opset_import).version = version
    else:
        proto.ir_version = version


def swap_input_and_weight(proto: Any, rng: random.Random, seeds: Any) -> None:
    if proto.graph.initializer and rng.random() < 0.5:
        tensor = proto.graph.initializer.pop(rng.randrange(len(proto.graph.initializer)))
        dims = [max(0, d) for d in tensor.dims]
        made = onnx.helper.make_tensor_value_info(tensor.name, max(1, tensor.data_type), dims)
        proto.graph.input.append(made)
    elif proto.graph.input:
        info = proto.graph.input.pop(rng.randrange(len(proto.graph.input)))
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        kind = info.type.tensor_type.elem_type
        proto.graph.initializer.add(name=info.name, data_type=kind, dims=dims)


def nest(proto: Any, rng: random.Random, seeds: Any) -> None:
    """Put a node into conditionals inside conditionals."""
    graph = _graph(proto, rng)
    if not graph.node:
        return
    place = rng.randrange(len(graph.node))
    outputs = list(graph.node[place].output)[:1] or ["y"]
    for level in range(rng.choice((1, 1, 2, 10, 25, 40))):
        body = onnx.GraphProto(name="body")
        body.node.add().CopyFrom(graph.node[place])
        inner = [f"{o}.{level}" for o in outputs]
        body.node[0].output[:1] = inner
        body.output.add(name=inner[0])
        node = onnx.NodeProto(op_type="If", input=["c"], output=outputs)
        for name in ("then_branch", "else_branch")[: 1 if level > 4 else 2]:
            attribute = node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH)
            attribute.g.CopyFrom(body)
        graph.node[place].CopyFrom(node)
    if rng.random() < 0.5:
        proto.graph.initializer.add(name="c", data_type=9, int32_data=[1])
    else:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("c", 9, []))


def call_functions(proto: Any, rng: random.Random, seeds: Any) -> None:
    """Functions that call each other: in a chain that doubles at each step, or in a circle."""
    depth, calls = rng.choice(((3, 2), (20, 2), (40, 1), (100, 1), (12, 4), (2, 300)))
    circle = rng.random() < 0.3
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("bomb", 1)]
    for level in range(depth):
        last = level == depth - 1 and not circle
        target = "Neg" if last else f"f{(level + 1) % depth}"
        names = ["a", *(f"v{i}" for i in range(calls - 1)), "b"]
        nodes = [
            onnx.helper.make_node(target, [x], [y], domain="" if last else "bomb")
            for x, y in itertools.pairwise(names)
        ]
        made = onnx.helper.make_function("bomb", f"f{level}", ["a"], ["b"], nodes, imports)
        proto.functions.append(made)
    proto.opset_import.add(domain="bomb", version=1)
    node = _node(proto, rng)
    node.op_type, node.domain = "f0", "bomb"
    del node.input[1:], node.output[1:], node.attribute[:]


def double_again_and_again(proto: Any, rng: random.Random, seeds: Any) -> None:
    """A chain of nodes whose result is twice as big, or takes twice as long, at each step."""
    kind = rng.choice(("Concat", "Tile", "Add", "MatMul"))
    name = rng.choice([i.name for i in proto.graph.initializer] or ["base"])
    if name == "base":
        proto.graph.initializer.add(name="base", data_type=7, dims=[2], int64_data=[2, 2])
    for i in range(rng.choice((3, 12, 40, 64))):
        made = f"doubled{i}_{len(proto.graph.node)}"
        inputs = [name, "base"] if kind == "Tile" else [name, name]
        node = proto.graph.node.add(op_type=kind, input=inputs, output=[made])
        if kind == "Concat":
            node.attribute.append(onnx.helper.make_attribute("axis", 0))
        name = made
    if proto.graph.node and rng.random() < 0.7:
        reader = rng.choice(proto.graph.node)
        reader.input.append(name)


def splice(proto: Any, rng: random.Random, seeds: Sequence[Seed]) -> None:
    """Nodes and weights of another model, fed from this one."""
    other = rng.choice(seeds).proto()
    names = _names(proto)
    for node in other.graph.node:
        added = proto.graph.node.add()
        added.CopyFrom(node)
        added.output[:] = [f"{o}'" if o else "" for o in node.output]
        if added.input and rng.random() < 0.8:
            added.input[0] = rng.choice(names)
    proto.graph.initializer.extend(other.graph.initializer)
    if rng.random() < 0.8 and proto.graph.output and proto.graph.node:
        proto.graph.output[0].name = next(iter(proto.graph.node[-1].output), "")


def change_field(proto: Any, rng: random.Random, seeds: Any) -> None:
    """Any field of any message: its value, its absence, one more of it."""
    message = rng.choice(list(_messages(proto)))
    field = rng.choice(message.DESCRIPTOR.fields)
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.is_repeated:
            getattr(message, field.name).add()
        else:
            getattr(message, field.name).SetInParent()
        return
    value = _field_value(field, rng)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _messages(message: Any, depth: int = 0) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE and depth < 30:
            for child in value if field.is_repeated else (value,):
                yield from _messages(child, depth + 1)


def _field_value(field: Any, rng: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice((0, 1, 2, -1, 2**31 - 1, -(2**31)))
        case FieldDescriptor.CPPTYPE_INT64:
            return _integer(rng)
        case FieldDescriptor.CPPTYPE_UINT64:
            return abs(_integer(rng)) % 2**64
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice(FLOATS)
    text = rng.choice(TEXTS)
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


STRUCTURAL: tuple[Mutation, ...] = (
    *(change_extent, change_rank, change_type, change_values, change_values, change_values),
    *(change_size_of_data, change_external_data, rewire, rename_output, change_operator),
    *(remove_or_repeat_node, change_attribute, change_attribute, change_version),
    *(swap_input_and_weight, nest, call_functions, double_again_and_again, splice, change_field),
    *(change_field, change_field),
)


def _change_bytes(data: bytes, rng: random.Random, seeds: Sequence[Seed]) -> bytes:
    changed = bytearray(data or b"\0")
    place = rng.randrange(len(changed))
    match rng.randrange(6):
        case 0:
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            changed[place] = rng.choice((0, 0x7F, 0x80, 0xFF))
        case 2:
            del changed[place:]
        case 3:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 10)))
        case 4:
            changed[place:place] = changed[place : place + rng.choice((4, 40, 400))]
        case 5:
            other = rng.choice(seeds).model
            changed[place:] = other[rng.randrange(len(other)) :]
    return bytes(changed)
