"""How much memory a model of several gigabytes takes to load and to compile.

`python benchmarks/big_model.py [--gigabytes 3] [--folder DIR]` makes a chain of matrix products
with random weights in an external file, then loads and compiles it in processes of their own. Peak
memory is told apart into pages of files, which the system can drop, and anonymous memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

WIDTH = 4096
_BOUND = 1.3  # peak memory over the bytes of the weights
_STATUS = Path("/proc/self/status")


def make_model(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """Write the model; gives its path and the bytes of its weights."""
    import onnx.helper

    layers = max(1, round(gigabytes * 2**30 / (WIDTH * WIDTH * 4)))
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    with (folder / "big.bin").open("wb") as file:
        for i in range(layers):
            weights.append(_external(f"w{i}", file.tell()))
            file.write((rng.random((WIDTH, WIDTH), np.float32) - np.float32(0.5)).data)
            kind, transposed = ("Gemm", {"transB": 1}) if i % 2 else ("MatMul", {})
            nodes.append(onnx.helper.make_node(kind, [name, f"w{i}"], [f"m{i}"], **transposed))
            nodes.append(onnx.helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]))
            name = f"t{i}"
        size = file.tell()
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
    """Peak bytes while a step ran, and what it took."""

    total: int
    anonymous: int
    files: int
    seconds: float


class _Watch(threading.Thread):
    """Looks at the memory of this process every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.total = self.anonymous = self.files = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.look()

    def look(self) -> None:
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        found = {line[0]: int(line[1]) * 1024 for line in lines if line[0].startswith("Rss")}
        anonymous, files = found["RssAnon:"], found["RssFile:"]
        self.anonymous, self.files = max(self.anonymous, anonymous), max(self.files, files)
        self.total = max(self.total, anonymous + files + found["RssShmem:"])


def measure(step: str, path: Path) -> Peaks:
    """Run a step in a fresh process: "import tilth" alone, "load", "compile" or "cached"."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs, step, path))
    process.start()
    peaks = ours.recv()
    process.join()
    return peaks


def _run(connection: Connection, step: str, path: Path) -> None:
    watch = _Watch()
    watch.start()
    start = time.perf_counter()
    import tilth

    if step != "import tilth":
        model = tilth.load(path)
        if step == "load":
            for name in model.source.weight_names:  # look at every element, as a digest would
                model.source.weight(name).max()
        else:
            executable = model.compile("cpu", cache=step == "cached")
            out = executable({"x": np.ones((1, WIDTH), np.float32)})
            assert all(np.isfinite(a).all() for a in out.values())
    seconds = time.perf_counter() - start
    watch.look()
    watch.done.set()
    connection.send(Peaks(watch.total, watch.anonymous, watch.files, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, help="where to write the model (else temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path, size = make_model(Path(name), options.gigabytes)
        print(f"{size / 2**30:.2f} GiB of weights in an external file")
        steps = ("load", "compile", "cached", "cached")
        worst = max(_show(step, size, measure(step, path)) for step in steps)
    return int(worst > _BOUND)


def _show(step: str, size: int, peaks: Peaks) -> float:
    ratio = peaks.total / size
    gib = [f"{n / 2**30:.2f}" for n in (peaks.total, peaks.anonymous, peaks.files)]
    print(
        f"{step:8} peak {gib[0]} GiB, {ratio:.2f}x the weights "
        f"(anonymous {gib[1]}, files {gib[2]}), {peaks.seconds:.1f} s"
    )
    return ratio


if __name__ == "__main__":
    sys.exit(main())
