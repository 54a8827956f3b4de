"""The text form of graphs: readable, one node a line, and it parses back to an equal graph.

::

    graph main(%x: f32[2,3], %"odd name": f32[3]) {
      %0 = constant {value = dense f32[] [0.5]} : f32[]
      %1 = multiply(%x, %0) : f32[2,3] @ "scale" from "model.py:7"
      %2, %3 = top_k(%1) {k = 2, axis = 1, largest = true} : f32[2,2], i64[2,2]
      return y = %2
    }

A node may carry its name after `@` and its source after `from`. Sub-graphs are attributes, nested.
Large constants are written as a digest and kept in a dictionary beside the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tilth.ir.errors import ModelError
from tilth.ir.graph import Graph, Node, Value, freeze, make_input
from tilth.ir.types import DTYPES, DType, OptionalType, SequenceType, TensorType, Type, dtype_of

INLINE_ELEMENTS = 16  # larger constants are written as a digest
_BARE = re.compile(r"(?!(?:inf|nan)\Z)[A-Za-z_][A-Za-z0-9_.]*\Z")


def to_text(graph: Graph, constants: dict[str, np.ndarray] | None = None) -> str:
    """The graph as text. Large constants are collected in `constants`, keyed by digest."""
    return "\n".join(_Printer({} if constants is None else constants).graph(graph)) + "\n"


def digest(array: np.ndarray) -> str:
    """A name for an array: a hash of its dtype, shape and elements (128 bits, hex)."""
    header = f"{array.dtype.name}{array.shape}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()[:32]


def _name(text: str) -> str:
    return text if _BARE.match(text) else json.dumps(text)


class _Printer:
    def __init__(self, constants: dict[str, np.ndarray]) -> None:
        self.constants = constants

    def graph(self, graph: Graph, indent: str = "") -> Iterator[str]:
        names = {v: f"%{_name(v.node.name)}" for v in graph.inputs}
        inputs = ", ".join(f"{names[v]}: {_type(v.type)}" for v in graph.inputs)
        yield f"graph {_name(graph.name)}({inputs}) {{"
        count = 0
        for node in graph.nodes:
            for value in node.outputs:
                names[value] = f"%{count}"
                count += 1
            yield f"{indent}  {self.node(node, names, indent + '  ')}"
        outputs = zip(graph.output_names, graph.outputs, strict=True)
        yield f"{indent}  return " + ", ".join(f"{_name(n)} = {names[v]}" for n, v in outputs)
        yield f"{indent}}}"

    def node(self, node: Node, names: Mapping[Value, str], indent: str) -> str:
        results = ", ".join(names[v] for v in node.outputs)
        operands = "(" + ", ".join(names[v] for v in node.inputs) + ")" if node.inputs else ""
        items = ", ".join(f"{k} = {self.attribute(v, indent)}" for k, v in node.attrs.items())
        attrs = f" {{{items}}}" if items else ""
        types = ", ".join(map(_type, node.types))
        name = f" @ {json.dumps(node.name)}" if node.name else ""
        source = f" from {json.dumps(node.source)}" if node.source else ""
        return f"{results} = {node.op}{operands}{attrs} : {types}{name}{source}"

    def attribute(self, value: Any, indent: str) -> str:
        match value:
            case None:
                return "none"
            case bool():
                return "true" if value else "false"
            case int() | float():
                return repr(value)
            case str():
                return json.dumps(value)
            case DType():
                return value.name
            case tuple():
                return "[" + ", ".join(self.attribute(v, indent) for v in value) + "]"
            case Graph():
                return "\n".join(self.graph(value, indent))
            case np.ndarray():
                return self.array(value)
        raise ValueError(f"{value!r} has no text form")

    def array(self, array: np.ndarray) -> str:
        type_ = TensorType(dtype_of(array.dtype), array.shape)
        if array.size <= INLINE_ELEMENTS or type_.dtype.kind == "string":
            elements = ", ".join(_elements(array, type_.dtype))
            return f"dense {type_} [{elements}]"
        key = digest(array)
        self.constants[key] = array
        return f"dense {type_} #{key}"


def _type(type_: Type) -> str:
    if isinstance(type_, TensorType):
        dims = ",".join(str(d) if isinstance(d, int) else _name(d) for d in type_.shape)
        return f"{type_.dtype}[{dims}]"
    kind = "seq" if isinstance(type_, SequenceType) else "opt"
    return f"{kind}<{_type(type_.element)}>"


def _elements(array: np.ndarray, dtype: DType) -> Iterator[str]:
    """Elements in row-major order; complex ones as two numbers, real and imaginary."""
    for x in array.reshape(-1):
        match dtype.kind:
            case "string":
                yield json.dumps(x if isinstance(x, str) else x.decode())
            case "bool":
                yield "true" if x else "false"
            case "complex":
                yield f"{float(x.real)!r}, {float(x.imag)!r}"
            case "float":
                yield repr(float(x))
            case _:
                yield str(int(x))


def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph of a text; digests are looked up in `constants`.

    Raises ModelError with the line when the text is not a graph or a constant is missing. Types are
    taken from the text: run the verifier on text from elsewhere.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph()
    if parser.kind != "end":
        raise parser.error("the end of the text")
    return graph


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<digest>\#[0-9a-f]+)
    |(?P<number>-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|(?:inf|nan)(?![A-Za-z0-9_.])))
    |(?P<word>[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<mark>[%@(){}\[\]<>,:=])
    |(?P<end>\Z))""",
    re.VERBOSE,
)
Label = str | int
_WORDS = {"true": True, "false": False, "none": None}


