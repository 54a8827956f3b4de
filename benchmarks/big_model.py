"""How much memory a model of several gigabytes takes to load, to compile and to run.

usage: big_model.py [--gigabytes 3] [--folder DIR] [--json FILE]

Makes a chain of matrix products with random weights in an external file, one of them shared by two
nodes; then each step below happens in a process of its own, whose peak resident memory must stay
below 1.3 times the bytes of the weights. Pages of mapped files count, although the system can drop
them; they are told apart from anonymous memory. The exit code is 1 when a step took more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 4096
BOUND = 1.3  # peak memory over the bytes of the weights
STEPS = {
    "load": "load, and read every weight",
    "compile": "load, compile, run",
    "keep": "the same, and keep it on disk",
    "reuse": "load what was kept, run",
}
_STATUS = Path("/proc/self/status")


def make_model(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """Write the model; gives its path and the bytes of its weights."""
    import onnx.helper

    count = max(1, round(gigabytes * 2**30 / (WIDTH * WIDTH * 4)))
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    with (folder / "big.bin").open("wb") as file:
        for i in range(count):
            weights.append(_external(f"w{i}", file.tell()))
            file.write((rng.random((WIDTH, WIDTH), np.float32) - np.float32(0.5)).data)
        size = file.tell()
    for layer in range(count + 1):  # the last one shares the first weight
        i = layer % count
        kind, transposed = ("Gemm", {"transB": 1}) if i % 2 else ("MatMul", {})
        made, result = f"m{layer}", f"t{layer}"
        nodes.append(onnx.helper.make_node(kind, [name, f"w{i}"], [made], **transposed))
        nodes.append(onnx.helper.make_node("Tanh", [made], [result]))
        name = result
    ends = [onnx.helper.make_tensor_value_info(n, 1, [1, WIDTH]) for n in ("x", name)]
    graph = onnx.helper.make_graph(nodes, "big", ends[:1], ends[1:], weights)
    opset = onnx.helper.make_opsetid("", 20)
    path = folder / "big.onnx"
    proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    path.write_bytes(proto.SerializeToString())
    return path, size


def _external(name: str, offset: int):
    import onnx

    tensor = onnx.TensorProto(name=name, data_type=1, dims=[WIDTH, WIDTH], data_location=1)
    length = WIDTH * WIDTH * 4
    for key, value in (("location", "big.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@dataclass(frozen=True)
class Peaks:
    """Peak bytes of a process: all that was resident, and of which kinds; seconds from its start
    (imports included) to the end of the step."""

    step: str
    resident: int
    anonymous: int
    files: int
    seconds: float


class _Watch(threading.Thread):
    """Looks every few milliseconds at what the memory of this process is."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.files = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.look()

    def look(self) -> None:
        memory = _memory()
        self.anonymous = max(self.anonymous, memory["RssAnon"])
        self.files = max(self.files, memory["RssFile"])


def _memory() -> dict[str, int]:
    """Bytes by kind, as Linux counts them. VmHWM is the peak of what was resident; `ru_maxrss`
    would also know the parent's."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {n[:-1]: int(kib[0]) * 1024 for n, *kib in lines if n[:3] in ("Rss", "VmH")}


def measure(step: str, path: Path) -> Peaks:
    """Run one of `STEPS` in a fresh process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs, step, path))
    process.start()
    theirs.close()
    peaks = ours.recv()
    process.join()
    return peaks


def _run(connection: Connection, step: str, path: Path) -> None:
    watch = _Watch()
    watch.start()
    start = time.perf_counter()
    import tilth

    model = tilth.load(path)
    if step == "load":
        for name in model.source.weight_names:
            model.source.weight(name).max()
    else:
        executable = model.compile("cpu", cache=step != "compile")
        (x,) = model.inputs
        (out,) = executable({x.name: np.ones(x.shape, np.float32)}).values()
        assert np.isfinite(out).all()
        assert executable.report.from_cache == (step == "reuse")
    seconds = time.perf_counter() - start
    watch.look()
    watch.done.set()
    connection.send(Peaks(step, _memory()["VmHWM"], watch.anonymous, watch.files, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of a big model.")
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, help="where to write the model (else temporary)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        os.environ["TILTH_CACHE_DIR"] = str(Path(name, "cache"))
        path, size = make_model(Path(name), options.gigabytes)
        print(f"{size / 2**30:.2f} GiB of weights in an external file")
        peaks = []
        for step in STEPS:
            peaks.append(measure(step, path))
            print(_line(peaks[-1], size), flush=True)
    if options.json:
        options.json.write_text(json.dumps(_document(peaks, size), indent=1) + "\n")
    return int(max(p.resident for p in peaks) > BOUND * size)


def _line(peaks: Peaks, size: int) -> str:
    gib = [f"{n / 2**30:.2f}" for n in (peaks.resident, peaks.anonymous, peaks.files)]
    return (
        f"{STEPS[peaks.step]:29} peak {gib[0]} GiB, {peaks.resident / size:.2f}x the weights "
        f"(anonymous {gib[1]}, files {gib[2]}), {peaks.seconds:.1f} s"
    )


def _document(peaks: list[Peaks], size: int) -> dict[str, Any]:
    from tilth.tools.machine import describe_machine

    steps = [{**asdict(p), "ratio": p.resident / size} for p in peaks]
    machine = describe_machine(len(os.sched_getaffinity(0)))
    return {"machine": machine, "weights": size, "steps": steps}


if __name__ == "__main__":
    sys.exit(main())
