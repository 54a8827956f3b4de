"""Tilth and its rivals measured side by side: one process per engine, taking turns.

Engines that spin while idle would disturb each other, so only one process is awake at a time, in
short turns. All get the same feeds; outputs are compared with the first engine's.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tilth.ir.errors import TilthError

Feeds = Mapping[str, np.ndarray]
Runner = Callable[[], list[np.ndarray]]
_START_SECONDS = 600.0


@dataclass(slots=True)
class Timing:
    """One engine's seconds; `error` against the first engine, `problem` if it failed."""

    engine: str
    first_result: float = 0.0
    calls: list[float] = field(default_factory=list)
    error: float = 0.0
    problem: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.calls)

    @property
    def minimum(self) -> float:
        return min(self.calls)

    @property
    def p99(self) -> float:
        return float(np.percentile(self.calls, 99))


def relative_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """max |found - expected| / max |expected|, the worst output; inf if not comparable."""
    if len(found) != len(expected):
        return float("inf")
    return max((_relative_error(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind in "OSU":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    difference = np.abs(found.astype(wide) - expected.astype(wide))
    worst = float(difference.max() / (np.abs(expected.astype(wide)).max() + 1e-30))
    return worst if np.isfinite(worst) else float("inf")


def tilth_runner(path: str, feeds: Feeds, threads: int, device: str) -> Runner:
    import tilth

    shapes = {name: array.shape for name, array in feeds.items()}
    executable = tilth.load(path).compile(device=device, threads=threads, shapes=shapes)
    return lambda: list(executable(feeds).values())


def onnxruntime_runner(path: str, feeds: Feeds, threads: int, device: str) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    return lambda: session.run(None, dict(feeds))


def openvino_runner(path: str, feeds: Feeds, threads: int, device: str) -> Runner:
    import openvino

    settings = {
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    arrays = [feeds[port.any_name] for port in compiled.inputs]

    def run() -> list[np.ndarray]:
        results = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [np.array(value) for value in results.values()]

    return run


ENGINES: dict[str, Callable[[str, Feeds, int, str], Runner]] = {
    "tilth": tilth_runner,
    "onnxruntime": onnxruntime_runner,
    "openvino": openvino_runner,
}


def run_once(engine: str, path: str, feeds: Feeds, threads: int) -> list[np.ndarray]:
    """The outputs of `engine` on `feeds`, in this process. Raises TilthError."""
    try:
        return ENGINES[_known(engine)](path, feeds, threads, "cpu")()
    except ImportError as e:
        raise TilthError(f"{engine} is not installed: pip install {engine}") from e


def compare(
    engines: Sequence[str],
    path: str,
    feeds: Feeds,
    threads: int = 0,
    device: str = "cpu",
    turns: int = 6,
    turn_seconds: float = 0.6,
) -> list[Timing]:
    """Measure each engine on one model; `turns` rounds of `turn_seconds` each.

    An engine that fails has `problem` set. Raises TilthError for an unknown engine.
    """
    workers = [_Worker(_known(e), path, feeds, threads, device) for e in engines]
    try:
        reference: list[np.ndarray] | None = None
        for worker in workers:
            outputs = worker.start()
            if outputs is not None:
                reference = reference or outputs
                worker.timing.error = relative_error(outputs, reference)
        for _ in range(turns):
            for worker in workers:
                worker.turn(turn_seconds)
    finally:
        for worker in workers:
            worker.stop()
    return [worker.timing for worker in workers]


def _known(engine: str) -> str:
    if engine not in ENGINES:
        raise TilthError(f"unknown engine '{engine}'; known: {', '.join(ENGINES)}")
    return engine


class _Worker:
    """One engine in a process of its own."""

    def __init__(self, engine: str, path: str, feeds: Feeds, threads: int, device: str):
        self.timing = Timing(engine)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, engine, path, dict(feeds), threads, device)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._started = False

    def start(self) -> list[np.ndarray] | None:
        """Load and run once; the outputs, or None when that failed."""
        self._process.start()
        self._started = True
        outputs, rest = self._receive()
        if outputs is None:
            self.timing.problem = rest
        else:
            self.timing.first_result = rest
        return outputs

    def turn(self, seconds: float) -> None:
        if not self.timing.problem:
            self._connection.send(seconds)
            calls, problem = self._receive()
            self.timing.calls += calls or []
            self.timing.problem = problem

    def stop(self) -> None:
        if self._started:
            self._process.terminate()
            self._process.join()

    def _receive(self) -> Any:
        """The worker's next message; (None, why) when it died or hangs."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._connection.poll(0.2):
            if not self._process.is_alive() and not self._connection.poll(0):
                return None, f"the process ended with code {self._process.exitcode}"
            if time.monotonic() > deadline:
                return None, f"no answer within {_START_SECONDS:.0f} s"
        try:
            return self._connection.recv()
        except EOFError:
            return None, "the process ended without an answer"


def _serve(
    connection: Connection, engine: str, path: str, feeds: Feeds, threads: int, device: str
) -> None:
    """The worker: sends (outputs, seconds to the first result), then (calls, "") for each turn."""
    try:
        start = time.perf_counter()
        run = ENGINES[engine](path, feeds, threads, device)
        outputs = run()
        connection.send(([np.asarray(a) for a in outputs], time.perf_counter() - start))
        for _ in range(3):
            run()
        while True:
            connection.send((_measure(run, connection.recv()), ""))
    except EOFError:
        return
    except Exception as e:  # whatever it is belongs into the table, not onto the terminal
        connection.send((None, f"{type(e).__name__}: {e}"))


def _measure(run: Runner, seconds: float) -> list[float]:
    """Seconds of each call for about `seconds`, at least 3; the first call only warms up."""
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(calls) < 4:
        start = time.perf_counter()
        run()
        calls.append(time.perf_counter() - start)
    return calls[1:]
