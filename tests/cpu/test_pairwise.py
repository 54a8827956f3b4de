"""Runs of long sums: nearly as long as asked for, made of whole loops or even pieces of one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.cpu.kernels.pairwise import Runs, cut


@pytest.mark.parametrize(
    "sizes, runs",
    [
        ((40,), None),  # nearer to one run than to two
        ((512,), Runs(0, 32)),
        ((100,), Runs(0, 36)),  # a multiple of what the inner loop unrolls
        ((3, 3, 3), None),
        ((7, 21), Runs(0, 2)),  # two rows of a window at a time
        ((9, 16), Runs(0, 3)),
        ((9, 64), Runs(1, 32)),
        ((), None),
    ],
)
def test_runs_of_about_32_terms(sizes, runs):
    assert cut(sizes, 32) == runs


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4), target=st.integers(4, 200))
def test_runs_are_near_the_target(sizes, target):
    runs = cut(sizes, target)
    if runs is None:
        assert math.prod(sizes) <= 1.5 * target
        return
    inside = math.prod(sizes[runs.level + 1 :])
    assert 1 <= runs.length < sizes[runs.level] + 4
    assert runs.length * inside <= 2 * target + 4
    assert runs.length * inside * math.ceil(sizes[runs.level] / runs.length) >= target
