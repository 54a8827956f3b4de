"""Random bits, counter-based: each element depends on the key and its own index alone.

So results do not depend on threads, tiling or sharding.
"""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.ops.checks import check_ints
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import Shape, TensorType, u8, u16, u32, u64

_DTYPES = {8: u8, 16: u16, 32: u32, 64: u64}
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox_4x32_10(counter: list[Array], key: tuple[int, int]) -> list[Array]:
    """Ten rounds of Philox 4x32 on four counter words, each u64 arrays of 32-bit values.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


primitive("rng_bits", "uniform random bits from a key (Philox 4x32-10)")


@infer("rng_bits")
def _(key: TensorType, *, shape: Shape, bits: int) -> TensorType:
    if key != TensorType(u64, (2,)):
        raise ValueError(f"the key must be u64[2], got {key}")
    if bits not in _DTYPES:
        raise ValueError(f"bits {bits!r} is not one of {', '.join(map(str, _DTYPES))}")
    check_ints("shape", shape, minimum=0)
    return TensorType(_DTYPES[bits], shape)


@reference("rng_bits")
def _(key: Array, *, shape: Shape, bits: int) -> Array:
    """Element i takes word i % 4 of block i // 4; for 64 bits, two words of block i // 2.

    The block's 128-bit counter is its number (low half) and key[1] (high half); key[0] is the key.
    Fewer than 32 bits are the low ones of the word.
    """
    size = math.prod(shape)
    blocks = np.arange(-(-size // (2 if bits == 64 else 4)), dtype=np.uint64)
    secret, stream = int(key[0]), key[1]
    counter = [blocks & _LOW, blocks >> _HALF, stream & _LOW, stream >> _HALF]
    words = philox_4x32_10(counter, (secret & 0xFFFFFFFF, secret >> 32))
    if bits == 64:
        words = [words[0] | words[1] << _HALF, words[2] | words[3] << _HALF]
    flat = np.stack(words, axis=-1).reshape(-1)[:size]
    return flat.astype(_DTYPES[bits].numpy).reshape(shape)
