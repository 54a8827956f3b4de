"""The interface between the compiler and a target, and the table of targets.

A target turns a *region* (a static graph it said it can run) into a `CompiledRegion`. It says what
it wants from the shared pipeline through `Traits`, so passes never name a target. Targets are
imported on first use; adding one is a line in `TARGETS`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from tilth.ir.errors import DeviceError
from tilth.runtime.memory import aligned_bytes

if TYPE_CHECKING:
    from tilth.ir.graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Traits:
    """What a target asks of the shared pipeline.

    `composites` are lowered directly and therefore not decomposed; `layout` is the one convolution
    wants; `explicit_padding` makes padding a `pad` node before convolutions and windows;
    `fuses` turns on the fusion pass; `byte_products` says that sums of products of bytes cost less
    than those of floats. Where algorithms with fewer products want it, `images_for_volumes` makes
    convolutions of volumes ones of images, and `dense_windows` dilated ones dense. Attention with
    more than `most_score_bytes` of scores is computed in blocks, unless the target does so itself
    (`streams_attention`, and `shared_heads` if heads may share keys and values); 0 means never.
    """

    composites: frozenset[str] = frozenset()
    layout: Literal["any", "channels_last"] = "any"
    explicit_padding: bool = False
    fuses: bool = False
    byte_products: bool = False
    images_for_volumes: bool = False
    dense_windows: bool = False
    most_score_bytes: int = 0
    streams_attention: bool = False
    shared_heads: bool = False

    def term_by_term(self) -> Traits:
        """These traits where all products of the model are computed as they are."""
        return replace(
            self,
            images_for_volumes=False,
            dense_windows=False,
            streams_attention=False,
            shared_heads=False,
        )


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asks of a compilation. `threads` 0 means all cores this process may use.

    `tune` allows a target to time alternatives; without it, compiling is deterministic. `allocate`
    gives so many bytes for packed weights, at an address that is a multiple of 64.
    """

    threads: int = 0
    precision: Literal["default", "exact"] = "default"
    tune: bool = False
    allocate: Callable[[int], np.ndarray] = field(default=aligned_bytes, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One kernel execution on one thread: times in seconds from the start of the call."""

    name: str
    node: str
    algorithm: str
    thread: int
    start: float
    seconds: float
    flops: int  # of the whole kernel, all threads
    bytes: int  # memory touched by the whole kernel, all threads


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One row of a report: a kernel, the nodes it computes, and its static cost."""

    name: str
    nodes: tuple[str, ...]
    algorithm: str
    flops: int
    bytes: int


class CompiledRegion(Protocol):
    """Native code (or a stand-in) for one region. Calls are thread-safe."""

    kernels: Sequence[KernelInfo]
    arena_bytes: int
    weight_bytes: int

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run; inputs are C-contiguous arrays of exactly the region's input types."""

    def profile(self, inputs: Sequence[np.ndarray]) -> list[KernelRecord]:
        """Run once with timestamps."""

    def state(self) -> Mapping[str, Any]:
        """What `Target.restore` needs: JSON-able values, bytes and arrays, no process address."""


class Target(Protocol):
    """A kind of device. One object serves all devices of the kind."""

    kind: str
    traits: Traits

    def fingerprint(self, options: Options) -> str:
        """Names everything the code depends on (cpu, features, threads): part of the cache key."""

    def unsupported(self, node: Node) -> str | None:
        """Why this node cannot run here; None if it can. Asked before fusion."""

    def compile(self, region: Graph, options: Options) -> CompiledRegion:
        """Make code for a region after all passes. Raises CompileError."""

    def restore(self, state: Mapping[str, Any]) -> CompiledRegion:
        """The region back from its `state`."""


@runtime_checkable
class HasPeak(Protocol):
    """A target that knows the limits of its device; profiles then show shares of them."""

    def peak_flops(self, options: Options) -> float:
        """FLOP/s of f32 fused multiply-adds with these many threads (an FMA counts as two)."""

    def peak_bandwidth(self, options: Options) -> float:
        """Bytes per second that these many threads can read from memory."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the user names it: `kind[:model][#index]`, e.g. `cpu`, `npu:ascend910b3`."""

    kind: str
    model: str = ""
    index: int = 0
    description: str = field(default="", compare=False)

    def __str__(self) -> str:
        model = f":{self.model}" if self.model else ""
        return f"{self.kind}{model}" + (f"#{self.index}" if self.index else "")


# kind -> "module:class"; imported on first use so that `import tilth` stays fast
TARGETS: dict[str, str] = {
    "cpu": "tilth.cpu.target:CpuTarget",
    "reference": "tilth.runtime.reference:ReferenceTarget",
}


@functools.cache
def target(kind: str) -> Target:
    """The target of a device kind. Raises DeviceError listing the known ones."""
    if kind not in TARGETS:
        raise DeviceError(f"no device kind '{kind}'; this build has: {', '.join(sorted(TARGETS))}")
    module, _, name = TARGETS[kind].partition(":")
    return getattr(importlib.import_module(module), name)()
