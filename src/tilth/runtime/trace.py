"""The kernel records of one call on all devices: which belong together, waits, the Chrome trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilth.runtime.target import KernelRecord

HOST = "host"  # the device of what is no compiled code

# device, kernel, node, and which one of several that are called the same
Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class TracedRecord:
    """A kernel record and the device it ran on."""

    device: str
    kernel: KernelRecord

    @property
    def end(self) -> float:
        return self.kernel.start + self.kernel.seconds


def shifted(record: TracedRecord, seconds: float) -> TracedRecord:
    """The record of something that started later."""
    return replace(record, kernel=replace(record.kernel, start=record.kernel.start + seconds))


def by_kernel(run: Sequence[TracedRecord]) -> dict[Key, list[TracedRecord]]:
    """The records of each kernel: one per thread that took part."""
    seen: Counter[tuple[str, str, str, int]] = Counter()
    groups: dict[Key, list[TracedRecord]] = defaultdict(list)
    for record in run:
        name = (record.device, record.kernel.name, record.kernel.node)
        groups[*name, seen[*name, record.kernel.thread]].append(record)
        seen[*name, record.kernel.thread] += 1
    return groups


def waits(run: Sequence[TracedRecord]) -> dict[TracedRecord, float]:
    """How long a record's thread did nothing after it: until it starts its next kernel on that
    device, or until all threads of the device are done. On a CPU that is waiting at a barrier. The
    host never waits: it is what starts the others."""
    tracks: dict[tuple[str, int], list[TracedRecord]] = defaultdict(list)
    done: dict[str, float] = defaultdict(float)
    for record in sorted(run, key=lambda r: r.kernel.start):
        tracks[record.device, record.kernel.thread].append(record)
        done[record.device] = max(done[record.device], record.end)
    found = {}
    for (device, _), track in tracks.items():
        starts = [record.kernel.start for record in track[1:]]
        for record, start in zip(track, [*starts, done[device]], strict=True):
            found[record] = max(0.0, start - record.end) if device != HOST else 0.0
    return found


def trace_events(run: Sequence[TracedRecord]) -> list[dict[str, Any]]:
    """Trace events, a process per device and a track per thread:
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU"""
    devices = {device: i for i, device in enumerate(dict.fromkeys(r.device for r in run))}
    events: list[dict[str, Any]] = []
    for device, pid in devices.items():
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": device}})
    for device, thread in sorted({(r.device, r.kernel.thread) for r in run}):
        name = {"name": f"thread {thread}"}
        place = {"pid": devices[device], "tid": thread}
        events.append({"ph": "M", "name": "thread_name", **place, "args": name})
    waited = waits(run)
    for record in run:
        k = record.kernel
        args = {"node": k.node, "algorithm": k.algorithm, "flops": k.flops, "bytes": k.bytes}
        args["wait_us"] = waited[record] * 1e6
        place = {"pid": devices[record.device], "tid": k.thread}
        times = {"ts": k.start * 1e6, "dur": k.seconds * 1e6}
        events.append({"ph": "X", "name": k.name, "cat": "kernel", **place, **times, "args": args})
    return events
