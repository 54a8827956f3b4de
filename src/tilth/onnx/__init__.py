"""The ONNX adapter: model files and protos in, IR graphs out.

`load_model` reads and checks a model, `import_graph` turns it into a graph for exact shapes, and
`register_op` adds operators of the user's own. Names are imported on first use, so that a process
that finds its model in the cache starts without any of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilth.onnx.custom import register_op, unregister_op
    from tilth.onnx.importer import import_graph
    from tilth.onnx.load import OnnxModel, load_model
    from tilth.onnx.registry import supported_ops
    from tilth.runtime.ports import Port

_HOMES = {
    "OnnxModel": "tilth.onnx.load",
    "Port": "tilth.runtime.ports",
    "import_graph": "tilth.onnx.importer",
    "load_model": "tilth.onnx.load",
    "register_op": "tilth.onnx.custom",
    "supported_ops": "tilth.onnx.registry",
    "unregister_op": "tilth.onnx.custom",
}

__all__ = [
    "OnnxModel",
    "Port",
    "import_graph",
    "load_model",
    "register_op",
    "supported_ops",
    "unregister_op",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tilth.onnx' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
