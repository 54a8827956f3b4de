"""What the commands share: the console, progress while compiling, and arguments they all take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tilth
from tilth.interface import bind_shapes, complete, free_symbols, with_extents
from tilth.tools.engines import fed_shapes
from tilth.tools.inputs import random_feeds, read_input

if TYPE_CHECKING:
    from tilth.onnx.load import Port

_PIPE_WIDTH = 140  # columns when nobody watches
out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=FILE", help="Feed from .npy, .json, .png (repeatable)."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SHAPE",
        help="An input's shape, as in x=1,3,224,224, or a symbol's extent (else 1), as in n=8.",
    ),
]
Buckets = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket", metavar="SYMBOL=N,N,...", help="Pad a symbol to the next of these sizes."
    ),
]
DeviceName = Annotated[str, typer.Option("--device", help="kind[:model][#index]")]
Threads = Annotated[int, typer.Option("--threads", help="0: all cores this process may use.")]
Resize = Annotated[bool, typer.Option("--resize", help="Fit pictures to the input's size.")]


def compile_model(
    model: tilth.Model,
    shapes: Any,
    device: str,
    threads: int,
    buckets: dict[str, list[int]] | None = None,
) -> tilth.Compiled:
    """Compile with the current stage shown on stderr, and a line on what it took."""
    spinner = err.status("compiling") if err.is_terminal else nullcontext()
    with spinner as status:

        def show(stage: str) -> None:
            if status is not None:
                status.update(f"{model.name}: {stage}")

        executable = model.compile(
            device=device, threads=threads, shapes=shapes, progress=show, buckets=buckets
        )
    report = executable.report
    if report.regions:
        err.print(f"{model.name} {report.origin}", style="dim")
    return executable


def show_host_operators(report: tilth.Report) -> None:
    """A line for each node that did not run in compiled code, and why, if there are any."""
    if report.host_ops:
        parts = f"{len(report.regions)} compiled regions"
        err.print(f"{report.model} ran in stages: {parts}, and on the host:", style="dim")
    for h in report.host_ops:
        err.print(f"  {h.op} {h.node}: {h.why}", style="dim", markup=False, soft_wrap=True)


def parse_buckets(texts: Sequence[str] | None) -> dict[str, list[int]] | None:
    """`--bucket` options: sizes by symbol; None if there are none."""
    buckets = {}
    for text in texts or ():
        symbol, _, sizes = text.rpartition("=")
        if not symbol or not all(n.strip().isdecimal() for n in sizes.split(",")):
            raise tilth.InputError(f"--bucket takes SYMBOL=N,N,..., not '{text}'")
        buckets[symbol] = [int(n) for n in sizes.split(",")]
    return buckets or None


def parse_shapes(inputs: Sequence[Port], texts: Sequence[str] | None) -> dict[str, Any]:
    """`--shape` options: extents of symbols, shapes of inputs."""
    symbols = free_symbols(inputs)
    shapes: dict[str, Any] = {}
    for text in texts or ():
        name, _, extents = text.rpartition("=")
        numbers = extents.split(",")
        if not name or not all(n.strip().isdecimal() for n in numbers):
            raise tilth.InputError(f"--shape takes INPUT=N,N,... or SYMBOL=N, not '{text}'")
        shape = tuple(map(int, numbers))
        is_input = len(shape) > 1 or (name not in symbols and name in [p.name for p in inputs])
        shapes[name] = shape if is_input else shape[0]
    return shapes


def make_feeds(
    model: tilth.Model, files: Sequence[str] | None, wanted: dict[str, Any], resize: bool = False
) -> dict[str, Any]:
    """Feeds from the named files; random ones, and a word about it, for the other inputs.

    Symbols that neither `wanted` nor a file says anything about are 1.
    """
    ports = {p.name: p for p in model.inputs}
    feeds = {}
    for text in files or ():
        name, path = _name_and_path(text, list(ports))
        feeds[name] = read_input(ports[name], path, resize)
    shapes = complete(model.inputs, wanted | fed_shapes(feeds))
    rest = [p for p in with_extents(model.inputs, shapes) if p.name not in feeds]
    if rest:
        names = ", ".join(p.name for p in rest)
        err.print(f"random values (seed 0) for input {names}", style="dim")
        feeds |= random_feeds(rest, bind_shapes([p for p in rest if not p.container], {}))
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
