"""A profile as one HTML page that needs nothing else: totals, roofline, sortable table.

The look is in `profile_page.html` beside this file; here its blanks are filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from string import Template

import tilth
from tilth.runtime.profile import KernelTime, Profile
from tilth.runtime.render import bytes_text
from tilth.tools.machine import describe_machine
from tilth.tools.roofline import intensity, kernel_groups, roofline

_TEXTS = ("kernel", "nodes", "algorithm")
_NUMBERS = ("ms", "share", "wait µs", "GFLOP/s", "of peak", "GB/s", "of memory", "FLOP/byte")
_ROOFLINE_NOTE = (
    "Each dot is a kernel, its area the time it takes; the bold line is what this machine can do, "
    "measured in the same process. Left of the bend a kernel is limited by memory, right of it by "
    "arithmetic. Dots above the slope read from caches; dots above the flat roof save operations, "
    "as Winograd's convolution does: operations are those of the plain definition."
)
_TABLE_NOTE = (
    "Wait is the time from a thread's end of the kernel to its next start, the mean of all threads "
    "(hover: each one). Bytes are operands and results, each counted once."
)


def profile_page(profile: Profile) -> str:
    """The page as text. Units are in its headings; a call's time is without instruments."""
    template = Template(files("tilth.tools").joinpath("profile_page.html").read_text("utf-8"))
    machine = describe_machine(profile.threads)
    return template.substitute(
        model=escape(profile.model),
        subtitle=f"{escape(str(machine['processor']))}, {profile.threads} threads",
        cards="\n".join(_cards(profile)),
        legend="\n".join(_legend(profile)),
        roofline=roofline(profile),
        roofline_note=_ROOFLINE_NOTE + _without_arithmetic(profile),
        headings="\n".join(_headings()),
        rows="\n".join(_rows(profile)),
        table_note=_TABLE_NOTE,
        footer=f"Tilth {tilth.__version__}, {len(profile.runs)} runs, {machine['date']}",
    )


def _cards(profile: Profile) -> Iterator[str]:
    rate, limits = profile.flops / profile.seconds, profile.limits
    yield _card("one call", f"{profile.seconds * 1e3:.3f}", "ms")
    yield _card("work", f"{profile.flops / 1e9:.3f}", "GFLOP", bytes_text(profile.bytes))
    share = f"{rate / limits.flops_per_second:.0%} of the peak" if limits else ""
    yield _card("rate", f"{rate / 1e9:.1f}", "GFLOP/s", share)
    yield _card("kernels", str(len(profile.kernels)))
    yield _card("threads wait", f"{profile.waiting:.0%}", "", "of their time")
    if limits:
        yield _card("FMA peak", f"{limits.flops_per_second / 1e9:.0f}", "GFLOP/s")
        yield _card("memory reads", f"{limits.bytes_per_second / 1e9:.1f}", "GB/s")


def _card(title: str, value: str, unit: str = "", more: str = "") -> str:
    return f"<div><dt>{title}</dt><dd>{value} <em>{unit}</em><small>{more}</small></dd></div>"


def _legend(profile: Profile) -> Iterator[str]:
    for name, group in kernel_groups(profile).items():
        share = sum(kernel.share for kernel in profile.kernels if kernel.name == name)
        yield f'<li><i class="g{group}"></i>{escape(name)} <span>{share:.1%}</span></li>'


def _without_arithmetic(profile: Profile) -> str:
    moving = [k for k in profile.kernels if not k.flops]
    if not moving:
        return ""
    share = sum(k.share for k in moving)
    return f" Not shown: {len(moving)} kernels that only move data, {share:.1%} of the time."


def _headings() -> Iterator[str]:
    yield '<th class="n" aria-sort="ascending">#</th>'
    for name in _TEXTS:
        yield f'<th data-text="1">{name}</th>'
    for name in _NUMBERS:
        yield f'<th class="n">{name}</th>'


def _rows(profile: Profile) -> Iterator[str]:
    groups = kernel_groups(profile)
    for number, kernel in enumerate(profile.kernels, 1):
        cells = "".join(_cells(profile, number, kernel, groups[kernel.name]))
        yield f'<tr id="k{number}">{cells}</tr>'


def _cells(profile: Profile, number: int, k: KernelTime, group: int) -> Iterator[str]:
    yield _number(number, str(number))
    yield _text("name", k.name, f' style="--own: var(--g{group})"')
    yield _text("node", k.node)
    yield _text("how", k.algorithm)
    yield _number(k.seconds, f"{k.seconds * 1e3:.3f}")
    longest = max(kernel.share for kernel in profile.kernels) or 1.0
    bar = f'<span class="bar g{group}" style="width: {k.share / longest:.0%}"></span>'
    yield _number(k.share, f"{k.share:.1%}{bar}")
    each = ", ".join(f"thread {i}: {s * 1e6:.1f} µs" for i, s in enumerate(k.waits))
    yield _number(k.wait, f'<span title="{each}">{k.wait * 1e6:.1f}</span>')
    limits = profile.limits
    yield _number(k.flops_per_second, f"{k.flops_per_second / 1e9:.1f}")
    yield _share(k.flops_per_second, limits.flops_per_second if limits else None)
    yield _number(k.bytes_per_second, f"{k.bytes_per_second / 1e9:.1f}")
    yield _share(k.bytes_per_second, limits.bytes_per_second if limits else None)
    yield _number(intensity(k), f"{intensity(k):.2f}")


def _share(rate: float, limit: float | None) -> str:
    return _number(rate / limit, f"{rate / limit:.0%}") if limit else _number(0.0, "-")


def _number(value: float, shown: str) -> str:
    return f'<td class="n" data-value="{value!r}">{shown}</td>'


def _text(kind: str, text: str, more: str = "") -> str:
    return f'<td class="{kind}" data-value="{escape(text, quote=True)}"{more}>{escape(text)}</td>'
