"""The commands put together."""

from __future__ import annotations

from typing import Annotated

import typer

import tilth
from tilth.cli.bench import bench
from tilth.cli.cache import cache
from tilth.cli.compare import compare
from tilth.cli.devices import devices
from tilth.cli.doctor import doctor
from tilth.cli.inspect import inspect
from tilth.cli.profile import profile
from tilth.cli.run import run

app = typer.Typer(
    name="tilth",
    help="Compile a model once, run it fast on whatever chip is there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, bench, compare, inspect, profile, devices, doctor, cache):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tilth {tilth.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options before the command."""
