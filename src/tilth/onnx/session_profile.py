"""The trace a session writes: one event per run, and one per kernel of an instrumented run.

The file is a list of events as Chrome and Perfetto show them, with ONNX Runtime's categories.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.onnx.dynamic import DynamicModel

Event = dict[str, Any]


@dataclass
class Trace:
    """Events since `start` (nanoseconds of the monotonic clock)."""

    prefix: str
    provider: str
    start: int = field(default_factory=time.monotonic_ns)
    events: list[Event] = field(default_factory=list)

    def add(self, name: str, category: str, begin: float, seconds: float, **args: Any) -> None:
        """An event that began `begin` seconds after the start."""
        thread = args.pop("thread", 0)
        times = {"ts": round(begin * 1e6, 3), "dur": round(seconds * 1e6, 3), "ph": "X"}
        place = {"cat": category, "pid": os.getpid(), "tid": thread, "name": name}
        self.events.append({**place, **times, "args": args})

    def now(self) -> float:
        """Seconds since the start."""
        return (time.monotonic_ns() - self.start) * 1e-9

    def add_run(self, begin: float, model: DynamicModel, feeds: dict[str, Any]) -> None:
        """A run that has just ended, and its kernels, measured by running once more."""
        self.add("model_run", "Session", begin, self.now() - begin)
        again = self.now()
        for record in model.trace(feeds):
            k = record.kernel
            self.add(
                f"{k.node}_kernel_time",
                "Node",
                again + k.start,
                k.seconds,
                thread=k.thread,
                op_name=k.name,
                provider=self.provider,
                algorithm=k.algorithm,
            )

    def write(self) -> str:
        """Write the file; its name."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        path = Path(f"{self.prefix}{stamp}_{os.getpid()}.json")
        path.write_text(json.dumps(self.events))
        return str(path)
