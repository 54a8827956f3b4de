"""The measured arithmetic limit is a rate that a real processor can have."""

from tilth.cpu.isa import host_isa
from tilth.cpu.peak import measure_peak


def test_peak_of_one_thread_is_plausible():
    isa = host_isa()
    slowest, fastest = 0.05e9, 4 * 2 * isa.lanes * 7e9  # a starved core; four units at 7 GHz
    assert slowest < measure_peak(isa, threads=1, runs=2) < fastest
