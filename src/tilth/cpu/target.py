"""The CPU as a target: what it wants from the pipeline, what it can run, and how it compiles.

What only compiling needs is imported then: an executable from the cache starts sooner without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tilth.cpu.isa import Isa, host_isa
from tilth.cpu.region import CpuRegion
from tilth.runtime.devices import usable_cores
from tilth.runtime.target import Options, Traits

if TYPE_CHECKING:
    from tilth.ir.graph import Graph, Node


class CpuTarget:
    """Implements `runtime.target.Target` for the machine we run on."""

    kind = "cpu"

    def __init__(self, isa: Isa | None = None):
        self.isa = isa or host_isa()

    @cached_property
    def traits(self) -> Traits:
        from tilth.cpu.kernels import COMPOSITES

        return Traits(
            COMPOSITES,
            layout="channels_last",
            explicit_padding=True,
            fuses=True,
            byte_products=bool(self.isa.byte_dot),
            images_for_volumes=True,
            dense_windows=not self.isa.bf16_tiles,  # a matrix unit needs no Winograd
            streams_attention=True,
            shared_heads=self.isa.bf16_tiles,
            most_score_bytes=self.isa.l2 * 3 // 2,  # two cores hold them, and what they come from
        )

    def fingerprint(self, options: Options) -> str:
        threads = options.threads or usable_cores()
        tuned = " tuned" if options.tune else ""
        return f"cpu {self.isa} threads={threads} precision={options.precision}{tuned}"

    def unsupported(self, node: Node) -> str | None:
        from tilth.cpu import kernels

        return kernels.unsupported(node)

    def compile(self, region: Graph, options: Options) -> CpuRegion:
        from tilth.cpu.build import build

        return build(region, self.isa, replace(options, threads=options.threads or usable_cores()))

    def peak_flops(self, options: Options) -> float:
        """The FMA limit, measured now: see `cpu.peak`."""
        from tilth.cpu.peak import measure_peak

        return measure_peak(self.isa, options.threads or usable_cores())

    def peak_bandwidth(self, options: Options) -> float:
        """The memory limit, measured once: see `cpu.bandwidth`."""
        from tilth.cpu.bandwidth import measure_bandwidth

        return measure_bandwidth(self.isa, options.threads or usable_cores())

    def restore(self, state: Mapping[str, Any]) -> CpuRegion:
        return CpuRegion.from_state(state)
