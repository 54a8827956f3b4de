"""The machine's own evenness: rounds of fixed work, as long and as many as asked for."""

import numpy as np
import pytest

from tilth.cpu.evenness import even_rounds
from tilth.cpu.isa import host_isa


@pytest.mark.parametrize("threads", [1, 2])
def test_rounds_have_the_length_asked_for(threads):
    take = even_rounds(host_isa(), threads, round_seconds=1e-3)
    rounds = take(100)
    assert len(rounds) == 100
    assert 0.3e-3 < np.median(rounds) < 10e-3  # this machine may be busy
    assert rounds.min() > 0
    assert len(take(7)) == 7
