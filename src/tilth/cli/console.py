"""What the commands share: the console, progress while compiling, and arguments they all take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import tilth
from tilth.interface import bind_shapes, free_symbols
from tilth.tools.inputs import random_feeds, read_input

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=FILE", help="Feed from .npy, .json, .png (repeatable)."),
]
Symbols = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="SYMBOL=N", help="Extent of a symbolic dimension (else 1)."),
]
DeviceName = Annotated[str, typer.Option("--device", help="kind[:model][#index]")]
Threads = Annotated[int, typer.Option("--threads", help="0: all cores this process may use.")]
Resize = Annotated[bool, typer.Option("--resize", help="Fit pictures to the input's size.")]


def compile_model(model: tilth.Model, shapes: Any, device: str, threads: int) -> tilth.Executable:
    """Compile with the current stage shown on stderr, and a line on what it took."""
    spinner = err.status("compiling") if err.is_terminal else nullcontext()
    with spinner as status:

        def show(stage: str) -> None:
            if status is not None:
                status.update(f"{model.name}: {stage}")

        executable = model.compile(device=device, threads=threads, shapes=shapes, progress=show)
    report = executable.report
    how = "loaded from the cache" if report.from_cache else "compiled"
    err.print(f"{model.name} {how} in {report.compile_seconds:.2f} s", style="dim")
    return executable


def parse_symbols(texts: Sequence[str] | None) -> dict[str, int]:
    """`SYMBOL=N` options as a dict."""
    symbols = {}
    for text in texts or ():
        name, _, extent = text.rpartition("=")
        if not name or not extent.isdecimal():
            raise tilth.InputError(f"--shape takes SYMBOL=N, not '{text}'")
        symbols[name] = int(extent)
    return symbols


def make_feeds(
    model: tilth.Model, files: Sequence[str] | None, symbols: dict[str, int], resize: bool = False
) -> dict[str, np.ndarray]:
    """Feeds from the named files; random ones, and a word about it, for the other inputs."""
    ports = {p.name: p for p in model.inputs}
    feeds = {}
    for text in files or ():
        name, path = _name_and_path(text, list(ports))
        feeds[name] = read_input(ports[name], path, resize)
    wanted: dict[str, Any] = dict.fromkeys(free_symbols(model.inputs), 1) | symbols
    wanted |= {name: array.shape for name, array in feeds.items()}
    rest = [p for p in model.inputs if p.name not in feeds]
    if rest:
        names = ", ".join(p.name for p in rest)
        err.print(f"random values (seed 0) for input {names}", style="dim")
        feeds |= random_feeds(rest, bind_shapes(model.inputs, wanted))
    return feeds


def _name_and_path(text: str, names: list[str]) -> tuple[str, Path]:
    """`NAME=FILE`, or `FILE` alone when the model has one input."""
    name, equals, path = text.partition("=")
    if not equals and len(names) == 1:
        return names[0], Path(text)
    if name not in names:
        raise tilth.InputError(f"--input '{text}': write NAME=FILE; inputs: {', '.join(names)}")
    return name, Path(path)


def table(*headers: str, numbers: Sequence[str] = ()) -> Table:
    """A plain table; the columns called `numbers` are set flush right."""
    made = Table(box=None, pad_edge=False)
    for header in headers:
        made.add_column(header, justify="right" if header in numbers else "left")
    return made
