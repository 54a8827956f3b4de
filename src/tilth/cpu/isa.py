"""What a CPU's vector unit can do, as data: kernels read this and never name an instruction set."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tilth.runtime.cache import default_cache
from tilth.runtime.keys import cache_key


@dataclass(frozen=True, slots=True)
class Isa:
    """One vector instruction set and the machine around it.

    `lanes` is the number of f32 in a register; `registers` how many there are; cache sizes are in
    bytes and are used for blocking only (a wrong value costs speed, never correctness), as are the
    FMAs of whole vectors that a core starts per cycle, the share of them that direct kernels reach
    and that of streaming weights which they hide, the cycles that a load, of one element broadcast
    or of a vector, costs beside them, those from an FMA to one that adds to its result, with what
    the scheduler needs, those that a byte of weights costs which L1 does not hold until it is read
    again, and the share of L2 and the bytes of L3 that a thread's data have beside what streams by.
    Where `adds_beside` is set, units of their own add vectors up beside the FMAs, at their pace;
    where `strassen` is, adding up costs little enough for Strassen's scheme to pay.
    """

    name: str
    triple: str
    cpu: str
    features: str  # LLVM feature string, "" = what `cpu` implies
    lanes: int
    registers: int
    fma: bool
    l1: int = 32 << 10
    l1_ways: int = 8
    l2: int = 512 << 10
    converts_half: bool = True  # has instructions from f16 to f32 and back
    fmas: int = 2
    reached: float = 0.95
    hidden: float = 0.3
    broadcast_cycles: float = 0.1
    vector_cycles: float = 0.3
    chain_cycles: float = 4.8
    reread_cycles: float = 0.0
    l2_room: float = 0.5
    l3_room: int = 6 << 20
    adds_beside: bool = False
    strassen: bool = True
    broadcast_operand: bool = False  # FMA can take a scalar in memory, broadcast for free
    byte_dot: str = ""  # LLVM's name of: i32 lanes += sums of four products u8 * i8; "": none
    bf16_tiles: bool = False  # a matrix unit multiplies 16x32 by 32x16 bf16 (AMX)

    @property
    def vector_bytes(self) -> int:
        return 4 * self.lanes


_VNNI = "llvm.x86.avx512.vpdpbusd"
_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"

_V2 = Isa(
    name="x86-64-v2",
    triple=_X86,
    cpu="x86-64-v2",
    features="",
    lanes=4,
    registers=16,
    fma=False,
    converts_half=False,
)
_AVX2 = Isa(
    name="avx2",
    triple=_X86,
    cpu="x86-64-v3",
    features="",
    lanes=8,
    registers=16,
    fma=True,
    l2_room=0.75,
    l3_room=2 << 20,
)
_AVX512 = Isa(
    name="avx512",
    triple=_X86,
    cpu="x86-64-v4",
    features="-prefer-256-bit",
    lanes=16,
    registers=32,
    fma=True,
    l1=48 << 10,
    l1_ways=12,
    l2=1 << 20,
    reached=0.85,
    hidden=0.6,
    broadcast_cycles=0.18,
    vector_cycles=0.16,
    strassen=False,
    broadcast_operand=True,
)
_NEON = Isa("neon", _ARM, "generic", "+neon", lanes=4, registers=32, fma=True, l1=64 << 10)

# what differs from the rest of the instruction set, by its name and LLVM's of the processor
_CORES: dict[tuple[str, str], dict[str, Any]] = {
    # six instructions per cycle, three of them loads: only the inner loops of small tiles feel them
    ("avx2", "znver3"): {
        "reached": 0.91,
        "hidden": 0.95,
        "broadcast_cycles": 0.04,
        "vector_cycles": 0.07,
        "chain_cycles": 4.0,
    },
    # 512 bits are two halves, on both pipes at once: loads are in time
    ("avx512", "znver4"): {
        "fmas": 1,
        "reached": 0.96,
        "hidden": 0.3,
        "broadcast_cycles": 0.09,
        "vector_cycles": 0.08,
        "reread_cycles": 0.007,
        "adds_beside": True,
    },
}

ISAS: dict[str, Isa] = {isa.name: isa for isa in (_V2, _AVX2, _AVX512, _NEON)}


@functools.cache
def host_isa() -> Isa:
    """The best entry of `ISAS` this machine can run, with the machine's own cpu name.

    The cache remembers it for this processor: to ask LLVM is to load it, which takes longer than
    all the rest of bringing a small model back.
    """
    store, processor, tiles = default_cache(), _processor(), _may_use_tiles()
    if store is None or not processor:
        return _found_by_llvm(tiles)
    key = cache_key(processor=processor, may_use_tiles=tiles)
    state = store.load(key)
    if state is not None:
        return Isa(**state["isa"])
    isa = _found_by_llvm(tiles)
    store.store(key, {"isa": asdict(isa)})
    return isa


def _processor() -> list[str]:
    """What Linux tells of the first processor that does not change while it runs, its features
    above all: a machine may go on elsewhere from a snapshot. Empty where nothing is told."""
    fixed = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
    try:
        with open("/proc/cpuinfo", "rb") as file:
            told = os.read(file.fileno(), 8192).decode("ascii", "replace")
    except OSError:
        return []
    first, _, _ = told.partition("\n\n")
    return [line for line in first.splitlines() if line.startswith(fixed)]


def _found_by_llvm(may_use_tiles: bool) -> Isa:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    if triple.startswith(("aarch64", "arm64")):
        base = ISAS["neon"]
    elif all(features.get(f) for f in ("avx512f", "avx512vl", "avx512bw", "avx512dq")):
        base = ISAS["avx512"]
    elif features.get("avx2") and features.get("fma"):
        base = ISAS["avx2"]
    else:
        base = ISAS["x86-64-v2"]
    flags = features.flatten() + (",-prefer-256-bit" if base.name == "avx512" else "")
    if features.get({"avx512": "avx512vnni", "avx2": "avxvnni"}.get(base.name, "")):
        base = replace(base, byte_dot=_VNNI)
    needed = ("amx-tile", "amx-bf16", "avx512bf16")
    tiles = base.name == "avx512" and all(map(features.get, needed)) and may_use_tiles
    cpu = llvm.get_host_cpu_name()
    base = replace(base, triple=triple, cpu=cpu, features=flags, bf16_tiles=tiles)
    return replace(base, **_host_caches(), **_CORES.get((base.name, cpu), {}))


def _may_use_tiles() -> bool:
    """Ask Linux, once for the process, for the state that the matrix unit needs (arch_prctl(2)).

    Processors without one say no.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return False
    prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(prctl, request_permission, tile_data) == 0


def _host_caches() -> dict[str, Any]:
    """The data caches of this machine as Linux tells them; nothing where it does not."""
    found: dict[str, Any] = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level, kind = ((cache / name).read_text().strip() for name in ("level", "type"))
            size = int((cache / "size").read_text().strip().removesuffix("K")) << 10
            if (level, kind) == ("1", "Data"):
                ways = int((cache / "ways_of_associativity").read_text())
                found |= {"l1": size, "l1_ways": ways}
            elif level == "2":
                found["l2"] = size
    return found
