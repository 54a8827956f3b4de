"""`tilth bench`: latency, side by side with other engines if asked."""

from __future__ import annotations

from typing import Annotated

import typer

import tilth
from tilth.cli.console import (
    DeviceName,
    Inputs,
    ModelPath,
    Resize,
    Symbols,
    Threads,
    err,
    make_feeds,
    out,
    parse_symbols,
    table,
)
from tilth.tools.engines import Timing, compare

_NUMBERS = ("median ms", "min ms", "p99 ms", "first s", "error", "ratio")


def bench(
    model: ModelPath,
    input: Inputs = None,
    shape: Symbols = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    against: Annotated[
        str, typer.Option("--against", help="Rivals, by commas: onnxruntime,openvino.")
    ] = "",
    turns: Annotated[int, typer.Option(min=1, help="Rounds of measuring.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.0, help="Seconds of a turn.")] = 0.6,
    resize: Resize = False,
) -> None:
    """Measure the latency of MODEL: median, minimum, 99th percentile, time to the first result.

    Each engine has a process of its own; they take turns. `error` is relative to Tilth's outputs,
    `ratio` is the engine's median over Tilth's.
    """
    loaded = tilth.load(model)
    feeds = make_feeds(loaded, input, parse_symbols(shape), resize)
    engines = ["tilth", *(name.strip() for name in against.split(",") if name.strip())]
    with err.status(f"measuring {loaded.name}"):
        timings = compare(engines, str(model), feeds, threads, device, turns, seconds)
    _show(timings)
    if timings[0].problem:
        raise tilth.TilthError(f"tilth could not run {loaded.name}: {timings[0].problem}")


def _show(timings: list[Timing]) -> None:
    shown = table("engine", *_NUMBERS, numbers=_NUMBERS)
    ours = timings[0]
    for t in timings:
        if t.problem:
            shown.add_row(t.engine, "-", "-", "-", "-", "-", "-")
            err.print(f"{t.engine}: {t.problem}", markup=False)
            continue
        times = [f"{s * 1e3:.3f}" for s in (t.median, t.minimum, t.p99)]
        ratio = f"{t.median / ours.median:.2f}" if not ours.problem else "-"
        shown.add_row(t.engine, *times, f"{t.first_result:.2f}", f"{t.error:.1e}", ratio)
    out.print(shown)
