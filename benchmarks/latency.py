"""The discipline of a call: even latency, no memory taken, nothing done when idle.

usage: latency.py MODEL... [--threads 2] [--seconds 3] [--json FILE [--add]]

Each model is compiled in a process of its own, which does nothing else, and called for a while, 400
times at least, or one slow call would decide.
Checked: the 99th percentile of the latencies is at most 1.3 times the median; a call takes no
Python memory but for its outputs, and memory does not grow over as many calls again; between calls
the process uses no processor time. Prints a table, writes it as JSON; the exit code is 1 when a
check failed.

Only on an otherwise idle machine do the percentiles say something about Tilth. So the same process
measures the machine's own evenness, too: as many rounds of fixed arithmetic, as long as the median
call, on as many cores (`machine p99/median`). Both take turns, as what disturbs a machine may last
for minutes. And Linux tells how long threads were ready to run while somebody else had the core;
what is uneven without that time (`undelayed`) is Tilth's, or that of a virtual machine's host. That
changes no check, it says whom to blame.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.table import Table

import tilth
from command_line import options, results_file
from tilth.cpu.evenness import even_rounds
from tilth.cpu.isa import host_isa
from tilth.interface import bind_shapes, complete
from tilth.tools.engines import latencies, use_cores
from tilth.tools.inputs import random_feeds

SPREAD_LIMIT = 1.3  # p99 over median
ALLOWED_CALL_BYTES = 2048  # the dict of outputs, its arrays' headers, the interpreter's own
ALLOWED_GROWTH = 256 << 10  # bytes of resident memory
ALLOWED_IDLE_SHARE = 0.002  # of one core
SETTLE_SECONDS = 0.05  # for the threads to fall asleep after a call
IDLE_SECONDS = 1.0
CALIBRATION_SECONDS = 0.3
TURNS = 20
LEAST_CALLS = 400

Call = Callable[[], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One model. Seconds; bytes; `idle_share` of one core's time; `failures` of the checks."""

    model: str
    calls: int
    median: float
    p99: float
    worst: float
    machine_spread: float  # p99 over median of fixed work that is as long as the median call
    undelayed_spread: float  # p99 over median of the calls less the time they waited for cores
    delay_share: float  # of the calls' time, that they waited for cores
    call_bytes: int  # taken during a call besides its outputs
    growth: int  # of resident memory over as many calls again
    idle_share: float
    failures: list[str] = field(default_factory=list)


def measure(path: Path, threads: int, seconds: float) -> Row:
    """Compile and call one model in this process, which should be a fresh one."""
    use_cores(threads)
    call = _loaded(path, threads)
    for _ in range(20):
        call()
    typical = float(np.median(latencies(call, CALIBRATION_SECONDS)))
    calls = math.ceil(max(LEAST_CALLS, seconds / typical) / TURNS)
    rounds = even_rounds(host_isa(), threads, typical)
    machine, turns = [], []
    for _ in range(TURNS):
        machine.append(rounds(calls))
        turns.append(turn(call, calls))
    times, delays = np.concatenate(turns, axis=1)
    median, p99 = np.percentile(times, [50, 99])
    row = Row(
        model=path.stem,
        calls=len(times),
        median=float(median),
        p99=float(p99),
        worst=float(times.max()),
        machine_spread=spread(np.concatenate(machine)),
        undelayed_spread=spread(times - delays),
        delay_share=float(delays.sum() / times.sum()),
        call_bytes=call_bytes(call),
        growth=growth(call, math.ceil(seconds / typical)),
        idle_share=idle_share(call),
    )
    row.failures.extend(failures_of(row))
    return row


def turn(call: Call, calls: int) -> np.ndarray:
    """Seconds of each of so many calls, and of their waiting for cores, [2, calls] f64.

    One call before them wakes the threads and does not count.
    """
    call()
    found = np.zeros((2, calls))
    with Delays() as delays:
        for i in range(calls):
            before, start = delays.total(), time.perf_counter()
            call()
            found[0, i] = time.perf_counter() - start
            found[1, i] = delays.total() - before
    return found


