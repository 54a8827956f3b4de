"""Where the time goes: the kernel records of a few runs, summed up per kernel.

A kernel's time in a run is from the first thread that starts it to the last one that ends; over
the runs the median counts.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.runtime.target import KernelRecord

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, slots=True)
class TracedRecord:
    """A kernel record and the device it ran on."""

    device: str
    kernel: KernelRecord


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One row of a profile: median seconds over the runs, share of all kernels' time."""

    device: str
    name: str
    node: str
    algorithm: str
    seconds: float
    share: float
    flops: int
    bytes: int

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of some runs: `kernels` in order of execution, `runs` the raw records.

    `seconds` is the median wall time of an ordinary call, measured apart from the instrumented
    runs; `peak_flops` the FMA limit of the devices in FLOP/s, when known.
    """

    model: str
    seconds: float
    kernels: tuple[KernelTime, ...]
    runs: tuple[tuple[TracedRecord, ...], ...]
    peak_flops: float | None = None

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    def save_trace(self, path: str | Path) -> None:
        """Write the last run as a Chrome trace (chrome://tracing, Perfetto), a track per thread."""
        Path(path).write_text(json.dumps({"traceEvents": _trace_events(self.runs[-1])}))

    def __rich__(self) -> Group:
        from tilth.runtime.render import render_profile

        return render_profile(self)

    def __str__(self) -> str:
        from tilth.runtime.render import to_text

        return to_text(self)


def summarise(
    model: str,
    runs: Sequence[Sequence[TracedRecord]],
    seconds: float,
    peak_flops: float | None,
) -> Profile:
    """A `Profile` of the raw records of each run."""
    spans = defaultdict(list)
    example: dict[_Key, TracedRecord] = {}
    for run in runs:
        for key, records in _by_kernel(run).items():
            spans[key].append(_span(records))
            example.setdefault(key, records[0])
    medians = {key: statistics.median(s) for key, s in spans.items()}
    total = sum(medians.values()) or 1.0
    rows = tuple(_row(example[key], s, s / total) for key, s in medians.items())
    return Profile(model, seconds, rows, tuple(tuple(r) for r in runs), peak_flops)


# device, kernel, node, and which one of several that are called the same
_Key = tuple[str, str, str, int]


def _by_kernel(run: Sequence[TracedRecord]) -> dict[_Key, list[TracedRecord]]:
    """The records of each kernel: one per thread that took part."""
    seen: Counter[tuple[str, str, str, int]] = Counter()
    groups: dict[_Key, list[TracedRecord]] = defaultdict(list)
    for record in run:
        name = (record.device, record.kernel.name, record.kernel.node)
        groups[*name, seen[*name, record.kernel.thread]].append(record)
        seen[*name, record.kernel.thread] += 1
    return groups


def _span(records: Sequence[TracedRecord]) -> float:
    begin = min(r.kernel.start for r in records)
    return max(r.kernel.start + r.kernel.seconds for r in records) - begin


def _row(record: TracedRecord, seconds: float, share: float) -> KernelTime:
    k = record.kernel
    names = (record.device, k.name, k.node, k.algorithm)
    return KernelTime(*names, seconds, share, k.flops, k.bytes)


def _trace_events(run: Sequence[TracedRecord]) -> list[dict[str, Any]]:
    """Trace events: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU"""
    devices = {device: i for i, device in enumerate(dict.fromkeys(r.device for r in run))}
    events: list[dict[str, Any]] = []
    for device, pid in devices.items():
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": device}})
    for device, thread in sorted({(r.device, r.kernel.thread) for r in run}):
        name = {"name": f"thread {thread}"}
        place = {"pid": devices[device], "tid": thread}
        events.append({"ph": "M", "name": "thread_name", **place, "args": name})
    for record in run:
        k = record.kernel
        args = {"node": k.node, "algorithm": k.algorithm, "flops": k.flops, "bytes": k.bytes}
        place = {"pid": devices[record.device], "tid": k.thread}
        times = {"ts": k.start * 1e6, "dur": k.seconds * 1e6}
        events.append({"ph": "X", "name": k.name, "cat": "kernel", **place, **times, "args": args})
    return events
