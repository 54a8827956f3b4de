"""The stages of a compilation: named, timed, and told to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str], None]  # called with the name of each stage as it begins


class Stages:
    """Collects the seconds of each stage; the same name twice adds up."""

    def __init__(self, progress: Progress | None = None):
        self._progress = progress
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`."""
        if self._progress is not None:
            self._progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> tuple[tuple[str, float], ...]:
        """(stage, seconds) in order."""
        return tuple(self._seconds.items())
