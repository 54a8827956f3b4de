"""The profile's page stands alone, shows every kernel, and draws each where its rates say."""

import math
import re
from xml.etree import ElementTree

import pytest

from tilth.runtime.profile import Limits, Profile, summarise
from tilth.runtime.target import KernelRecord
from tilth.runtime.trace import TracedRecord
from tilth.tools.profile_page import profile_page
from tilth.tools.roofline import kernel_groups, roofline

LIMITS = Limits(flops_per_second=100e9, bytes_per_second=10e9)  # they meet at 10 FLOP/byte


def profile_of(*kernels: tuple[str, float, int, int], limits: Limits | None = LIMITS) -> Profile:
    """Kernels one after the other on one thread: name, seconds, FLOP, bytes."""
    records, now = [], 0.0
    for name, seconds, flops, nbytes in kernels:
        kernel = KernelRecord(name, f"<{name}>", "how & why", 0, now, seconds, flops, nbytes)
        records.append(TracedRecord("cpu", kernel))
        now += seconds
    return summarise("a<b", [records], now or 1.0, limits)


def picture(profile: Profile) -> ElementTree.Element:
    return ElementTree.fromstring(roofline(profile))


def dots(profile: Profile) -> dict[str, dict[str, float]]:
    """Row to x, y and radius of its dot."""
    return {
        dot.attrib["data-row"]: {name: float(dot.attrib[name]) for name in ("cx", "cy", "r")}
        for dot in picture(profile).iter("circle")
    }


def roof_points(profile: Profile) -> list[float]:
    """x and y where the slope begins, x and y where it ends, x where the flat roof ends."""
    (roof,) = [p for p in picture(profile).iter("path") if p.attrib["class"] == "roof"]
    return [float(number) for number in re.findall(r"[\d.]+", roof.attrib["d"])]


def test_a_kernel_at_both_limits_sits_where_the_roofs_meet():
    profile = profile_of(("k", 1e-3, 100_000_000, 10_000_000))
    _, _, x, y, _ = roof_points(profile)
    assert dots(profile)["k1"]["cx"] == pytest.approx(x, abs=0.1)
    assert dots(profile)["k1"]["cy"] == pytest.approx(y, abs=0.1)


def test_a_kernel_at_the_memory_limit_sits_on_the_slope():
    profile = profile_of(("k", 1e-3, 10_000_000, 10_000_000))  # 1 FLOP/byte, all the bandwidth
    x0, y0, x1, y1, _ = roof_points(profile)
    dot = dots(profile)["k1"]
    assert dot["cy"] == pytest.approx(y0 + (dot["cx"] - x0) / (x1 - x0) * (y1 - y0), abs=0.2)


def test_faster_is_higher_and_more_operations_per_byte_are_further_right():
    found = dots(profile_of(("a", 1e-3, 10**6, 10**6), ("b", 1e-3, 10**7, 10**6)))
    assert found["k2"]["cy"] < found["k1"]["cy"]
    assert found["k2"]["cx"] > found["k1"]["cx"]


def test_the_area_of_a_dot_is_its_time():
    found = dots(profile_of(*[("k", s, 10**6, 10**6) for s in (0.02, 0.08, 0.45, 0.45)]))
    assert found["k2"]["r"] / found["k1"]["r"] == pytest.approx(math.sqrt(4), rel=0.02)


def test_the_longest_running_kind_comes_first_and_late_kinds_share_a_colour():
    kernels = [(f"kind {i}", 1.0 + i, 1, 1) for i in range(10)]
    groups = kernel_groups(profile_of(*kernels))
    assert next(iter(groups)) == "kind 9"
    assert sorted(groups.values()) == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]


def test_what_only_moves_data_is_in_the_table_and_not_in_the_picture():
    profile = profile_of(("k", 1e-3, 10**6, 10**6), ("copy", 1e-3, 0, 10**6))
    assert set(dots(profile)) == {"k1"}
    page = profile_page(profile)
    assert 'id="k2"' in page
    assert "Not shown: 1 kernels that only move data, 50.0% of the time." in page


def test_the_page_needs_nothing_from_elsewhere():
    page = profile_page(profile_of(("k", 1e-3, 10**6, 10**6)))
    assert not re.search(r"https?://|src=|@import|url\(|<link", page)


def test_names_are_escaped():
    page = profile_page(profile_of(("k", 1e-3, 10**6, 10**6)))
    assert "<title>a&lt;b: profile</title>" in page
    assert ">&lt;k&gt;</td>" in page
    assert "how &amp; why" in page


def test_cells_carry_the_values_to_sort_by():
    page = profile_page(profile_of(("k", 0.25, 10**6, 10**6)))
    assert '<td class="n" data-value="0.25">250.000</td>' in page
    assert '<td class="name" data-value="k"' in page


def test_without_limits_there_are_no_roofs_and_no_shares():
    profile = profile_of(("k", 1e-3, 10**6, 10**6), limits=None)
    assert not list(picture(profile).iter("path"))
    assert set(dots(profile)) == {"k1"}
    assert "FMA peak" not in profile_page(profile)


def test_a_model_without_kernels_has_a_page_too():
    assert "<tbody>" in profile_page(profile_of())
