"""A roofline picture as SVG: how fast each kernel is, and what holds it back.

Across: floating-point operations per byte of operands; up: operations per second; both logarithmic.
The roofs are what memory and arithmetic allow (Williams, Waterman, Patterson, CACM 52(4), 2009): a
kernel under the slope is limited by memory, one under the flat roof by arithmetic. A dot's area is
its time. Dots above the slope read from caches, dots above the flat roof save operations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tilth.runtime.profile import KernelTime, Limits, Profile

WIDTH, HEIGHT = 960, 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 24, 56
_DOT = 44.0  # radius of a kernel that would take all the time
_SMALLEST_DOT, _LARGEST_DOT = 3.0, 26.0
_NUMBERED_DOT = 10.0  # dots of this radius have room for their number
_DECADES = 4  # of FLOP/s shown at most, counted from the top
_GROUPS = 7  # colours; what is left shares another one


def kernel_groups(profile: Profile) -> dict[str, int]:
    """The kinds of kernels, the longest-running first, and the number of each one's colour."""
    seconds: dict[str, float] = defaultdict(float)
    for kernel in profile.kernels:
        seconds[kernel.name] += kernel.seconds
    names = sorted(seconds, key=lambda name: -seconds[name])
    return {name: min(i, _GROUPS) for i, name in enumerate(names)}


def intensity(kernel: KernelTime) -> float:
    """Operations per byte of operands and results; 0 for kernels that only move data."""
    return kernel.flops / kernel.bytes if kernel.bytes else 0.0


def roofline(profile: Profile) -> str:
    """The picture; colours are the classes `g0` .. `g7`, see `kernel_groups`."""
    shown = [(i, k) for i, k in enumerate(profile.kernels) if k.flops and k.bytes and k.seconds]
    axes = _axes([k for _, k in shown], profile.limits)
    parts = [
        f'<svg class="roofline" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Roofline of {escape(profile.model, quote=True)}">',
        *_grid(axes),
        *(_roofs(axes, profile.limits) if profile.limits else ()),
        *_dots(axes, shown, kernel_groups(profile)),
        *(_roof_names(axes, profile.limits) if profile.limits else ()),
        "</svg>",
    ]
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class _Axes:
    """The ranges of both axes, as decimal logarithms, mapped to the picture."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, per_byte: float) -> float:
        part = (math.log10(per_byte) - self.low_x) / (self.high_x - self.low_x)
        return _LEFT + part * (WIDTH - _LEFT - _RIGHT)

    def y(self, rate: float) -> float:
        part = (math.log10(rate) - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - _BOTTOM - max(0.0, part) * (HEIGHT - _TOP - _BOTTOM)


def _axes(kernels: Sequence[KernelTime], limits: Limits | None) -> _Axes:
    """Room for all kernels and for the point where the roofs meet."""
    across = [intensity(k) for k in kernels] or [1.0]
    up = [k.flops_per_second for k in kernels] or [1e9]
    if limits:
        across.append(limits.flops_per_second / limits.bytes_per_second)
        up.append(limits.flops_per_second)
    high_y = math.log10(max(up)) + 0.25
    low_y = max(math.floor(math.log10(min(up))), math.floor(high_y) - _DECADES)
    low_x, high_x = math.log10(min(across)) - 0.3, math.log10(max(across)) + 0.5
    return _Axes(low_x, high_x, low_y, high_y)


def _grid(axes: _Axes) -> Iterator[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value, major in _ticks(axes.low_x, axes.high_x):
        x = axes.x(value)
        yield _line("grid" if major else "fine", x, _TOP, x, bottom)
        if major:
            yield f'<text x="{x:.1f}" y="{bottom + 18}" class="middle">{value:g}</text>'
    for value, major in _ticks(axes.low_y, axes.high_y):
        y = axes.y(value)
        yield _line("grid" if major else "fine", _LEFT, y, right, y)
        if major:
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" class="end">{value / 1e9:g}</text>'
    below = f'x="{(_LEFT + right) / 2}" y="{HEIGHT - 12}"'
    yield f'<text {below} class="middle axis">FLOP per byte of operands</text>'
    turned = f'transform="translate(18 {(_TOP + bottom) / 2}) rotate(-90)"'
    yield f'<text {turned} class="middle axis">GFLOP/s</text>'


def _ticks(low: float, high: float) -> Iterator[tuple[float, bool]]:
    """1, 2, .. 9 times the powers of ten between two logarithms; whether it is such a power."""
    for decade in range(math.floor(low), math.ceil(high) + 1):
        for digit in range(1, 10):
            value = digit * 10.0**decade
            if low <= math.log10(value) <= high:
                yield value, digit == 1


def _roofs(axes: _Axes, limits: Limits) -> Iterator[str]:
    """The slope of memory, the flat roof of arithmetic, and what lies under them."""
    (x0, y0), (x1, y1) = _slope(axes, limits)
    right = WIDTH - _RIGHT
    yield (
        f'<path class="under" d="M{x0:.1f} {y0:.1f} L{x1:.1f} {y1:.1f} H{right} '
        f'V{HEIGHT - _BOTTOM} H{x0:.1f} Z"/>'
    )
    yield f'<path class="roof" d="M{x0:.1f} {y0:.1f} L{x1:.1f} {y1:.1f} H{right}"/>'


def _roof_names(axes: _Axes, limits: Limits) -> Iterator[str]:
    """The limits in figures, along their roofs."""
    (x0, y0), (x1, y1) = _slope(axes, limits)
    yield (
        f'<text x="{WIDTH - _RIGHT - 4}" y="{y1 - 8:.1f}" class="end roof-name">'
        f"FMA peak {limits.flops_per_second / 1e9:.0f} GFLOP/s</text>"
    )
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    place = f"translate({0.8 * x0 + 0.2 * x1:.1f} {0.8 * y0 + 0.2 * y1:.1f}) rotate({angle:.1f})"
    yield (
        f'<text transform="{place}" y="-9" class="middle roof-name">'
        f"memory {limits.bytes_per_second / 1e9:.1f} GB/s</text>"
    )


def _slope(axes: _Axes, limits: Limits) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the slope of memory begins in the picture, and where it meets the flat roof."""
    peak, bandwidth = limits.flops_per_second, limits.bytes_per_second
    start = max(10**axes.low_x, 10**axes.low_y / bandwidth)
    return (axes.x(start), axes.y(start * bandwidth)), (axes.x(peak / bandwidth), axes.y(peak))


def _dots(
    axes: _Axes, shown: Sequence[tuple[int, KernelTime]], groups: dict[str, int]
) -> Iterator[str]:
    """Small dots on top of large ones, each leading to its row of the table."""
    for i, k in sorted(shown, key=lambda entry: -entry[1].seconds):
        x, y = axes.x(intensity(k)), axes.y(k.flops_per_second)
        radius = min(max(_SMALLEST_DOT, _DOT * math.sqrt(k.share)), _LARGEST_DOT)
        name = escape(
            f"#{i + 1} {k.name} {k.node}\n{k.algorithm}\n{k.seconds * 1e3:.3f} ms, {k.share:.1%}, "
            f"{k.flops_per_second / 1e9:.1f} GFLOP/s at {intensity(k):.2f} FLOP/byte"
        )
        yield f'<a href="#k{i + 1}"><circle class="dot g{groups[k.name]}" data-row="k{i + 1}" '
        yield f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{name}</title></circle>'
        if radius >= _NUMBERED_DOT:
            yield f'<text x="{x:.1f}" y="{y + 4:.1f}" class="middle number">{i + 1}</text>'
        yield "</a>"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
