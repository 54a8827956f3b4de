"""`tilth inspect`: what is inside a model, and whether it can be compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import tilth
from tilth.cli.console import ModelPath, Shapes, err, out, parse_shapes, table
from tilth.tools.simplified import write_simplified
from tilth.tools.summary import Summary, summarise


def inspect(
    model: ModelPath,
    shape: Shapes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    optimise: Annotated[
        Path | None, typer.Option(metavar="OUT.onnx", help="Write the simplified model as ONNX.")
    ] = None,
) -> None:
    """Show operators, parameters, FLOPs, inputs and outputs, and what is unsupported.

    The model that --optimise writes has exact shapes, its constants are folded, and what cancels
    is gone; open dimensions that --shape does not name become 1.
    """
    loaded = tilth.load(model)
    shapes = parse_shapes(loaded.inputs, shape)
    if optimise is not None:
        before, after = write_simplified(loaded, shapes, optimise)
        err.print(f"{optimise}: {after} nodes, from {before}", style="dim")
    summary = summarise(loaded, shapes)
    if as_json:
        print(json.dumps(summary.as_json(), indent=2))
    else:
        _show(summary)


def _show(summary: Summary) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    out.print(f"{summary.name} (opset {opsets})", markup=False)
    for title, ports in (("inputs", summary.inputs), ("outputs", summary.outputs)):
        out.print(f"{title}:")
        for port in ports:
            out.print(f"  {port}", markup=False)
    size = summary.parameter_bytes / 2**20
    out.print(f"parameters: {summary.parameters:,} ({size:.1f} MiB)")
    at = ", ".join(f"{s}={n}" for s, n in summary.shapes.items())
    if summary.flops is not None:
        out.print(f"one call: {summary.flops / 1e9:.3f} GFLOP" + (f" at {at}" if at else ""))
    counts = table("operator", "count", numbers=("count",))
    for operator, count in summary.operators.items():
        counts.add_row(operator, str(count))
    out.print(counts)
    if summary.problem:
        out.print(f"cannot be compiled: {summary.problem}", markup=False)
        return
    out.print("all operators are supported")
    if summary.stages:
        out.print(f"it is no static graph and runs in stages: {summary.stages}", markup=False)
        out.print("on the host, as far as it shows before a run:")
        for told in summary.host_ops:
            out.print(f"  {told.op} {told.node}: {told.why}", markup=False)
