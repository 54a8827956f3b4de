"""Python's garbage collector while something is compiled."""

import gc
import threading

import pytest

from tilth.compiler.garbage import rarely_collected


@pytest.fixture(autouse=True)
def usual():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_is_rare_inside_and_as_before_outside():
    before = gc.get_threshold()
    with rarely_collected():
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before


def test_it_is_as_before_after_an_error():
    before = gc.get_threshold()
    with pytest.raises(ValueError), rarely_collected():
        raise ValueError
    assert gc.get_threshold() == before


def test_a_collector_that_is_switched_off_stays_so():
    gc.set_threshold(0)
    with rarely_collected():
        assert gc.get_threshold()[0] == 0
    assert gc.get_threshold()[0] == 0


def test_a_higher_threshold_stays_as_it_is():
    gc.set_threshold(1_000_000)
    with rarely_collected():
        assert gc.get_threshold()[0] == 1_000_000


def test_the_last_of_several_threads_ends_it():
    before = gc.get_threshold()
    entered, leave = threading.Event(), threading.Event()

    def compile_too():
        with rarely_collected():
            entered.set()
            leave.wait()

    other = threading.Thread(target=compile_too)
    other.start()
    entered.wait()
    with rarely_collected():
        pass
    assert gc.get_threshold()[0] > before[0]
    leave.set()
    other.join()
    assert gc.get_threshold() == before
