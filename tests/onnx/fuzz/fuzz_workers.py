"""Processes with bounded memory and time that judge cases, so that a crash or a hang costs one.

A worker reports each case before and after; the parent kills it when a case takes too long, notes
what happened, and goes on with the next case in a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzz_case import Outcome, judge, prepare_directory

SECONDS = 10.0  # of the processor, for one case
STILL_SECONDS = 60.0  # a process that uses no processor time for so long waits for something
MEMORY = 2 << 30  # bytes that a case may hold
LOOP_TURNS = 1000  # that a loop on the host may make; a file can ask for any number
_HARD_MEMORY = 6 << 30  # bytes at which the system refuses to give more
_CASES_OF_A_PROCESS = 1000

Source = Callable[[int], tuple[bytes, bool]]  # case number -> bytes, and whether to run them


@dataclass(frozen=True)
class Result:
    """The outcome of a case, the seconds of processor time and the peak memory it took."""

    number: int
    outcome: Outcome
    seconds: float
    peak: int

    @property
    def failure(self) -> str:
        """What went wrong, "" when nothing did."""
        if not self.outcome.where and self.peak > MEMORY:
            return "too much memory"
        return self.outcome.where


def judge_all(source: Source, numbers: Sequence[int], workers: int = 1) -> Iterator[Result]:
    """Judge cases in worker processes; results as they come."""
    lanes = [_Lane(source, numbers[i::workers]) for i in range(workers)]
    lanes = [lane for lane in lanes if lane.advance()]
    try:
        while lanes:
            wait([lane.connection for lane in lanes], timeout=0.2)
            for lane in list(lanes):
                yield from lane.results()
                if lane.is_done and not lane.advance():
                    lanes.remove(lane)
    finally:
        for lane in lanes:
            lane.stop()


class _Lane:
    """A share of the cases, and the process that is at work on them."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self.source = source
        self.todo = list(reversed(numbers))
        self.current: int | None = None
        self.started, self.used = 0.0, 0  # when it last moved, and its processor time then
        self.looked = 0.0
        self.process: Any = None
        self.connection: Any = None

    @property
    def is_done(self) -> bool:
        return self.process is None

    def advance(self) -> bool:
        """Start a process on what is left; False when nothing is."""
        if not self.todo:
            return False
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        batch = self.todo[-_CASES_OF_A_PROCESS:][::-1]
        self.process = context.Process(target=_serve, args=(theirs, self.source, batch))
        self.process.start()
        theirs.close()
        self.started = time.monotonic()
        return True

    def results(self) -> Iterator[Result]:
        """What has come in since the last look; a dead or stuck process is a result too."""
        try:
            while self.connection.poll(0):
                message = self.connection.recv()
                self.started = time.monotonic()
                if isinstance(message, int):
                    self.current = message
                else:
                    self.todo.pop()
                    self.current = None
                    yield message
        except EOFError:
            yield from self._ended()
            return
        if self.current is not None and self._is_stuck():
            self.process.kill()
            yield self._failure("hang", "it waits for something")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def _ended(self) -> Iterator[Result]:
        self.process.join()
        code = self.process.exitcode
        if self.current is not None:
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            yield self._failure("hang" if name == "SIGXCPU" else "crash", name)
        elif code:
            raise RuntimeError(f"a worker failed between cases, exit code {code}")
        self.process = None

    def _failure(self, kind: str, message: str) -> Result:
        self.process.join()
        self.process = None
        number = self.todo.pop()
        assert number == self.current
        self.current = None
        return Result(number, Outcome(kind, message, f"{kind}: {message}"), SECONDS, 0)

    def _is_stuck(self) -> bool:
        """Whether the process has not moved for long; the system ends one that computes."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        used, now = int(fields[11]) + int(fields[12]), time.monotonic()
        was_away = now - self.looked > STILL_SECONDS / 2  # this process, too, was stopped
        self.looked = now
        if used != self.used or was_away:
            self.used, self.started = used, now
        return now - self.started > STILL_SECONDS


def _serve(connection: Connection, source: Source, numbers: Sequence[int]) -> None:
    sys.settrace(None)  # measuring coverage takes three times as long as what is timed here
    resource.setrlimit(resource.RLIMIT_DATA, (_HARD_MEMORY, _HARD_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["TILTH_LOOP_LIMIT"] = str(LOOP_TURNS)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk would take most of the time
    with tempfile.TemporaryDirectory(dir=memory) as name:
        directory = Path(name)
        prepare_directory(directory)
        for number in numbers:
            data, run = source(number)
            connection.send(number)
            _bound_time()
            _reset_peak()
            start = time.process_time()
            outcome = judge(data, directory, run)
            seconds = time.process_time() - start
            connection.send(Result(number, outcome, seconds, _peak()))
    connection.close()


def _bound_time() -> None:
    """The kernel ends this process when it has used this much more time of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + SECONDS) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory that this process held since the last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024
