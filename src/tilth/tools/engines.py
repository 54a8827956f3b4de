"""The engines that are compared: each makes a callable out of a model file and its inputs.

All get the same number of threads, 32-bit floats, their low-latency settings, and hand out outputs
as NumPy arrays that are the caller's. This file is also the program of a worker process (see
`side_by_side`): it imports an engine, Tilth included, when that engine's turn has come, so that
none carries another's memory and the first result counts the import.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Feeds = Mapping[str, Any]  # arrays, lists for sequences
Run = Callable[[], list[Any]]

WARM_UP = 3  # calls after the first result, before anything is timed
LEAST_CALLS = 5  # per turn, however slow the model


@dataclass(frozen=True)
class Job:
    """What an engine is asked to run. `threads` is not 0; what follows them concerns Tilth."""

    path: Path
    feeds: Feeds
    threads: int
    device: str = "cpu"
    tune: bool = False
    buckets: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Loaded:
    """A model ready to run on its feeds, and what the engine says of it after the first run."""

    run: Run
    facts: Callable[[], Mapping[str, int]] = dict


def tilth(job: Job) -> Loaded:
    """Tilth; facts: compiled `regions`, `host_ops` outside them, whether `from_cache`."""
    import tilth

    shapes = None if job.buckets else fed_shapes(job.feeds)
    executable = tilth.load(job.path).compile(
        job.device, job.threads, shapes, buckets=job.buckets, tune=job.tune
    )
    feeds = dict(job.feeds)

    def facts() -> dict[str, int]:
        report = executable.report
        regions, host_ops = len(report.regions), len(report.host_ops)
        return {"regions": regions, "host_ops": host_ops, "from_cache": int(report.from_cache)}

    return Loaded(lambda: list(executable(feeds).values()), facts)


def onnxruntime(job: Job) -> Loaded:
    """ONNX Runtime on the CPU, all graph optimisations (its default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(os.fspath(job.path), options, providers=providers)
    feeds = dict(job.feeds)
    return Loaded(lambda: session.run(None, feeds))


def openvino(job: Job) -> Loaded:
    """OpenVINO on the CPU: one stream, latency hint, and no silent bfloat16."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(job.path, "CPU", settings)
    request = compiled.create_infer_request()
    # a port may carry several names, of which one is the model's
    inputs = [job.feeds[next(n for n in job.feeds if n in port.names)] for port in compiled.inputs]

    def run() -> list[np.ndarray]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [np.array(value) for value in results.values()]  # the buffers are reused: copy

    return Loaded(run)


ENGINES: dict[str, Callable[[Job], Loaded]] = {
    "tilth": tilth,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def check_engine(name: str) -> str:
    """`name` if it is an engine that runs ONNX files. Raises InputError listing those.

    PyTorch is none: it writes such files and reads none. It is told apart, as people ask for it.
    """
    from tilth.ir.errors import InputError

    if name not in ENGINES:
        known = ", ".join(ENGINES)
        if name in ("torch", "pytorch"):
            raise InputError(
                f"PyTorch cannot read ONNX files, so '{name}' is no engine here; give one of: "
                f"{known}. To compare with PyTorch, time the module that the file was exported "
                f"from in Python, next to tilth.load(file)"
            )
        raise InputError(f"unknown engine '{name}'; known: {known}")
    return name


def run_once(engine: str, job: Job) -> list[np.ndarray]:
    """The outputs of `engine`, in this process. Raises InputError for an engine not here."""
    from tilth.ir.errors import InputError

    try:
        return tensors(ENGINES[check_engine(engine)](job).run())
    except ImportError as e:
        raise InputError(f"{engine} is not installed: pip install {engine}") from e


def fed_shapes(feeds: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of those feeds that are tensors."""
    return {name: fed.shape for name, fed in feeds.items() if isinstance(fed, np.ndarray)}


def tensors(outputs: Sequence[Any]) -> list[np.ndarray]:
    """All tensors in the outputs of a model: those of lists and dictionaries one by one."""
    found: list[np.ndarray] = []
    for output in outputs:
        if isinstance(output, list):
            found += tensors(output)
        elif isinstance(output, dict):
            found += tensors(list(output.values()))
        elif output is not None:
            found.append(np.asarray(output))
    return found


def serve(pipe: Connection) -> None:
    """The worker's main: take (engine, *fields of a job), answer with the first result, then obey.

    Messages are (answer, problem). The first answer is (seconds from before the engine's import to
    the first result, outputs, facts). After it, a number of seconds asks for the latencies of that
    long a turn, 0 for the memory peak in bytes; the end of the pipe ends the process.
    """
    try:
        engine, *asked = pipe.recv()
        job = Job(*asked)
        use_cores(job.threads)
        start = time.perf_counter()
        loaded = ENGINES[engine](job)
        outputs = tensors(loaded.run())
        pipe.send(((time.perf_counter() - start, outputs, dict(loaded.facts())), ""))
        del outputs
        for _ in range(WARM_UP):
            loaded.run()
        while True:
            seconds = pipe.recv()
            pipe.send((latencies(loaded.run, seconds) if seconds else peak_bytes(), ""))
    except EOFError:
        return
    except Exception as e:  # whatever an engine raises is this engine's result
        pipe.send((None, f"{type(e).__name__}: {e}"))


def use_cores(count: int) -> None:
    """Let this process use that many of its cores and no more, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def latencies(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call for a while; the first one wakes the threads and does not count."""
    calls: list[float] = []
    end = time.perf_counter() + seconds
    run()
    while len(calls) < LEAST_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        calls.append(time.perf_counter() - start)
    return calls


def peak_bytes() -> int:
    """This process's largest resident set so far (Linux; getrusage would count the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
