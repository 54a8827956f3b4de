"""MurmurHash3 of com.microsoft, which feature hashers use."""

from __future__ import annotations

import numpy as np

from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import host_op

_MASK = 0xFFFFFFFF


@host_op("MurmurHash3", why="strings are computed on the host", domain="com.microsoft")
def murmur_hash(cx: NodeContext, x: np.ndarray) -> np.ndarray:
    """The hash of each element's bytes: u32, or i32 where `positive` is 0."""
    seed = cx.attr("seed", 0) & _MASK
    keys = (s.encode() for s in x.flat) if x.dtype == object else (v.tobytes() for v in x.flat)
    hashes = np.array([murmur3(key, seed) for key in keys], np.uint32).reshape(x.shape)
    return hashes if cx.attr("positive", 1) else hashes.view(np.int32)


def murmur3(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 (A. Appleby, public domain)."""
    result = seed
    for start in range(0, len(data), 4):
        chunk = data[start : start + 4]
        mixed = int.from_bytes(chunk, "little") * 0xCC9E2D51 & _MASK
        result ^= _rotated(mixed, 15) * 0x1B873593 & _MASK
        if len(chunk) == 4:
            result = (_rotated(result, 13) * 5 + 0xE6546B64) & _MASK
    result ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        result = (result ^ result >> shift) * factor & _MASK
    return result ^ result >> 16


def _rotated(x: int, by: int) -> int:
    """32 bits rotated left."""
    return (x << by | x >> (32 - by)) & _MASK
