"""`tilth profile`: the time of each kernel, and how near it is to what the machine can do."""

from __future__ import annotations

import json
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
    err,
    make_feeds,
    out,
    parse_shapes,
)
from tilth.tools.engines import fed_shapes
from tilth.tools.profile_page import profile_page


def profile(
    model: ModelPath,
    input: Inputs = None,
    shape: Shapes = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    runs: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Write a page with a roofline picture.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Show how it was compiled.")] = False,
    resize: Resize = False,
) -> None:
    """Show where the time of MODEL goes: one row per kernel, in order of execution.

    Of a model that runs in stages, operators on the host have rows, too.

    `wait us` is how long a thread then waits for its next kernel, the mean of all threads. `of
    peak` is the share of the FMA peak, `of memory` that of the memory bandwidth, both measured now.
    """
    loaded = tilth.load(model)
    feeds = make_feeds(loaded, input, parse_shapes(loaded.inputs, shape), resize)
    executable = compile_model(loaded, fed_shapes(feeds), device, threads)
    measured = executable.profile(feeds, runs)
    if report:
        out.print(executable.report)
    out.print(measured)
    if html is not None:
        html.write_text(profile_page(measured), encoding="utf-8")
    if trace is not None:
        measured.save_trace(trace)
    if as_json is not None:
        as_json.write_text(json.dumps(measured.as_json(), indent=1) + "\n")
    for path in filter(None, (html, trace, as_json)):
        err.print(f"{path} written", style="dim", soft_wrap=True)
