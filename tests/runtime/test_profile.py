"""A profile sums up what each thread did when: times, waits, rates, shares of the limits."""

import json

import pytest

from tilth.runtime.profile import Limits, summarise
from tilth.runtime.target import KernelRecord
from tilth.runtime.trace import TracedRecord, trace_events, waits


def record(
    name: str, thread: int, start: float, end: float, flops: int = 0, nbytes: int = 0
) -> TracedRecord:
    kernel = KernelRecord(name, "node", "how", thread, start, end - start, flops, nbytes)
    return TracedRecord("cpu", kernel)


# Two threads: "a" is done by 1.0 and 0.6, thread 1 waits for thread 0; "b" ends at 2.0 and 1.7.
RUN = [
    record("a", 0, 0.0, 1.0, flops=100, nbytes=10),
    record("a", 1, 0.1, 0.6, flops=100, nbytes=10),
    record("b", 0, 1.25, 2.0, nbytes=30),
    record("b", 1, 1.2, 1.7, nbytes=30),
]


def test_a_thread_waits_from_the_end_of_a_kernel_to_the_start_of_its_next():
    waited = waits(RUN)
    assert [waited[r] for r in RUN] == pytest.approx([0.25, 0.6, 0.0, 0.3])


def test_a_thread_of_another_device_is_waited_for_by_nobody():
    elsewhere = TracedRecord("other", RUN[0].kernel)
    assert waits([elsewhere, RUN[3]]) == {elsewhere: 0.0, RUN[3]: 0.0}


def test_a_kernel_lasts_from_the_first_thread_that_starts_to_the_last_that_ends():
    a, b = summarise("m", [RUN], 2.0, None).kernels
    assert (a.name, a.seconds) == ("a", pytest.approx(1.0))
    assert (b.name, b.seconds) == ("b", pytest.approx(0.8))
    assert (a.share, b.share) == (pytest.approx(1 / 1.8), pytest.approx(0.8 / 1.8))


def test_busy_and_waiting_seconds_are_told_thread_by_thread():
    profile = summarise("m", [RUN], 2.0, None)
    a, b = profile.kernels
    assert a.busy == pytest.approx((1.0, 0.5))
    assert a.waits == pytest.approx((0.25, 0.6))
    assert (a.wait, b.wait) == (pytest.approx(0.425), pytest.approx(0.15))
    assert profile.threads == 2
    assert profile.waiting == pytest.approx(1.15 / (1.15 + 2.75))


def test_over_several_runs_the_median_counts():
    slow = [record("a", 0, 0.0, 9.0), record("a", 1, 0.0, 9.0)]
    quick = [record("a", 0, 0.0, 1.0), record("a", 1, 0.0, 0.5)]
    (a,) = summarise("m", [quick, slow, quick], 2.0, None).kernels
    assert (a.seconds, a.busy, a.waits) == (1.0, (1.0, 0.5), (0.0, 0.5))


def test_two_kernels_of_one_name_are_two_rows():
    run = [record("a", 0, 0.0, 1.0), record("a", 0, 1.0, 3.0)]
    assert [k.seconds for k in summarise("m", [run], 3.0, None).kernels] == [1.0, 2.0]


def test_the_text_shows_rates_and_shares_of_the_limits():
    text = str(summarise("m", [RUN], 2.0, Limits(200.0, 40.0)))
    (line,) = [line for line in text.splitlines() if line.startswith("a ")]
    words = ["a", "node", "how", "1000.000", "55.6%", "425000.0", "0.0", "0.0", "50%", "25%"]
    assert line.split() == words
    assert "which wait 29% of their time" in text
    assert "(25% of the FMA peak)" in text


def test_without_limits_there_are_no_shares():
    text = str(summarise("m", [RUN], 2.0, None))
    assert "of peak" not in text
    assert "limits" not in text


def test_the_json_form_is_plain_and_complete():
    found = json.loads(json.dumps(summarise("m", [RUN], 2.0, Limits(200.0, 40.0)).as_json()))
    assert found["peak_flops_per_second"] == 200
    assert found["peak_bytes_per_second"] == 40
    assert (found["flops"], found["bytes"], found["threads"]) == (100, 40, 2)
    assert found["kernels"][0]["flops_per_second"] == pytest.approx(100)
    assert found["kernels"][0]["waits"] == pytest.approx([0.25, 0.6])


def test_the_trace_tells_waits():
    events = [e for e in trace_events(RUN) if e["ph"] == "X"]
    assert [e["args"]["wait_us"] for e in events] == pytest.approx([25e4, 60e4, 0, 30e4])
    assert [e["tid"] for e in events] == [0, 1, 0, 1]
