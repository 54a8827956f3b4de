"""The measured limits are rates that a real processor can have."""

from tilth.cpu import bandwidth
from tilth.cpu.bandwidth import measure_bandwidth
from tilth.cpu.isa import host_isa
from tilth.cpu.peak import measure_peak, measure_product_peak
from tilth.cpu.together import run_together


def test_peak_of_one_thread_is_plausible():
    isa = host_isa()
    slowest, fastest = 0.05e9, 4 * 2 * isa.lanes * 7e9  # a starved core; four units at 7 GHz
    assert slowest < measure_peak(isa, threads=1, runs=2) < fastest


def test_peak_of_products_on_two_threads_is_plausible():
    isa = host_isa()
    fastest = measure_peak(isa, threads=1, runs=10)
    assert 0.05e9 < measure_product_peak(isa, threads=2, runs=2) < 2 * 1.5 * fastest


def test_bandwidth_of_two_threads_is_plausible(monkeypatch):
    monkeypatch.setattr(bandwidth, "BYTES", 32 << 20)
    measure = measure_bandwidth.__wrapped__  # not what is remembered for the process
    assert 0.05e9 < measure(host_isa(), threads=2, runs=2) < 4e12


def test_bandwidth_is_measured_once():
    assert measure_bandwidth(host_isa(), 1, 1) == measure_bandwidth(host_isa(), 1, 1)


def test_threads_run_together_and_are_timed_one_by_one():
    seen = []
    seconds = run_together(3, seen.append)
    assert sorted(seen) == [0, 1, 2]
    assert len(seconds) == 3
    assert min(seconds) > 0
