"""The machine's own evenness: rounds of fixed work, as long and as many as asked for."""

import numpy as np
import pytest

from tilth.cpu.evenness import measure_evenness
from tilth.cpu.isa import host_isa


@pytest.mark.parametrize("threads", [1, 2])
def test_rounds_have_the_length_asked_for(threads):
    rounds = measure_evenness(host_isa(), threads, round_seconds=1e-3, seconds=0.1)
    assert len(rounds) == 100
    assert 0.3e-3 < np.median(rounds) < 10e-3  # this machine may be busy
    assert rounds.min() > 0


def test_longer_rounds_are_fewer():
    assert len(measure_evenness(host_isa(), 1, round_seconds=10e-3, seconds=0.1)) == 10
