"""`tilth profile`: the time of each kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tilth
from tilth.cli.console import (
    DeviceName,
    Inputs,
    ModelPath,
    Resize,
    Shapes,
    Threads,
    compile_model,
    make_feeds,
    out,
    parse_shapes,
)


def profile(
    model: ModelPath,
    input: Inputs = None,
    shape: Shapes = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    runs: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 10,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write a Chrome trace.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Show how it was compiled.")] = False,
    resize: Resize = False,
) -> None:
    """Show the time, GFLOP/s and GB/s of each kernel of MODEL."""
    loaded = tilth.load(model)
    feeds = make_feeds(loaded, input, parse_shapes(loaded.inputs, shape), resize)
    shapes = {name: array.shape for name, array in feeds.items()}
    executable = compile_model(loaded, shapes, device, threads)
    if report:
        out.print(executable.report)
    measured = executable.profile(feeds, runs)
    out.print(measured)
    if trace is not None:
        measured.save_trace(trace)
        out.print(f"trace written to {trace}")
