"""The on-disk cache of compiled artifacts: one verified, memory-mapped file per executable.

Entries are found by a key that names everything the code depends on. Writes are atomic, so any
number of processes may share the directory; a damaged entry is deleted and compiled again. The
directory is bounded: the least recently used entries go first.

Environment: TILTH_CACHE_DIR (where), TILTH_CACHE_BYTES (bound, default 4 GiB), TILTH_CACHE=0 (off).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.ir.errors import TilthError
from tilth.runtime.draft import SUFFIX as PART_SUFFIX
from tilth.runtime.draft import Draft
from tilth.runtime.entry import EntryError, read_entry

DEFAULT_LIMIT = 4 << 30
_SUFFIX = ".tilth"
_STALE_SECONDS = 3600  # a temporary file this old was left by a process that died
log = logging.getLogger("tilth")


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache holds now; sizes in bytes."""

    root: Path
    entries: int
    nbytes: int
    limit: int


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory of entries, bounded to `limit` bytes. Safe for many threads and processes."""

    root: Path
    limit: int = DEFAULT_LIMIT

    def load(self, key: str) -> dict[str, Any] | None:
        """The entry of `key`, or None. Damaged entries are deleted and reported as a warning."""
        path = self._path(key)
        try:
            tree = read_entry(path)
            os.utime(path)  # the time of last use; not every file system keeps access times
        except FileNotFoundError:
            return None
        except (EntryError, OSError, ValueError, KeyError) as e:
            self.reject(key, str(e))
            return None
        return tree

    @contextmanager
    def draft(self, expected: int = 0) -> Iterator[Draft]:
        """An entry to be made, in whose file arrays can be allocated; see `store`.

        `expected` is about how many bytes they will take.
        """
        draft = Draft(self.root, self.limit, expected)
        try:
            yield draft
        finally:
            try:
                draft.close()
            except OSError as e:
                log.warning("the cache %s cannot be written: %s", self.root, e)

    def store(self, key: str, tree: Mapping[str, Any], draft: Draft | None = None) -> bool:
        """Write an entry and evict old ones. False (and a warning) when it could not be kept.

        Arrays that were allocated in `draft` are not written again.
        """
        if draft is None:
            with self.draft() as own:
                return self.store(key, tree, own)
        try:
            size = draft.publish(tree, self._path(key))
        except OSError as e:
            log.warning("the cache %s cannot be written: %s", self.root, e)
            return False
        if size > self.limit:
            log.warning("not cached: %d bytes, more than the bound of %d", size, self.limit)
            return False
        self._evict(keep=self._path(key))
        return True

    def discard(self, key: str) -> None:
        """Delete the entry of `key`, if there is one."""
        _remove(self._path(key))

    def reject(self, key: str, why: str) -> None:
        """Delete an entry that turned out to be unusable, with a warning that says why."""
        log.warning("cache entry %s is unusable (%s); compiling again", self._path(key).name, why)
        self.discard(key)

    def info(self) -> CacheInfo:
        sizes = [size for _, size, _ in self._entries()]
        return CacheInfo(self.root, len(sizes), sum(sizes), self.limit)

    def clear(self) -> CacheInfo:
        """Delete all entries (and leftovers of dead processes); what was there before."""
        before = self.info()
        for path, _, _ in list(self._entries()):
            _remove(path)
        self._remove_leftovers(older_than=0.0)
        return before

    def _path(self, key: str) -> Path:
        return self.root / f"{key}{_SUFFIX}"

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """(path, bytes, time of last use) of each entry that does not vanish meanwhile."""
        for path in self.root.glob(f"*{_SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            yield path, stat.st_size, stat.st_mtime

    def _evict(self, keep: Path) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        excess = sum(size for _, size, _ in entries) - self.limit
        for path, size, _ in entries:
            if excess <= 0:
                break
            if path != keep:
                _remove(path)
                excess -= size
        self._remove_leftovers(_STALE_SECONDS)

    def _remove_leftovers(self, older_than: float) -> None:
        for path in self.root.glob(f"*{PART_SUFFIX}"):
            try:
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()
            except OSError:
                continue


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        log.warning("cannot delete %s: %s", path, e)


def default_cache() -> Cache | None:
    """The user's cache as the environment says; None when it is turned off."""
    if os.environ.get("TILTH_CACHE", "1") == "0":
        return None
    root = os.environ.get("TILTH_CACHE_DIR")
    return Cache(Path(root) if root else _user_cache_dir(), _limit_from_environment())


def _user_cache_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("tilth", appauthor=False))


def _limit_from_environment() -> int:
    text = os.environ.get("TILTH_CACHE_BYTES", str(DEFAULT_LIMIT))
    try:
        return int(text)
    except ValueError:
        raise TilthError(f"TILTH_CACHE_BYTES must be a number of bytes, not '{text}'") from None
