"""Which operators this process was told about, and whether a model uses them."""

from __future__ import annotations

from typing import Any

REGISTERED: set[tuple[str, str]] = set()  # (domain, name); `custom` enters them


def uses_registered_ops(proto: Any) -> bool:
    """Whether a ModelProto has nodes that mean what this process was told.

    Their code is not part of the model, so nothing made of it may be kept on disk.
    """
    from tilth.onnx.check import subgraphs

    bodies = [proto.graph, *proto.functions] if REGISTERED else []
    while bodies:
        for node in bodies.pop().node:
            if (node.domain, node.op_type) in REGISTERED:
                return True
            bodies += subgraphs(node)
    return False
