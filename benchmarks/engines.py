"""The engines that are compared: each makes a callable out of a model file and its inputs.

All get the same number of threads, 32-bit floats, their low-latency settings, and their inputs and
outputs as NumPy arrays without a needless copy. Engines are imported inside their functions: each
runs in a process of its own (see `workers`), which must not carry its rivals' memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Feeds = dict[str, np.ndarray]
Run = Callable[[], list[np.ndarray]]
INTEGER_LIMIT = 100  # token ids below this are valid in every vocabulary


def random_feeds(path: Path, seed: int = 0) -> Feeds:
    """Random inputs for a model: floats in [0, 1), integers in [0, 100), unknown dimensions 1."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind in "iu":
            feeds[value.name] = rng.integers(0, INTEGER_LIMIT, shape).astype(dtype)
        else:
            feeds[value.name] = rng.random(shape).astype(dtype)
    return feeds


def tilth(path: Path, feeds: Feeds, threads: int) -> tuple[Run, dict[str, int]]:
    """Tilth; also how many compiled regions, operations outside them, and whether cached."""
    import tilth

    shapes = {name: array.shape for name, array in feeds.items()}
    executable = tilth.load(path).compile("cpu", threads, shapes)
    report = executable.report
    facts = {
        "regions": len(report.regions),
        "host_ops": len(report.host_ops),
        "from_cache": int(report.from_cache),
    }
    return lambda: list(executable(feeds).values()), facts


def onnxruntime(path: Path, feeds: Feeds, threads: int) -> tuple[Run, dict[str, int]]:
    """ONNX Runtime on the CPU, all graph optimisations (its default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds), {}


def openvino(path: Path, feeds: Feeds, threads: int) -> tuple[Run, dict[str, int]]:
    """OpenVINO on the CPU: one stream, latency hint, and no silent bfloat16."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    inputs = [feeds[port.any_name] for port in compiled.inputs]

    def run() -> list[np.ndarray]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [np.array(value) for value in results.values()]  # the buffers are reused: copy

    return run, {}


ENGINES: dict[str, Callable[[Path, Feeds, int], tuple[Run, dict[str, int]]]] = {
    "tilth": tilth,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