class Delays:
    """How long the threads that this process has now were ready, but had no core; use as a context.

    Source: proc(5), /proc/pid/schedstat (Linux); without it, never.
    """

    def __enter__(self) -> Delays:
        self._nanoseconds: dict[BinaryIO, int] = {}
        for path in Path("/proc/self/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                self._nanoseconds[path.open("rb", 0)] = 0
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._nanoseconds:
            file.close()

    def total(self) -> float:
        """Seconds so far, of all these threads together."""
        for file in self._nanoseconds:
            with contextlib.suppress(OSError):
                self._nanoseconds[file] = int(os.pread(file.fileno(), 80, 0).split()[1])
        return sum(self._nanoseconds.values()) * 1e-9


def spread(times: np.ndarray) -> float:
    """The 99th percentile over the median."""
    median, p99 = np.percentile(times, [50, 99])
    return float(p99 / median)


def _loaded(path: Path, threads: int) -> Call:
    model = tilth.load(path)
    feeds = random_feeds(model.inputs, bind_shapes(model.inputs, complete(model.inputs, {})))
    shapes = {name: array.shape for name, array in feeds.items()}
    executable = model.compile("cpu", threads, shapes)
    return lambda: executable(feeds)


def call_bytes(call: Call) -> int:
    """The most memory that a call takes at once besides its outputs, as Python counts it (NumPy's
    arrays included)."""
    tracemalloc.start()
    try:
        call()  # the first traced call pays for what tracing itself remembers
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        outputs = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return max(0, peak - before - sum(array.nbytes for array in outputs.values()))


def growth(call: Call, calls: int) -> int:
    """By how many bytes the process has grown after so many calls."""
    gc.collect()
    before = resident_bytes()
    for _ in range(calls):
        call()
    return resident_bytes() - before


def idle_share(call: Call) -> float:
    """Processor time that the process uses after a call, as a share of one core."""
    call()
    time.sleep(SETTLE_SECONDS)
    before = time.process_time()
    time.sleep(IDLE_SECONDS)
    return (time.process_time() - before) / IDLE_SECONDS


def resident_bytes() -> int:
    """The memory that this process has now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def failures_of(row: Row) -> list[str]:
    checks = {
        f"p99 is {row.p99 / row.median:.2f} of the median": row.p99 > SPREAD_LIMIT * row.median,
        f"a call takes {row.call_bytes} bytes": row.call_bytes > ALLOWED_CALL_BYTES,
        f"memory grew by {row.growth >> 10} KiB": row.growth > ALLOWED_GROWTH,
        f"idle costs {row.idle_share:.1%} of a core": row.idle_share > ALLOWED_IDLE_SHARE,
    }
    return [what for what, failed in checks.items() if failed]


def print_table(rows: Sequence[Row], console: Console) -> None:
    spreads = ("p99/median", "machine p99/median", "undelayed p99/median", "delay")
    times = ("median ms", "p99 ms", *spreads, "worst ms")
    table = Table("model", "calls", *times, "call B", "growth KiB", "idle", "failed", box=None)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in rows:
        median, p99, worst = (f"{s * 1e3:.3f}" for s in (row.median, row.p99, row.worst))
        ratios = (row.p99 / row.median, row.machine_spread, row.undelayed_spread)
        evenness = (*(f"{ratio:.2f}" for ratio in ratios), f"{row.delay_share:.1%}")
        memory = (str(row.call_bytes), str(row.growth >> 10))
        rest = (*memory, f"{row.idle_share:.2%}", "; ".join(row.failures))
        table.add_row(row.model, str(row.calls), median, p99, *evenness, worst, *rest)
    console.print(table)


def main() -> int:
    parser = options("Latency, memory and idling of calls.")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of calling each model, at least"
    )
    arguments = parser.parse_args()
    file = results_file(arguments)
    rows = []
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as processes:
        tasks = [
            processes.submit(measure, path, arguments.threads, arguments.seconds)
            for path in arguments.models
        ]
        for task in tasks:
            rows.append(task.result())
            file.put([asdict(rows[-1])], model=rows[-1].model)
    print_table(rows, Console(width=160))
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
