"""`tilth run`: run a model once and show its outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
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
    compile_model,
    make_feeds,
    out,
    parse_buckets,
    parse_shapes,
    show_host_operators,
    table,
)
from tilth.runtime.devices import usable_cores
from tilth.tools.difference import relative_error
from tilth.tools.engines import Job, fed_shapes, run_once, tensors


def run(
    model: ModelPath,
    input: Inputs = None,
    shape: Shapes = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    top: Annotated[int, typer.Option("--top", help="Show the K largest of each output.")] = 0,
    against: Annotated[
        str, typer.Option("--against", help="Compare with: onnxruntime, openvino.")
    ] = "",
    tolerance: Annotated[float, typer.Option(help="Relative error allowed.")] = 1e-4,
    save: Annotated[Path | None, typer.Option("--save", help="Write outputs to an .npz.")] = None,
    bucket: Buckets = None,
    resize: Resize = False,
) -> None:
    """Run MODEL once and show its outputs; random inputs where none are given.

    --against shows whether padding to a --bucket changes anything: the other engine does not pad.
    """
    loaded = tilth.load(model)
    feeds = make_feeds(loaded, input, parse_shapes(loaded.inputs, shape), resize)
    buckets = parse_buckets(bucket)
    shapes = None if buckets else fed_shapes(feeds)
    executable = compile_model(loaded, shapes, device, threads, buckets)
    start = time.perf_counter()
    outputs = executable(feeds)
    out.print(f"ran in {(time.perf_counter() - start) * 1e3:.3f} ms on {device}")
    show_host_operators(executable.report)
    named = dict(_named(outputs))
    _show(named, top)
    if save is not None:
        np.savez(save, allow_pickle=False, **named)
    if against:
        expected = run_once(against, Job(model, feeds, threads or usable_cores()))
        error = relative_error(tensors(list(outputs.values())), expected)
        out.print(f"largest relative error against {against}: {error:.1e} (allowed {tolerance:g})")
        if error > tolerance:
            raise typer.Exit(1)


def _named(outputs: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor with a name: those in lists and dictionaries have the output's and their own."""
    for name, value in outputs.items():
        if isinstance(value, list):
            yield from _named({f"{name}.{i}": item for i, item in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from _named({f"{name}.{key}": item for key, item in value.items()})
        elif value is not None:
            yield name, np.asarray(value)


def _show(outputs: dict[str, np.ndarray], top: int) -> None:
    shown = table("output", "dtype", "shape", "min", "max", "mean", numbers=("min", "max", "mean"))
    for name, array in outputs.items():
        figures = [array.min(), array.max(), array.mean()] if _has_range(array) else []
        cells = [f"{float(v):.6g}" for v in figures]
        shown.add_row(name, array.dtype.name, str(list(array.shape)), *cells)
    out.print(shown)
    if top > 0:
        for name, array in outputs.items():
            _show_top(name, array, top)


def _has_range(array: np.ndarray) -> bool:
    return array.size > 0 and array.dtype.kind in "biuf"


def _show_top(name: str, array: np.ndarray, top: int) -> None:
    """The largest values along the last axis, for the first row of all others."""
    if not _has_range(array) or array.ndim == 0:
        return
    row = array.reshape(-1, array.shape[-1])[0]
    best = np.argsort(-row.astype(np.float64), kind="stable")[:top]
    out.print(f"{name}: " + ", ".join(f"{i} ({float(row[i]):.6g})" for i in best))
