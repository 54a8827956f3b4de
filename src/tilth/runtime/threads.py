"""Threads lent to native code: a pool of daemon threads that sit inside an emitted worker loop.

A pool is `threads` wide: the caller plus `threads - 1` helpers. Helpers never return to Python, so
they never hold the interpreter lock, and live until the process ends, after the interpreter: the
memory and the code of a pool are never freed. Pools are shared by all programs of a width, made on
first use, and forgotten in a forked child (threads do not survive fork), which makes its own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from typing import Any

_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)


class Pool:
    """Memory that the emitted code coordinates through, the helpers, and a lock.

    Hold `lock` around every native call that is given `address`: one call at a time per pool.
    """

    def __init__(self, threads: int, worker: int, memory_bytes: int, keep_alive: Any):
        self.lock = threading.Lock()
        self._memory = mmap.mmap(-1, max(memory_bytes, mmap.PAGESIZE))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._keep_alive = keep_alive  # the code that the helpers run
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # also when the interpreter tears down
        for tid in range(1, threads):
            threading.Thread(
                target=_WORKER(worker), args=(self.address, tid), name=f"tilth-{tid}", daemon=True
            ).start()


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()


def pool(threads: int, worker: int, memory_bytes: int, keep_alive: Any) -> Pool:
    """The process's pool of this width; `worker` is the address of `void(pool, i32 tid)`.

    `keep_alive` owns the worker's code and is held for the life of the process.
    """
    with _pools_lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads, worker, memory_bytes, keep_alive)
        return _pools[threads]


def _after_fork_in_child() -> None:
    global _pools, _pools_lock
    _graveyard.append(_pools)  # freeing what helper threads of the parent used is not ours to do
    _pools, _pools_lock = {}, threading.Lock()


_graveyard: list[dict[int, Pool]] = []
os.register_at_fork(after_in_child=_after_fork_in_child)
