"""Where the time goes: the kernel records of a few runs, summed up per kernel.

A kernel's time in a run is from the first thread that starts it to the last one that ends; over
the runs the median counts.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.runtime.target import HasPeak, Options, target
from tilth.runtime.trace import Key, TracedRecord, by_kernel, trace_events, waits

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One row of a profile: median seconds over the runs, share of all kernels' time.

    `busy` and `waits` are per thread: seconds inside the kernel, and seconds from its end until
    the thread's next kernel starts. `flops` and `bytes` are those of the plain definition, each
    operand counted once, whatever the algorithm makes of them. `calls` is how often it ran in a
    run; all figures are the sum of these calls.
    """

    device: str
    name: str
    node: str
    algorithm: str
    seconds: float
    share: float
    flops: int
    bytes: int
    busy: tuple[float, ...]
    waits: tuple[float, ...]
    calls: int = 1

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def wait(self) -> float:
        """Mean over the threads of the seconds waited after the kernel."""
        return float(np.mean(self.waits))

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "name": self.name,
            "node": self.node,
            "algorithm": self.algorithm,
            "seconds": self.seconds,
            "share": self.share,
            "flops": self.flops,
            "bytes": self.bytes,
            "flops_per_second": self.flops_per_second,
            "bytes_per_second": self.bytes_per_second,
            "busy": self.busy,
            "waits": self.waits,
            "calls": self.calls,
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do at best: FLOP/s of fused multiply-adds, bytes/s read from memory."""

    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of some runs: `kernels` in order of execution, `runs` the raw records.

    `seconds` is the median wall time of an ordinary call, measured apart from the instrumented
    runs; `limits` those of the device and of as many threads as took part, when known.
    """

    model: str
    seconds: float
    kernels: tuple[KernelTime, ...]
    runs: tuple[tuple[TracedRecord, ...], ...]
    limits: Limits | None = None

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    @property
    def bytes(self) -> int:
        return sum(k.bytes for k in self.kernels)

    @property
    def peak_flops(self) -> float | None:
        return self.limits.flops_per_second if self.limits else None

    @property
    def threads(self) -> int:
        """How many threads took part in the busiest kernel."""
        return max((len(k.busy) for k in self.kernels), default=0)

    @property
    def waiting(self) -> float:
        """The share of the threads' time that they spent waiting between kernels."""
        waited = sum(sum(k.waits) for k in self.kernels)
        busy = sum(sum(k.busy) for k in self.kernels)
        return waited / (waited + busy) if waited else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values: totals, limits, and every kernel. Seconds, bytes, FLOP."""
        limits = self.limits
        return {
            "model": self.model,
            "threads": self.threads,
            "seconds": self.seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "waiting": self.waiting,
            "peak_flops_per_second": limits.flops_per_second if limits else None,
            "peak_bytes_per_second": limits.bytes_per_second if limits else None,
            "kernels": [kernel.as_json() for kernel in self.kernels],
        }

    def save_trace(self, path: str | Path) -> None:
        """Write the last run as a Chrome trace (chrome://tracing, Perfetto), a track per thread."""
        Path(path).write_text(json.dumps({"traceEvents": trace_events(self.runs[-1])}))

    def __rich__(self) -> Group:
        """One row per kernel in order of execution, and the total."""
        from rich.console import Group
        from rich.text import Text

        from tilth.runtime.render import number_table

        columns = ("ms", "share", "wait us", "GFLOP/s", "GB/s")
        shares = ("of peak", "of memory") if self.limits else ()
        table = number_table(("kernel", "node", "algorithm"), (*columns, *shares))
        for kernel in self.kernels:
            table.add_row(*self._cells(kernel))
        return Group(table, Text(self._total()))

    def __str__(self) -> str:
        from tilth.runtime.render import to_text

        return to_text(self)

    def _cells(self, k: KernelTime) -> list[str]:
        times = f" x{k.calls}" if k.calls > 1 else ""
        cells = [k.name + times, k.node, k.algorithm, f"{k.seconds * 1e3:.3f}", f"{k.share:.1%}"]
        cells += [f"{k.wait * 1e6:.1f}"]
        cells += [f"{k.flops_per_second / 1e9:.1f}", f"{k.bytes_per_second / 1e9:.1f}"]
        if self.limits:
            cells.append(f"{k.flops_per_second / self.limits.flops_per_second:.0%}")
            cells.append(f"{k.bytes_per_second / self.limits.bytes_per_second:.0%}")
        return cells

    def _total(self) -> str:
        in_kernels = sum(k.seconds for k in self.kernels)
        rate = self.flops / self.seconds
        lines = [
            f"{self.model}: {self.seconds * 1e3:.3f} ms a call, {in_kernels * 1e3:.3f} ms in "
            f"{len(self.kernels)} kernels on {self.threads} threads, which wait {self.waiting:.0%} "
            f"of their time; {rate / 1e9:.1f} GFLOP/s"
        ]
        if self.limits:
            lines[0] += f" ({rate / self.limits.flops_per_second:.0%} of the FMA peak)"
            lines.append(
                f"limits measured now: FMA peak {self.limits.flops_per_second / 1e9:.1f} GFLOP/s, "
                f"memory reads {self.limits.bytes_per_second / 1e9:.1f} GB/s (data in caches come "
                "faster)"
            )
        return "\n".join(lines)


def measured(
    model: str,
    kind: str,
    run: Callable[[], object],
    trace: Callable[[], Sequence[TracedRecord]],
    runs: int,
) -> Profile:
    """The profile of calling `run`, and of as many instrumented calls by `trace`; one to warm up.

    `kind` is that of the device that computes everything, "" if there are several. ValueError for
    less than one run.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    seconds = [_timed(run) for _ in range(runs + 1)][1:]
    traces = [trace() for _ in range(runs)]
    threads = 1 + max((r.kernel.thread for r in traces[-1]), default=0)
    return summarise(model, traces, float(np.median(seconds)), _limits(kind, threads))


def merged(profile: Profile) -> Profile:
    """The profile with one row for a kernel that runs several times, as in a loop on the host."""
    rows: dict[tuple[str, str, str, str], KernelTime] = {}
    for k in profile.kernels:
        name = (k.device, k.name, k.node, k.algorithm)
        rows[name] = _sum(rows[name], k) if name in rows else k
    return replace(profile, kernels=tuple(rows.values()))


def _sum(a: KernelTime, b: KernelTime) -> KernelTime:
    busy = tuple(map(sum, zip_longest(a.busy, b.busy, fillvalue=0.0)))
    waited = tuple(map(sum, zip_longest(a.waits, b.waits, fillvalue=0.0)))
    return replace(
        a,
        seconds=a.seconds + b.seconds,
        share=a.share + b.share,
        flops=a.flops + b.flops,
        bytes=a.bytes + b.bytes,
        busy=busy,
        waits=waited,
        calls=a.calls + b.calls,
    )


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _limits(kind: str, threads: int) -> Limits | None:
    """The limits of a device, if there is one and its target knows them."""
    found = target(kind) if kind else None
    if not isinstance(found, HasPeak):
        return None
    options = Options(threads)
    return Limits(found.peak_flops(options), found.peak_bandwidth(options))


def summarise(
    model: str,
    runs: Sequence[Sequence[TracedRecord]],
    seconds: float,
    limits: Limits | None,
) -> Profile:
    """A `Profile` of the raw records of each run."""
    spans: dict[Key, list[float]] = defaultdict(list)
    busy: dict[Key, list[list[float]]] = defaultdict(list)
    waited: dict[Key, list[list[float]]] = defaultdict(list)
    example: dict[Key, TracedRecord] = {}
    for run in runs:
        pauses = waits(run)
        for key, records in by_kernel(run).items():
            spans[key].append(_span(records))
            busy[key].append([r.kernel.seconds for r in records])
            waited[key].append([pauses[r] for r in records])
            example.setdefault(key, records[0])
    medians = {key: float(np.median(s)) for key, s in spans.items()}
    total = sum(medians.values()) or 1.0
    rows = [
        _row(example[key], s, s / total, _medians(busy[key]), _medians(waited[key]))
        for key, s in medians.items()
    ]
    return Profile(model, seconds, tuple(rows), tuple(tuple(r) for r in runs), limits)


def _span(records: Sequence[TracedRecord]) -> float:
    return max(r.end for r in records) - min(r.kernel.start for r in records)


def _medians(runs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median over the runs, thread by thread."""
    return tuple(np.median(runs, axis=0).tolist())


def _row(
    record: TracedRecord,
    seconds: float,
    share: float,
    busy: tuple[float, ...],
    waited: tuple[float, ...],
) -> KernelTime:
    k = record.kernel
    names = (record.device, k.name, k.node, k.algorithm)
    return KernelTime(*names, seconds, share, k.flops, k.bytes, busy, waited)
