"""`tilth compare`: where the values inside a compiled model leave the right path."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import tilth
from tilth.cli.console import (
    DeviceName,
    Inputs,
    ModelPath,
    Resize,
    Shapes,
    Threads,
    err,
    make_feeds,
    out,
    parse_shapes,
    table,
)
from tilth.tools.compare import Comparison, Row, compare_layers
from tilth.tools.compare_html import comparison_page

_NUMBERS = ("relative", "largest", "mean", "cosine", "operands")
_WIDTH_OF_FILES = 160


class Side(StrEnum):
    """What to compare with."""

    reference = "reference"
    onnxruntime = "onnxruntime"


class Order(StrEnum):
    """How to sort the table."""

    worst = "worst"
    graph = "graph"


def compare(
    model: ModelPath,
    input: Inputs = None,
    shape: Shapes = None,
    device: DeviceName = "cpu",
    threads: Threads = 0,
    against: Annotated[Side, typer.Option(help="Who is right.")] = Side.reference,
    tolerance: Annotated[float, typer.Option(help="Relative error allowed.")] = 1e-4,
    fused: Annotated[
        bool, typer.Option("--fused", help="The code as users run it: values between its kernels.")
    ] = False,
    order: Annotated[Order, typer.Option(help="Order of the table.")] = Order.worst,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show; 0: all.")] = 20,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all rows as JSON.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the error along the graph."),
    ] = None,
    resize: Resize = False,
) -> None:
    """Compare every value inside MODEL on a device with the reference or ONNX Runtime.

    Errors are relative to the largest magnitude of the right value; `operands` is the worst of the
    values that the node reads. Exit code 1 if a value is beyond the tolerance.
    """
    loaded = tilth.load(model)
    feeds = make_feeds(loaded, input, parse_shapes(loaded.inputs, shape), resize)
    with err.status(f"comparing {loaded.name}"):
        found = compare_layers(loaded, feeds, device, against, tolerance, fused, threads)
    _show(found, found.worst_first if order is Order.worst else list(found.rows), rows)
    if as_json is not None:
        as_json.write_text(json.dumps(found.as_json(), indent=1))
    if html is not None:
        html.write_text(comparison_page(found), encoding="utf-8")
    if found.first_divergence is not None:
        raise typer.Exit(1)


def _show(comparison: Comparison, rows: list[Row], most: int) -> None:
    out.print(f"{comparison.model} on {comparison.device} against {comparison.against}")
    out.print(f"compared: {comparison.mode}")
    chosen = rows[: most or None]
    cells = [_cells(row) for row in chosen]
    used = [h for h in cells[0] if any(c[h] for c in cells)] if cells else []
    shown = table(*used, numbers=_NUMBERS)
    for column in shown.columns:
        column.no_wrap = True
        column.min_width = 8 if column.header in _NUMBERS else None
    for row, texts in zip(chosen, cells, strict=True):
        style = "bold red" if row.exceeds else None
        shown.add_row(*(escape(texts[h]) for h in used), style=style)
    wide = out if out.is_terminal else Console(width=_WIDTH_OF_FILES, highlight=False)
    wide.print(shown)
    if most and len(rows) > most:
        out.print(f"... and {len(rows) - most} more (--rows 0 shows all)", style="dim")
    out.print(_verdict(comparison), markup=False, soft_wrap=True)


def _cells(row: Row) -> dict[str, str]:
    far = row.difference
    return {
        "value": row.value,
        "operator": row.operator,
        "type": row.type,
        "relative": f"{far.relative_error:.1e}",
        "largest": f"{far.max_error:.1e}",
        "mean": f"{far.mean_error:.1e}",
        "cosine": f"{far.cosine:.6f}",
        "operands": "" if row.operands_error is None else f"{row.operands_error:.1e}",
        "NaN": _counts(far.nans),
        "inf": _counts(far.infinities),
        "source": Path(row.source.split(": ")[0]).name,  # without the line of code
    }


def _counts(pair: tuple[int, int]) -> str:
    """Found and expected, or nothing when there are none."""
    return "/".join(map(str, pair)) if any(pair) else ""


def _verdict(comparison: Comparison) -> str:
    count = sum(row.exceeds for row in comparison.rows)
    told = f"{count} of {len(comparison.rows)} values beyond the tolerance {comparison.tolerance:g}"
    first = comparison.first_divergence
    if first is None:
        return told
    source = f", from {first.source}" if first.source else ""
    return (
        f"{told}; the first is '{first.value}', of node '{first.node}' ({first.operator}){source}"
    )
