"""`tilth bench`: latency, side by side with other engines if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import tilth
from tilth.cli.console import (
    Buckets,
    DeviceName,
    Inputs,
    ModelPath,
    Resize,
    Shapes,
    Threads,
    err,
    make_feeds,
    out,
    parse_buckets,
    parse_shapes,
    table,
)
from tilth.runtime.devices import usable_cores
from tilth.tools.engines import ENGINES, Job
from tilth.tools.machine import describe_machine
from tilth.tools.side_by_side import Timing, side_by_side

_NUMBERS = ("median ms", "min ms", "p99 ms", "ratio", "first s", "peak MiB", "error")
_RIVALS = ",".join(name for name in ENGINES if name != "tilth")
_NO_TORCH = "PyTorch is none, as it cannot read ONNX files."


def bench(
    model: ModelPath,
    input: Inputs = None,
    shape: Shapes = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    against: Annotated[str, typer.Option(help=f"Rivals, by commas: {_RIVALS}. {_NO_TORCH}")] = "",
    turns: Annotated[int, typer.Option(min=1, help="Rounds of measuring.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of a turn.")] = 0.6,
    bucket: Buckets = None,
    resize: Resize = False,
    tune: Annotated[bool, typer.Option("--tune", help="Let Tilth time its kernels first.")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Measure the latency of MODEL: median, minimum, 99th percentile, time to the first result.

    Each engine has a process of its own on the same cores; they take turns while the others sleep.
    `ratio` is the engine's median over Tilth's, `first s` counts from the engine's import, `peak
    MiB` is its process's memory, `error` the largest difference to Tilth's outputs over the
    largest output. With a --bucket Tilth computes more than was asked for; the others do not pad.
    """
    loaded = tilth.load(model)
    names = ["tilth", *(name.strip() for name in against.split(",") if name.strip())]
    feeds = make_feeds(loaded, input, parse_shapes(loaded.inputs, shape), resize)
    threads = threads or usable_cores()
    job = Job(model, feeds, threads, device, tune, parse_buckets(bucket))
    with err.status(f"measuring {loaded.name}"):
        timings = side_by_side(names, job, turns, seconds)
    _show(timings)
    if not timings[0].problem:
        how = "from its cache" if timings[0].facts["from_cache"] else "compiled"
        hosted = timings[0].facts["host_ops"]
        more = f"; {hosted} nodes run on the host (tilth profile tells which)" if hosted else ""
        err.print(f"tilth's first result: {how}{more}", style="dim")
    if as_json is not None:
        document = {
            "model": loaded.name,
            "machine": describe_machine(threads),
            "inputs": {n: _described(fed) for n, fed in feeds.items()},
            "engines": [timing.as_json() for timing in timings],
        }
        as_json.write_text(json.dumps(document, indent=1) + "\n")
    if timings[0].problem:
        raise tilth.TilthError(f"tilth could not run {loaded.name}: {timings[0].problem}")


def _described(fed: Any) -> Any:
    """An input in the file of figures; a sequence item by item."""
    if isinstance(fed, np.ndarray):
        return {"dtype": fed.dtype.name, "shape": fed.shape}
    return [_described(item) for item in fed]


def _show(timings: list[Timing]) -> None:
    shown = table("engine", *_NUMBERS, numbers=_NUMBERS)
    ours = timings[0]
    for t in timings:
        if t.problem:
            shown.add_row(t.engine, *("-" for _ in _NUMBERS))
            err.print(f"{t.engine}: {t.problem}", markup=False)
            continue
        times = [f"{s * 1e3:.3f}" for s in (t.median, t.minimum, t.p99)]
        ratio = f"{t.median / ours.median:.2f}" if not ours.problem else "-"
        peak = f"{t.peak_bytes / 2**20:.0f}"
        shown.add_row(t.engine, *times, ratio, f"{t.first_result:.2f}", peak, f"{t.error:.1e}")
    out.print(shown)
