"""The values inside a model as ONNX Runtime computes them, without its graph optimisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.ir.errors import TilthError
from tilth.onnx.load import OnnxModel

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


def onnxruntime_values(
    model: OnnxModel, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors called `names`, from one run. Raises TilthError when that is not possible."""
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise TilthError("onnxruntime is not installed: pip install onnxruntime") from e
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if model.path is not None:
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(model.path.resolve().parent))
    try:
        exposed = _exposed(model.proto, names).SerializeToString()
        session = ort.InferenceSession(exposed, options, providers=["CPUExecutionProvider"])
        results = session.run(list(names), dict(feeds))
    except Exception as e:  # onnxruntime has an exception class for each status code
        raise TilthError(f"onnxruntime cannot run the model: {e}") from e
    pairs = zip(names, results, strict=True)
    return {name: array for name, array in pairs if isinstance(array, np.ndarray)}


def _exposed(proto: Any, names: Sequence[str]) -> Any:
    """A copy of the model with these values as outputs."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    outputs = {o.name for o in proto.graph.output}
    for name in names:
        if name not in outputs:
            copy.graph.output.add(name=name)
    return copy
