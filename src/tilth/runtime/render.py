"""Reports and profiles as tables for the terminal (rich) and as plain text."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tilth.runtime.profile import Profile
from tilth.runtime.report import Report


def to_text(renderable: Any, width: int = 120) -> str:
    """What rich would print, without colours."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    return file.getvalue().rstrip()


def render_report(report: Report) -> Group:
    """Summary, one table of kernels per region, fusions, host operations, seconds by stage."""
    parts: list[Any] = [_summary(report)]
    parts += [_kernel_table(i, r) for i, r in enumerate(report.regions)]
    if report.host_ops:
        parts.append(
            _lines("host operations", [f"{h.op} {h.node}: {h.why}" for h in report.host_ops])
        )
    if report.fused:
        parts.append(_lines("fusions made", report.fused))
    if report.missed:
        parts.append(_lines("fusions missed", report.missed))
    if report.rewrites:
        parts.append(_lines("rewrites", report.rewrites))
    return Group(*parts)


def render_profile(profile: Profile) -> Group:
    """One row per kernel in order of execution, and the total."""
    table = _table("kernel", "node", "algorithm", "time ms", "share", "GFLOP/s", "GB/s", right=3)
    if profile.peak_flops:
        table.add_column("of peak", justify="right")
    for k in profile.kernels:
        cells = [k.name, k.node, k.algorithm, f"{k.seconds * 1e3:.3f}", f"{k.share:.1%}"]
        cells += [f"{k.flops_per_second / 1e9:.1f}", f"{k.bytes_per_second / 1e9:.1f}"]
        if profile.peak_flops:
            cells.append(f"{k.flops_per_second / profile.peak_flops:.0%}")
        table.add_row(*cells)
    in_kernels = sum(k.seconds for k in profile.kernels)
    total = f"{profile.model}: {profile.seconds * 1e3:.3f} ms a call"
    total += f", {in_kernels * 1e3:.3f} ms in {len(profile.kernels)} kernels"
    total += f", {profile.flops / profile.seconds / 1e9:.1f} GFLOP/s"
    if profile.peak_flops:
        total += f" ({profile.flops / profile.seconds / profile.peak_flops:.0%} of the FMA peak)"
    return Group(table, Text(total))


def bytes_text(count: int) -> str:
    """A size a person can read: 12.3 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _summary(report: Report) -> Text:
    regions = len(report.regions)
    lines = [
        f"{report.model} on {report.device}, {report.threads} threads, "
        f"precision {report.precision}",
        f"{regions} compiled region{'s' * (regions != 1)}, {len(report.kernels)} kernels, "
        f"{report.copies} copies, {len(report.host_ops)} host operations",
        f"arena {bytes_text(report.arena_bytes)}, weights {bytes_text(report.weight_bytes)}",
        f"{'loaded from the cache' if report.from_cache else 'compiled'} in "
        f"{report.compile_seconds:.2f} s ("
        + ", ".join(f"{stage} {s:.2f}" for stage, s in report.seconds)
        + ")",
    ]
    return Text("\n".join(lines))


def _kernel_table(index: int, region: Any) -> Table:
    table = _table("kernel", "nodes", "algorithm", "MFLOP", "traffic", right=3)
    table.title = f"region {index} on {region.device}: {region.nodes} nodes"
    for k in region.kernels:
        cost = (f"{k.flops / 1e6:.2f}", bytes_text(k.bytes))
        table.add_row(k.name, ", ".join(k.nodes), k.algorithm, *cost)
    return table


def _table(*headers: str, right: int) -> Table:
    """A plain table; columns from number `right` on hold numbers."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i >= right else "left", overflow="ellipsis")
    return table


def _lines(title: str, lines: Any) -> Text:
    return Text(f"{title}:\n" + "\n".join(f"  {line}" for line in lines))
