"""The ONNX adapter: model files and protos in, IR graphs out.

`load_model` reads and checks a model, `import_graph` turns it into a graph for exact shapes, and
`register_op` adds operators of the user's own. The `onnx` package itself is imported only when a
model is read, so that importing this room is cheap.
"""

from tilth.onnx.custom import register_op, unregister_op
from tilth.onnx.importer import import_graph
from tilth.onnx.load import OnnxModel, Port, load_model
from tilth.onnx.registry import supported_ops

__all__ = [
    "OnnxModel",
    "Port",
    "import_graph",
    "load_model",
    "register_op",
    "supported_ops",
    "unregister_op",
]
