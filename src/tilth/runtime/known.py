"""Models that were read before: what is known of them without reading them again.

To read, parse and hash hundreds of megabytes takes longer than to start the code compiled from
them. So the cache keeps what was found out about a file together with its stamp (device, inode,
size and times), and believes it while the stamp is the same, as Git and Make do. The time of the
last change of status cannot be set back by programs. What changed just before it was read could
change again within one tick of the file system's clock; it is not remembered (in Git's words, such
a file is racy).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from tilth.runtime.cache import Cache
from tilth.runtime.keys import SETTLED, cache_key
from tilth.runtime.ports import Port, port_from_state


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's identity at one moment; times in nanoseconds. Take it before reading the file."""

    path: str
    device: int
    inode: int
    size: int
    modified: int
    changed: int
    taken: int = field(default=0, compare=False)

    @staticmethod
    def of(path: str | Path, descriptor: int | None = None) -> Stamp:
        """Now, of an open file or of whatever is at `path`. Raises OSError."""
        s = os.stat(path if descriptor is None else descriptor)
        times = s.st_mtime_ns, s.st_ctime_ns, time.time_ns()
        return Stamp(os.path.abspath(path), s.st_dev, s.st_ino, s.st_size, *times)

    @property
    def is_settled(self) -> bool:
        """Was the last change long enough ago for a next one to show?"""
        return self.taken - max(self.modified, self.changed) > SETTLED

    @property
    def is_current(self) -> bool:
        """Is that very file, unchanged, still at the path?"""
        try:
            return Stamp.of(self.path) == self
        except OSError:
            return False

    @property
    def is_overwritten(self) -> bool:
        """Was that very file written to? One that was deleted or replaced was not."""
        try:
            now = Stamp.of(self.path)
        except OSError:
            return False
        same = (now.device, now.inode) == (self.device, self.inode)
        return same and (now.size, now.modified) != (self.size, self.modified)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What a model's file, and the external data it needs, were found to say."""

    path: Path
    stamps: tuple[Stamp, ...]
    digest: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def is_current(self) -> bool:
        return all(stamp.is_current for stamp in self.stamps)


def recall(cache: Cache, path: Path) -> KnownModel | None:
    """What is known of the model at `path`, if its files are as they were."""
    state = cache.load(_key(path))
    if state is None:
        return None
    stamps = tuple(Stamp(*row) for row in state["stamps"])
    inputs, outputs = (tuple(map(port_from_state, state[k])) for k in ("inputs", "outputs"))
    known = KnownModel(path, stamps, state["digest"], inputs, outputs)
    return known if known.is_current else None


def remember(cache: Cache, known: KnownModel) -> None:
    """Keep it for other processes, unless its files changed too short a time ago."""
    if not all(stamp.is_settled and stamp.is_current for stamp in known.stamps):
        return
    state = {
        "stamps": [astuple(stamp) for stamp in known.stamps],
        "digest": known.digest,
        "inputs": _states(known.inputs),
        "outputs": _states(known.outputs),
    }
    cache.store(_key(known.path), state)


def _key(path: Path) -> str:
    return cache_key(model=os.path.abspath(path))


def _states(ports: Sequence[Port]) -> list[list[object]]:
    return [port.state() for port in ports]
