"""A comparison as one HTML page without any other file: the error along the graph, and a table.

The chart has one point per value in the order of the graph and a logarithmic axis; what is beyond
the tolerance is drawn in another colour and another shape. Points lead to rows of the table.
"""

from __future__ import annotations

import math
from html import escape

from tilth.tools.compare import Comparison, Row

_WIDTH, _HEIGHT = 1000, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 36
_FLOOR = -10  # decades: smaller errors, and exact values, lie on the axis
_HEADERS = ("#", "value", "node", "operator", "type", "relative", "largest", "mean", "1 - cosine",
            "operands", "NaN", "inf", "source")  # fmt: skip

_STYLE = """
:root { --ink: #1c2733; --paper: #ffffff; --faint: #d5dce3; --good: #2f6fab; --bad: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe6ec; --paper: #14191f; --faint: #3a444f; --good: #7ab4ea; --bad: #ff9a5c; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } svg { width: 100%; height: auto; } svg text { fill: var(--ink); }
.grid { stroke: var(--faint); } .limit { stroke: var(--bad); stroke-dasharray: 6 4; }
.line { fill: none; stroke: var(--good); stroke-opacity: .35; }
.point { fill: var(--good); } .beyond { fill: var(--bad); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .2rem .6rem; text-align: left; white-space: nowrap; }
th { cursor: pointer; border-bottom: 1px solid var(--ink); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.exceeds { color: var(--bad); font-weight: 600; } tr:target { outline: 2px solid var(--good); }
"""
_SORT = """
for (const [column, head] of document.querySelectorAll("th").entries())
  head.onclick = () => {
    const rows = document.querySelector("tbody"), back = head.dataset.down === "1" ? -1 : 1;
    head.dataset.down = back === 1 ? "1" : "0";
    const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
    const number = row => Number(key(row));
    const numeric = !isNaN(number(rows.rows[0]));
    const order = (a, b) => numeric ? number(b) - number(a) : key(a).localeCompare(key(b));
    rows.append(...[...rows.rows].sort((a, b) => back * order(a, b)));
  };
"""


def comparison_page(comparison: Comparison) -> str:
    """The page as text."""
    title = f"{comparison.model}: {comparison.device} against {comparison.against}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1>
<p>Compared: {escape(comparison.mode)}. {_verdict(comparison)}</p>
{_chart(comparison)}
<div class="scroll"><table><thead><tr>{"".join(map(_header, _HEADERS))}</tr></thead>
<tbody>{"".join(_row(i, row) for i, row in enumerate(comparison.rows))}</tbody></table></div>
<script>{_SORT}</script></body></html>
"""


def _verdict(comparison: Comparison) -> str:
    count = sum(row.exceeds for row in comparison.rows)
    told = f"{len(comparison.rows)} values, {count} beyond the tolerance {comparison.tolerance:g}."
    first = comparison.first_divergence
    if first is None:
        return told
    place = comparison.rows.index(first)
    where = f"{first.value} ({first.node}, {first.operator})"
    return f'{told} First divergence: <a href="#row{place}">{escape(where)}</a>.'


def _chart(comparison: Comparison) -> str:
    rows = comparison.rows
    top = max([0, *(math.ceil(_decade(r)) for r in rows)])
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(rows) - 1)

    def x(place: int) -> float:
        return _LEFT + place * step

    def y(decade: float) -> float:
        return _TOP + (top - decade) / (top - _FLOOR) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid_line(y(d), d) for d in range(_FLOOR, top + 1, 2)]
    limit = y(max(_FLOOR, math.log10(max(comparison.tolerance, 1e-300))))
    ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}"'
    parts.append(f'<line class="limit" {ends} y1="{limit:.1f}" y2="{limit:.1f}"/>')
    line = " ".join(f"{x(i):.1f},{y(_decade(row)):.1f}" for i, row in enumerate(rows))
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts += [_point(i, row, x(i), y(_decade(row))) for i, row in enumerate(rows)]
    labels = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}" font-size="13">values in the order of the graph'
        f'</text><text x="14" y="{_HEIGHT / 2}" font-size="13" text-anchor="middle" '
        f'transform="rotate(-90 14 {_HEIGHT / 2})">relative error</text>'
    )
    described = f'role="img" aria-label="Relative error of each of {len(rows)} values"'
    drawn = "".join(parts) + labels
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" {described}>{drawn}</svg>'


def _decade(row: Row) -> float:
    """Where the relative error lies on the axis; infinite ones at 1e2."""
    error = row.difference.relative_error
    return max(_FLOOR, math.log10(min(error, 1e2))) if error > 0 else _FLOOR


def _grid_line(y: float, decade: int) -> str:
    label = "≤1e-10" if decade == _FLOOR else f"1e{decade}"
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" font-size="12" text-anchor="end">{label}</text>'
    )


def _point(place: int, row: Row, x: float, y: float) -> str:
    told = escape(f"{row.value}\n{row.node} ({row.operator})\n{row.difference.relative_error:.2e}")
    if row.exceeds:
        corners = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
        shape = f'<polygon class="beyond" points="{corners}">'
        return f'<a href="#row{place}">{shape}<title>{told}</title></polygon></a>'
    shape = f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3">'
    return f'<a href="#row{place}">{shape}<title>{told}</title></circle></a>'


def _header(name: str) -> str:
    numeric = name in ("#", "relative", "largest", "mean", "1 - cosine", "operands")
    return f'<th class="number">{name}</th>' if numeric else f"<th>{name}</th>"


def _row(place: int, row: Row) -> str:
    far = row.difference
    texts = (row.value, row.node, row.operator, row.type)
    numbers = (
        far.relative_error,
        far.max_error,
        far.mean_error,
        1 - far.cosine,
        row.operands_error,
    )
    cells = [
        f'<td class="number">{place}</td>',
        *(f"<td>{escape(text)}</td>" for text in texts),
        *map(_number, numbers),
        *(f"<td>{found} / {wanted}</td>" for found, wanted in (far.nans, far.infinities)),
        f"<td>{escape(row.source)}</td>",
    ]
    kind = ' class="exceeds"' if row.exceeds else ""
    return f'<tr id="row{place}"{kind}>{"".join(cells)}</tr>\n'


def _number(number: float | None) -> str:
    """A cell, with its number as JavaScript reads it."""
    if number is None:
        return '<td class="number" data-key="0">-</td>'
    key = f"{number:.6e}" if math.isfinite(number) else "Infinity"
    return f'<td class="number" data-key="{key}">{number:.2e}</td>'
