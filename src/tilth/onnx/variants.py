"""The executables kept for the latest shapes of one model, and why each of them was made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.ir.types import Shape
from tilth.runtime.executable import Executable
from tilth.runtime.ports import Port

log = logging.getLogger("tilth")


@dataclass(frozen=True, eq=False)
class Variant:
    """An executable for these shapes of the inputs, and for values of those that shapes follow.

    `why` says what was new when it was made.
    """

    shapes: Mapping[str, Shape]
    fixed: Mapping[str, np.ndarray]
    executable: Executable
    why: str

    def serves(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether it is right for these feeds."""
        return all(feeds[name].shape == shape for name, shape in self.shapes.items()) and all(
            np.array_equal(feeds[name], array) for name, array in self.fixed.items()
        )


class Variants:
    """At most `most` variants, the latest used ones. Not thread-safe."""

    def __init__(self, name: str, ports: Sequence[Port], most: int) -> None:
        self._name, self._ports, self._most = name, ports, most
        self._kept: list[Variant] = []
        self._made = 0

    def __iter__(self) -> Iterator[Variant]:
        return iter(self._kept)

    @property
    def latest(self) -> Variant | None:
        return self._kept[-1] if self._kept else None

    @property
    def told(self) -> tuple[str, ...]:
        """A line for each kept variant, and one on those that are gone."""
        lines = [f"{_shapes(v.shapes)}: {v.why}; {v.executable.report.origin}" for v in self._kept]
        gone = self._made - len(self._kept)
        return (*lines, f"{gone} dropped, of {self._made} made") if gone else tuple(lines)

    def find(self, feeds: Mapping[str, np.ndarray]) -> Variant | None:
        """The variant for these feeds, which becomes the latest."""
        found = next((v for v in reversed(self._kept) if v.serves(feeds)), None)
        if found is not None and found is not self._kept[-1]:
            self._kept.remove(found)
            self._kept.append(found)
        return found

    def add(self, variant: Variant) -> Variant:
        """Keep one more; drops the one that was not used for longest if there are too many."""
        self._made += 1
        self._kept = [*self._kept, variant][-self._most :]
        return variant

    def follow_data(self) -> bool:
        """Whether fixed values turn out to be data: as many as are kept were not enough. Logged."""
        fixed = {name for variant in self._kept for name in variant.fixed}
        if self._made < self._most or not fixed:
            return False
        log.warning(
            "%s: values of %s changed over %d times; it runs in stages from now on",
            *(self._name, ", ".join(f"input '{name}'" for name in sorted(fixed)), self._most),
        )
        return True

    def reason(self, shapes: Mapping[str, Shape]) -> str:
        """Why there is none for these shapes: what differs from the latest. It is logged."""
        if self.latest is None:
            return "the first shapes"
        told = _changes(self._ports, self.latest.shapes, shapes)
        log.warning(
            "compiling %s again (number %d; the latest %d are kept): %s",
            *(self._name, self._made + 1, self._most, told),
        )
        return told


def _changes(ports: Sequence[Port], before: Mapping[str, Shape], now: Mapping[str, Shape]) -> str:
    """`batch 1 -> 4: input 'x' is now [4, 3], was [1, 3]`."""
    old, new = _extents(ports, before), _extents(ports, now)
    symbols = [f"{s} {old[s]} -> {new[s]}" for s in new if s in old and old[s] != new[s]]
    inputs = [
        f"input '{name}' is now {list(shape)}, was {list(before[name])}"
        for name, shape in now.items()
        if shape != before[name]
    ]
    told = ": ".join(", ".join(part) for part in (symbols, inputs) if part)
    return told or "a shape follows from values, which are new"


def _extents(ports: Sequence[Port], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """What the symbols of the interface stand for; those without a name of their own left out."""
    return {
        dim: extent
        for port in ports
        for axis, (dim, extent) in enumerate(zip(port.shape or (), shapes[port.name], strict=False))
        if isinstance(dim, str) and dim != f"{port.name}.{axis}"
    }


def _shapes(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
