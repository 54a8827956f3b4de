"""Executables through the on-disk cache: brought back from it, or made and put there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tilth.runtime.cache import Cache
from tilth.runtime.executable import Executable
from tilth.runtime.keys import cache_key
from tilth.runtime.target import Device, Options, target


def through_cache(
    store: Cache,
    make: Callable[[Options], Executable],
    device: Device,
    options: Options,
    name: str,
    key: Mapping[str, Any],
    expected: Callable[[], int],
) -> Executable:
    """The executable that `make` would make, from `store` if it is there.

    `make` is given the options, and a place for weights: the file that they will be kept in.
    `key` is everything that it follows from besides the device, the options and Tilth's own code;
    JSON-able. `name` is what its report calls the model; `expected` says about how many bytes of
    weights it has.
    """
    fingerprint = target(device.kind).fingerprint(options)
    place = {"device": str(device), "precision": options.precision, "target": fingerprint}
    found = cache_key(**key, **place)
    executable = _restored(store, found, name)
    if executable is None:
        with store.draft(expected()) as draft:
            executable = make(replace(options, allocate=draft.allocate))
            store.store(found, executable.state(), draft)
    return executable


def _restored(store: Cache, key: str, name: str) -> Executable | None:
    """The cached executable of `key`; an entry that cannot be brought back is deleted."""
    start = time.perf_counter()
    state = store.load(key)
    if state is None:
        return None
    try:
        executable = Executable.from_state(state)
    except Exception as e:  # whatever is wrong with the entry, compiling again puts it right
        store.reject(key, f"{type(e).__name__}: {e}")
        return None
    executable.report = executable.report.loaded(name, time.perf_counter() - start)
    return executable
