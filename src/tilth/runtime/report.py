"""What a compilation did, for people: where each node runs, which fusions were made or missed and
why, memory, and the seconds of each stage. Travels with the executable through the cache.

Whatever draws tables is imported when one is drawn: it takes longer to import than all of Tilth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tilth.runtime.target import KernelInfo

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class RegionReport:
    """One compiled region: its device, size, kernels and memory in bytes."""

    device: str
    nodes: int
    kernels: tuple[KernelInfo, ...]
    arena_bytes: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class HostOpReport:
    """A node that runs outside compiled code, and why."""

    node: str
    op: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """The story of one compilation. `str(report)` is readable; `seconds` is by stage.

    `variants`: for what reasons code was made for other shapes, of a model without fixed ones.
    """

    model: str
    device: str
    threads: int
    precision: str
    regions: tuple[RegionReport, ...] = ()
    host_ops: tuple[HostOpReport, ...] = ()
    copies: int = 0
    fused: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    from_cache: bool = False
    variants: tuple[str, ...] = ()

    @property
    def arena_bytes(self) -> int:
        return sum(r.arena_bytes for r in self.regions)

    @property
    def weight_bytes(self) -> int:
        return sum(r.weight_bytes for r in self.regions)

    @property
    def compile_seconds(self) -> float:
        return sum(s for _, s in self.seconds)

    @property
    def origin(self) -> str:
        """Whether it was compiled or brought back, and how long that took."""
        how = "loaded from the cache" if self.from_cache else "compiled"
        return f"{how} in {self.compile_seconds:.2f} s"

    @property
    def kernels(self) -> tuple[KernelInfo, ...]:
        return tuple(k for r in self.regions for k in r.kernels)

    def loaded(self, model: str, seconds: float) -> Report:
        """The report of an executable that came from the cache in `seconds`, for `model`."""
        stages = (("load from cache", seconds),)
        return replace(self, model=model, from_cache=True, seconds=stages)

    def state(self) -> dict[str, Any]:
        """JSON-able form; `from_state` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Report:
        regions = tuple(_region_from_state(r) for r in state["regions"])
        return Report(
            **{
                **state,
                "regions": regions,
                "host_ops": tuple(HostOpReport(**h) for h in state["host_ops"]),
                "fused": tuple(state["fused"]),
                "missed": tuple(state["missed"]),
                "rewrites": tuple(state["rewrites"]),
                "variants": tuple(state["variants"]),
                "seconds": tuple((stage, s) for stage, s in state["seconds"]),
            }
        )

    def __rich__(self) -> Group:
        """Summary, one table of kernels per region, host operations, fusions, rewrites."""
        from rich.console import Group
        from rich.text import Text

        from tilth.runtime.render import titled_lines

        told = {
            "variants": self.variants,
            "host operations": [f"{h.op} {h.node}: {h.why}" for h in self.host_ops],
            "fusions made": self.fused,
            "fusions missed": self.missed,
            "rewrites": self.rewrites,
        }
        return Group(
            Text(self._summary()),
            *(_kernel_table(i, region) for i, region in enumerate(self.regions)),
            *(titled_lines(title, lines) for title, lines in told.items() if lines),
        )

    def __str__(self) -> str:
        from tilth.runtime.render import to_text

        return to_text(self)

    def _summary(self) -> str:
        from tilth.runtime.render import bytes_text

        regions = len(self.regions)
        stages = ", ".join(f"{stage} {s:.2f}" for stage, s in self.seconds)
        return "\n".join(
            [
                f"{self.model} on {self.device}, {self.threads} threads, "
                f"precision {self.precision}",
                f"{regions} compiled region{'s' * (regions != 1)}, {len(self.kernels)} kernels, "
                f"{self.copies} copies, {len(self.host_ops)} host operations",
                f"arena {bytes_text(self.arena_bytes)}, weights {bytes_text(self.weight_bytes)}",
                f"{self.origin} ({stages})",
            ]
        )


def _kernel_table(index: int, region: RegionReport) -> Table:
    from tilth.runtime.render import bytes_text, number_table

    title = f"region {index} on {region.device}: {region.nodes} nodes"
    table = number_table(("kernel", "nodes", "algorithm"), ("MFLOP", "traffic"), title)
    for k in region.kernels:
        cost = (f"{k.flops / 1e6:.2f}", bytes_text(k.bytes))
        table.add_row(k.name, ", ".join(k.nodes), k.algorithm, *cost)
    return table


def _region_from_state(state: Mapping[str, Any]) -> RegionReport:
    kernels = tuple(KernelInfo(**{**k, "nodes": tuple(k["nodes"])}) for k in state["kernels"])
    return RegionReport(**{**state, "kernels": kernels})
