"""What stands behind each node: a handler, a function in the model, or ONNX's own function body.

The whole model is resolved before anything is built, so that one error can list everything that is
missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tilth.onnx.host
import tilth.onnx.ops  # noqa: F401
from tilth.ir.errors import ModelError, UnsupportedError
from tilth.onnx.check import MAX_DEPTH, domain_of, node_label, opset_imports, subgraphs
from tilth.onnx.custom import load_entry_points
from tilth.onnx.load import OnnxModel
from tilth.onnx.registry import NEWEST_OPSETS, Handler, handler_for


@dataclass(frozen=True, eq=False)
class Function:
    """A function body with the opsets it was written for and defaults for its attributes."""

    proto: Any
    opsets: Mapping[str, int]
    defaults: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ContextFunction:
    """An operator whose ONNX function body depends on the types of its operands."""

    schema: Any
    version: int

    def specialise(
        self, node: Any, input_types: list[bytes], opsets: Mapping[str, int]
    ) -> Function | None:
        """The body for these operand types (serialised TypeProtos), if ONNX can make one.

        It sees the opsets of its caller where it does not import its own.
        """
        import onnx

        try:
            data = self.schema.get_context_dependent_function_with_opset_version(
                self.version, node.SerializeToString(), input_types
            )
        except (ValueError, RuntimeError) as e:  # what ONNX raises for attributes without sense
            raise ModelError(f"{node_label(node)}: {e}") from e
        if not data:
            return None
        proto = onnx.FunctionProto()
        proto.ParseFromString(data)
        return Function(proto, {**opsets, **opset_imports(proto)}, {})


Meaning = Handler | Function | ContextFunction


@dataclass
class Missing:
    """Unsupported operators: (domain, name, opset) to the labels of the nodes that use them."""

    nodes: dict[tuple[str, str, int], list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        for (domain, name, version), labels in sorted(self.nodes.items()):
            shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if labels[3:] else "")
            lines.append(f"  {domain or 'ai.onnx'}::{name} (opset {version}): {shown}")
        return "\n".join(lines)


class Resolver:
    """Finds the meaning of nodes, remembering it per operator."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._local = {
            (domain_of(f), f.name, f.overload): Function(
                f, opset_imports(f), {a.name: a for a in f.attribute_proto}
            )
            for f in model.proto.functions
        }
        self._standard: dict[tuple[str, str, int], Meaning | None] = {}

    def resolve(self, node: Any, opsets: Mapping[str, int]) -> Meaning | None:
        """The meaning of `node` under these opset imports; a model's own functions come first."""
        domain = domain_of(node)
        local = self._local.get((domain, node.op_type, node.overload))
        if local is not None:
            return local
        if domain not in opsets:
            raise ModelError(
                f"{node_label(node)}: the model imports no version of operator set "
                f"'{domain or 'ai.onnx'}'"
            )
        key = (domain, node.op_type, opsets[domain])
        if key not in self._standard:
            self._standard[key] = handler_for(*key) or _function_body(*key) or _installed(*key)
        return self._standard[key]

    def require_supported(self) -> None:
        """Raise one UnsupportedError that lists every operator without a meaning here."""
        opsets = self.model.opsets or {"": 1}
        for domain, version in opsets.items():
            if version > NEWEST_OPSETS.get(domain, version):
                raise UnsupportedError(
                    f"the model needs opset {version} of '{domain or 'ai.onnx'}'; the newest "
                    f"known here is {NEWEST_OPSETS[domain]}"
                )
        missing = Missing()
        self._scan(self.model.proto.graph.node, opsets, missing, [], set())
        if missing.nodes:
            raise UnsupportedError(f"the model uses unsupported operators:\n{missing}")

    def _scan(
        self,
        nodes: Iterable[Any],
        opsets: Mapping[str, int],
        missing: Missing,
        calls: list[Function],
        done: set[int],
        depth: int = 0,
    ) -> None:
        """Visit nodes, their sub-graphs and the functions they call (each function once)."""
        if depth > MAX_DEPTH:
            raise ModelError(f"functions and sub-graphs are nested deeper than {MAX_DEPTH}")
        for node in nodes:
            meaning = self.resolve(node, opsets)
            if meaning is None:
                key = (domain_of(node), node.op_type, opsets[domain_of(node)])
                missing.nodes.setdefault(key, []).append(node.name or next(iter(node.output), ""))
            elif isinstance(meaning, Function) and meaning in calls:
                raise ModelError(f"{node_label(node)}: function '{node.op_type}' calls itself")
            elif isinstance(meaning, Function) and id(meaning) not in done:
                body = meaning.proto.node
                self._scan(body, meaning.opsets, missing, [*calls, meaning], done, depth + 1)
                done.add(id(meaning))
            for graph in subgraphs(node):
                self._scan(graph.node, opsets, missing, calls, done, depth + 1)


def _installed(domain: str, name: str, version: int) -> Handler | None:
    """The handler of an operator that an installed package brings along."""
    load_entry_points()
    return handler_for(domain, name, version)


def _function_body(domain: str, name: str, version: int) -> Function | ContextFunction | None:
    """The function body that the ONNX standard gives for an operator, if it gives one."""
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None
    opsets = {domain: version}
    bodies = [v for v in schema.function_opset_versions if v <= version]
    if bodies:
        proto = onnx.FunctionProto()
        proto.ParseFromString(schema.get_function_with_opset_version(max(bodies)))
        defaults = {
            a.name: a.default_value for a in schema.attributes.values() if a.default_value.type
        }
        return Function(proto, {**opsets, **opset_imports(proto)}, defaults)
    bodies = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    return ContextFunction(schema, max(bodies)) if bodies else None
