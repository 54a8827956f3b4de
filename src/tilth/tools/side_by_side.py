"""Engines side by side: one process each, one awake at a time.

An engine's spinning threads would disturb its rivals, and a machine's clock drifts over minutes;
so every engine sleeps in a process of its own while another one runs, and they take turns.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from multiprocessing import Pipe
from typing import Any

import numpy as np

from tilth.tools import engines
from tilth.tools.difference import relative_error
from tilth.tools.engines import Job, check_engine

PAUSE = 0.1  # seconds between turns, for the last engine's threads to fall asleep
PATIENCE = 600.0  # seconds to wait for an answer


@dataclass(slots=True)
class Timing:
    """One engine's measurements. Seconds; `error` is relative to the first engine's outputs.

    `problem` says why there are no numbers when the engine failed.
    """

    engine: str
    first_result: float = 0.0
    calls: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: float = 0.0
    facts: dict[str, int] = field(default_factory=dict)
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

    def as_json(self) -> dict[str, Any]:
        """Plain values: the figures, or only the problem."""
        if self.problem:
            return {"engine": self.engine, "problem": self.problem}
        return {
            "engine": self.engine,
            "median": self.median,
            "minimum": self.minimum,
            "p99": self.p99,
            "calls": len(self.calls),
            "first_result": self.first_result,
            "peak_bytes": self.peak_bytes,
            "error": self.error,
            "facts": self.facts,
        }


class Worker:
    """A process that holds one engine with one model loaded; use it as a context.

    `environment` is added to that of this process. Whatever goes wrong, in the engine or with its
    process, is in `timing.problem`, and the worker does nothing any more. `outputs` are those of
    the first call.
    """

    def __init__(self, engine: str, job: Job, environment: Mapping[str, str] | None = None):
        self.timing = Timing(check_engine(engine))
        self.outputs: list[np.ndarray] = []
        self._pipe, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-P", engines.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=_environment() | dict(environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        theirs.close()  # so that a dead worker reads as end of file
        asked = (getattr(job, f.name) for f in fields(job))  # in its process, Job is another class
        first = self._ask((engine, *asked))
        if first is not None:
            self.timing.first_result, self.outputs, self.timing.facts = first

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def turn(self, seconds: float) -> None:
        """Run for a while, alone, and remember the latencies and the peak of memory so far."""
        self.timing.calls += self._ask(seconds) or []
        self.timing.peak_bytes = self._ask(0.0) or 0

    def _ask(self, question: object) -> Any:
        """The process's answer; None once there is a problem."""
        if self.timing.problem:
            return None
        with contextlib.suppress(BrokenPipeError):  # reading tells how it ended
            self._pipe.send(question)
        try:
            if not self._pipe.poll(PATIENCE):
                self._process.kill()
                self.timing.problem = f"no answer within {PATIENCE:.0f} s"
                return None
            answer, self.timing.problem = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.timing.problem = f"the process died ({self._last_words()})"
            return None
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"exit code {code}" + (f": {last}" if last else "")


def _environment() -> dict[str, str]:
    """That of this process, but modules may keep their bytecode.

    Installed packages come with it; one that runs from a working tree, as Tilth may, keeps it from
    the first import on, and would else be compiled again by every process that is measured.
    """
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def take_turns(workers: Sequence[Worker], rounds: int, seconds: float) -> None:
    """Give every worker `rounds` turns of `seconds`, interleaved."""
    for _ in range(rounds):
        for worker in workers:
            time.sleep(PAUSE)
            worker.turn(seconds)


def side_by_side(
    names: Sequence[str], job: Job, rounds: int = 6, seconds: float = 0.6
) -> list[Timing]:
    """Measure engines on one model, in `rounds` turns of `seconds` each; the first is the standard.

    An engine that fails has `problem` set and the others go on. Raises InputError for an unknown
    engine.
    """
    for name in names:
        check_engine(name)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, job)) for name in names]
        standard = next((w.outputs for w in workers if not w.timing.problem), [])
        for worker in workers:
            worker.timing.error = relative_error(worker.outputs, standard)
            worker.outputs = []
        take_turns(workers, rounds, seconds)
        return [worker.timing for worker in workers]
