"""Engines side by side: one process each, one awake at a time.

An engine's spinning threads would disturb its rivals, and a machine's clock drifts over minutes;
so every engine sleeps in a process of its own while another one runs, and they take turns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from engines import ENGINES, random_feeds

PAUSE = 0.1  # seconds between turns, for the last engine's threads to fall asleep
WARM_UP = 3  # calls before the first turn
LEAST_CALLS = 5  # per turn, however slow the model


class EngineError(Exception):
    """An engine could not load or run the model."""


@dataclass(frozen=True)
class Started:
    """What an engine's process says once it has its first result."""

    seconds: float  # from before the engine's import to the first result
    outputs: list[np.ndarray]
    facts: dict[str, int]


@dataclass(frozen=True)
class Timing:
    """Latency of one engine over all its turns, in seconds, and its process's memory peak."""

    median: float
    best: float
    peak_bytes: int


class Worker:
    """A process that holds one engine with one model loaded; use it as a context."""

    def __init__(
        self, engine: str, path: Path, threads: int, environment: dict[str, str] | None = None
    ):
        self.engine = engine
        self.times: list[float] = []
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        arguments = (theirs, engine, path, threads, environment or {})
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that a dead worker reads as end of file
        self.started: Started = self._receive()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(timeout=5)
        self._process.kill()

    def turn(self, seconds: float) -> None:
        """Run for a while, alone, and remember the latencies."""
        self._pipe.send(seconds)
        self.times += self._receive()

    def timing(self) -> Timing:
        """The summary of all turns."""
        self._pipe.send(0.0)
        return Timing(statistics.median(self.times), min(self.times), self._receive())

    def _receive(self):
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise EngineError(f"{self.engine}: the process died") from None
        if isinstance(answer, EngineError):
            raise answer
        return answer


def take_turns(workers: list[Worker], rounds: int, seconds: float) -> None:
    """Give every worker `rounds` turns of `seconds`, interleaved."""
    for _ in range(rounds):
        for worker in workers:
            time.sleep(PAUSE)
            worker.turn(seconds)


def _serve(pipe: Connection, engine: str, path: Path, threads: int, environment: dict) -> None:
    """The worker's main: load, answer with the first result, then obey `turn` and `timing`."""
    os.environ.update(environment)
    try:
        feeds = random_feeds(path)
        start = time.perf_counter()
        run, facts = ENGINES[engine](path, feeds, threads)
        outputs = run()
        pipe.send(Started(time.perf_counter() - start, [np.asarray(o) for o in outputs], facts))
        for _ in range(WARM_UP):
            run()
        for seconds in iter(pipe.recv, None):
            pipe.send(list(_latencies(run, seconds)) if seconds else _peak_bytes())
    except Exception as error:  # whatever an engine raises is this engine's result
        pipe.send(EngineError(f"{engine}: {type(error).__name__}: {error}"))


def _latencies(run, seconds: float) -> Iterator[float]:
    """Time calls for a while; the first one wakes the threads and does not count."""
    end = time.perf_counter() + seconds
    run()
    calls = 0
    while calls < LEAST_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        yield time.perf_counter() - start
        calls += 1


def _peak_bytes() -> int:
    """This process's largest resident set so far (Linux; getrusage would count the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")