class _Parser:
    """Recursive descent over tokens; `kind` and `token` are the current one."""

    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text = text
        self.constants = constants
        self.place = 0
        self.kind = ""
        self.token = ""
        self.advance()

    def advance(self) -> str:
        """Move to the next token; gives the one left behind."""
        passed = self.token
        found = _TOKEN.match(self.text, self.place)
        if found is None:
            raise self.error("a token")
        self.kind, self.place = found.lastgroup or "end", found.end()
        self.token = found[self.kind]
        return passed

    def error(self, expected: str) -> ModelError:
        start = self.place - len(self.token)
        line = self.text.count("\n", 0, start) + 1
        return ModelError(f"line {line}: expected {expected}, found {self.text[start:][:20]!r}")

    def expect(self, token: str) -> None:
        if self.token != token:
            raise self.error(repr(token))
        self.advance()

    def accept(self, token: str) -> bool:
        """Skip the token if it is the current one."""
        found = self.token == token
        if found:
            self.advance()
        return found

    def items(self, close: str) -> Iterator[None]:
        """Once per comma-separated item up to the closing mark, which is skipped."""
        while not self.accept(close):
            yield
            if self.token != close:
                self.expect(",")

    def name(self) -> str:
        if self.kind == "string":
            return self.string()
        if self.kind not in ("word", "number"):
            raise self.error("a name")
        return self.advance()

    def string(self) -> str:
        if self.kind != "string":
            raise self.error("a string")
        return json.loads(self.advance())

    def graph(self) -> Graph:
        self.expect("graph")
        name = self.name()
        inputs: list[Value] = []
        self.expect("(")
        for _ in self.items(")"):
            label = str(self.label())
            self.expect(":")
            inputs.append(make_input(self.type(), label))
        values: dict[Label, Value] = {v.node.name: v for v in inputs}
        self.expect("{")
        while not self.accept("return"):
            self.node(values)
        outputs, output_names = [], []
        for _ in self.items("}"):
            output_names.append(self.name())
            self.expect("=")
            outputs.append(self.value(values))
        return Graph(tuple(inputs), tuple(outputs), tuple(output_names), name)

    def value(self, values: Mapping[Label, Value]) -> Value:
        label = self.label()
        if label not in values:
            raise self.error(f"a value defined above instead of %{label}")
        return values[label]

    def label(self) -> Label:
        """What stands after `%`: the number of a result or the name of an input."""
        self.expect("%")
        return int(self.advance()) if self.kind == "number" else self.name()

    def node(self, values: dict[Label, Value]) -> None:
        labels = [self.label()]
        while self.accept(","):
            labels.append(self.label())
        self.expect("=")
        op_name = self.name()
        inputs = []
        if self.accept("("):
            inputs = [self.value(values) for _ in self.items(")")]
        attrs = {}
        if self.accept("{"):
            for _ in self.items("}"):
                key = self.name()
                self.expect("=")
                attrs[key] = self.attribute()
        self.expect(":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        if len(types) != len(labels):
            raise self.error(f"{len(labels)} types")
        name = self.string() if self.accept("@") else ""
        source = self.string() if self.accept("from") else ""
        node = Node(op_name, tuple(inputs), freeze(attrs), tuple(types), name, source)
        values.update(zip(labels, node.outputs, strict=True))

    def attribute(self) -> Any:
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            return self.number()
        if self.accept("["):
            return tuple(self.attribute() for _ in self.items("]"))
        if self.token == "graph":
            return self.graph()
        if self.accept("dense"):
            return self.array()
        if self.token in _WORDS:
            return _WORDS[self.advance()]
        return self.dtype()

    def number(self) -> int | float:
        token = self.advance()
        return int(token) if token.lstrip("-").isdigit() else float(token)

    def dtype(self) -> DType:
        if self.token not in DTYPES:
            raise self.error("an attribute value or a dtype")
        return DTYPES[self.advance()]

    def type(self) -> Type:
        if self.accept("seq"):
            return SequenceType(self.element_type())
        if self.accept("opt"):
            return OptionalType(self.element_type())
        dtype = self.dtype()
        self.expect("[")
        dims = [self.number() if self.kind == "number" else self.name() for _ in self.items("]")]
        return TensorType(dtype, tuple(dims))  # type: ignore[arg-type]

    def element_type(self) -> Type:
        self.expect("<")
        element = self.type()
        self.expect(">")
        return element

    def array(self) -> np.ndarray:
        type_ = self.type()
        if self.kind == "digest":
            if self.token[1:] not in self.constants:
                raise self.error("the digest of a known constant")
            return self.constants[self.advance()[1:]]
        self.expect("[")
        elements = [self.attribute() for _ in self.items("]")]
        assert isinstance(type_, TensorType)
        return _from_elements(elements, type_)


def _from_elements(elements: list[Any], type_: TensorType) -> np.ndarray:
    match type_.dtype.kind:
        case "complex":
            flat = np.array(elements, np.float64).view(np.complex128)
        case "float":
            flat = np.array(elements, np.float64)
        case "int":
            flat = np.array(elements, np.int64)
        case "uint":
            flat = np.array(elements, np.uint64)
        case _:
            flat = np.array(elements, type_.dtype.numpy)
    return flat.astype(type_.dtype.numpy).reshape(type_.dims)
