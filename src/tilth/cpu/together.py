"""Native code on several threads at once, timed: how the limits of a chip are measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def run_together(threads: int, work: Callable[[int], object]) -> list[float]:
    """Call `work(thread)` on every thread, all starting at once; the seconds each one took.

    `work` should spend its time outside the interpreter lock.
    """
    gate = threading.Barrier(threads)
    seconds = [0.0] * threads

    def run(thread: int) -> None:
        gate.wait()
        start = time.perf_counter()
        work(thread)
        seconds[thread] = time.perf_counter() - start

    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return seconds
