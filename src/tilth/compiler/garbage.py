"""Python's search for garbage, made rare while something is compiled.

Graphs and code are hundreds of thousands of small objects, of which nearly all live until the end:
looking at them again and again took 13-20 % of compiling. Reference counts still free what has no
cycles, weights above all.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = 50_000  # new objects until the collector looks at the youngest


class _Collector:
    """The process's collector, and how many threads want it to rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resting = 0
        self._usual = gc.get_threshold()

    @contextmanager
    def rare(self) -> Iterator[None]:
        """Until the last block that is inside ends; a collector that is switched off stays so."""
        with self._lock:
            self._resting += 1
            if self._resting == 1:
                self._usual = gc.get_threshold()
                if self._usual[0]:
                    gc.set_threshold(max(_RARELY, self._usual[0]), *self._usual[1:])
        try:
            yield
        finally:
            with self._lock:
                self._resting -= 1
                if not self._resting:
                    gc.set_threshold(*self._usual)


rarely_collected = _Collector().rare
