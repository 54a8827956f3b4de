"""Threads lent to native code: a pool of daemon threads that sit inside an emitted worker loop.

A pool is `threads` wide: the caller plus `threads - 1` helpers. Helpers never return to Python, so
they never hold the interpreter lock, and live until the process ends, after the interpreter: the
memory and the code of a pool are never freed. Pools are shared by all programs of a width, made on
first use, and forgotten in a forked child (threads do not survive fork), which makes its own.

Where there is a core for each thread, the helpers keep off the caller's: systems that gather light
work on few cores would else run both on one, and a call would take several times as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
_current_core: Any = getattr(ctypes.PyDLL(None), "sched_getcpu", None)  # some libraries lack it

Memory = Callable[[bool], bytes]  # what a pool's memory holds at first, given whether it is crowded


class Pool:
    """Memory that the emitted code coordinates through, the helpers, and a lock.

    Hold `lock` around every native call that is given `address`: one call at a time per pool.
    It is `crowded` if the process has fewer cores than the pool threads.
    """

    def __init__(self, threads: int, worker: int, memory: Memory, keep_alive: Any):
        self.lock = threading.Lock()
        self._cores = _usable_cores()
        self.crowded = len(self._cores) < threads
        self._caller_core = -1
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._memory.write(memory(self.crowded))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._keep_alive = keep_alive  # the code that the helpers run
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # also when the interpreter tears down
        helpers = [
            threading.Thread(
                target=_WORKER(worker), args=(self.address, tid), name=f"tilth-{tid}", daemon=True
            )
            for tid in range(1, threads)
        ]
        for helper in helpers:
            helper.start()
        self._helpers = [helper.native_id for helper in helpers if helper.native_id is not None]

    def place(self) -> None:
        """Deal the cores besides the caller's to the helpers, if it has moved. Hold `lock`."""
        if self.crowded or (core := _current_core()) == self._caller_core:
            return
        self._caller_core = core
        others = sorted(self._cores - {core})
        for i, native_id in enumerate(self._helpers):
            # fails where cores were taken from the process; the system then finds it another
            with contextlib.suppress(OSError):
                os.sched_setaffinity(native_id, others[i :: len(self._helpers)])


def _usable_cores() -> set[int]:
    """The cores of the calling thread; none where threads cannot be placed."""
    if _current_core is None or not hasattr(os, "sched_getaffinity"):
        return set()
    return os.sched_getaffinity(0)


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()


def pool(threads: int, worker: int, memory: Memory, keep_alive: Any) -> Pool:
    """The process's pool of this width; `worker` is the address of `void(pool, i32 tid)`.

    `memory` says what the pool's memory holds at first, a page at most. `keep_alive` owns the
    worker's code and is held for the life of the process.
    """
    with _pools_lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads, worker, memory, keep_alive)
        return _pools[threads]


def _after_fork_in_child() -> None:
    global _pools, _pools_lock
    _graveyard.append(_pools)  # freeing what helper threads of the parent used is not ours to do
    _pools, _pools_lock = {}, threading.Lock()


_graveyard: list[dict[int, Pool]] = []
os.register_at_fork(after_in_child=_after_fork_in_child)
