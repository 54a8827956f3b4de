"""From a graph to an executable: shared passes, placement, then each region through its target.

Regions run in order; where one reads what another device computed, the plan holds a copy. Nodes
that the wanted device cannot run fall back to the reference interpreter, and the report says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tilth.compiler.garbage import rarely_collected
from tilth.compiler.log import LogEntry
from tilth.compiler.pipeline import run_shared, run_target
from tilth.compiler.place import Placement, Region, place
from tilth.compiler.subgraphs import subgraphs
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.interpreter import decomposition
from tilth.ir.ops import DECOMPOSE
from tilth.runtime.devices import parse_device
from tilth.runtime.executable import Executable
from tilth.runtime.feeds import Port
from tilth.runtime.plan import Copy, Plan, RunRegion, Step
from tilth.runtime.report import HostOpReport, RegionReport, Report
from tilth.runtime.stages import Stages
from tilth.runtime.target import CompiledRegion, Device, Options, target

FALLBACK = "reference"
log = logging.getLogger("tilth")


@rarely_collected()
def compile_graph(
    graph: Graph,
    device: Device,
    options: Options,
    stages: Stages | None = None,
    name: str = "",
    placement: Callable[[Node], str | None] | None = None,
) -> Executable:
    """Compile a static graph for `device`.

    `placement` may name another device for a node (asked after the shared passes). `stages` tells
    progress and collects the seconds that the report shows. Raises UnsupportedError, CompileError.
    """
    stages = stages or Stages()
    with stages("shared passes"):
        shared = run_shared(graph, options)
    with stages("placement"):
        wanted = list(dict.fromkeys([str(device), FALLBACK]))
        placed = place(shared.graph, wanted, unsupported, placement)
    entries = list(shared.log)
    regions = [r for r in placed.regions if r.outputs]
    compiled = []
    for region in regions:
        code, region_entries = _compile_region(region, options, stages)
        compiled.append(code)
        entries += region_entries
    plan = _plan(shared.graph, regions)
    report = Report(
        model=name or graph.name,
        device=str(device),
        threads=options.threads,
        precision=options.precision,
        regions=tuple(map(_region_report, regions, compiled)),
        host_ops=_host_ops(placed, device),
        copies=sum(isinstance(step, Copy) for step in plan.steps),
        fused=_told(entries, "fused"),
        missed=_told(entries, "missed"),
        rewrites=_told(entries, "rewrote"),
        seconds=stages.seconds,
    )
    return Executable(plan, compiled, report)


def unsupported(node: Node, device: str) -> str | None:
    """Why `device` cannot run a node, or None.

    A composite it does not lower is asked about in parts, control flow with its sub-graphs.
    """
    found = target(parse_device(device).kind)
    if node.op in DECOMPOSE and node.op not in found.traits.composites:
        parts = decomposition(node).nodes
    else:
        why = found.unsupported(node)
        if why is not None:
            return why
        parts = tuple(part for graph in subgraphs(node) for part in graph.nodes)
    reasons = (unsupported(part, device) for part in parts)
    return next((why for why in reasons if why is not None), None)


def _compile_region(
    region: Region, options: Options, stages: Stages
) -> tuple[CompiledRegion, list[LogEntry]]:
    """The region as code of its device, and what the target's passes did."""
    found = target(parse_device(region.device).kind)
    with stages(f"passes for {region.device}"):
        result = run_target(region.graph, found.traits, options)
    with stages(f"code for {region.device}"):
        return found.compile(result.graph, options), result.log


@dataclass(slots=True)
class _PlanBuilder:
    """Hands out slots and remembers on which device each value can be read from which slot."""

    slots: int = 0
    steps: list[Step] = field(default_factory=list)
    home: dict[Value, tuple[Device | None, int]] = field(default_factory=dict)  # None: anywhere
    copies: dict[tuple[Value, Device], int] = field(default_factory=dict)

    def define(self, value: Value, device: Device | None) -> int:
        """A new slot for a value that is made on `device`."""
        self.home[value] = device, self.slots
        self.slots += 1
        return self.slots - 1

    def read(self, value: Value, device: Device) -> int:
        """The slot to read a value from on `device`; adds a copy the first time one is needed."""
        source, slot = self.home[value]
        if source is None or source == device:
            return slot
        if (value, device) not in self.copies:
            self.copies[value, device] = self.slots
            self.steps.append(Copy(source, device, slot, self.slots))
            self.slots += 1
        return self.copies[value, device]

    def run(self, number: int, region: Region) -> None:
        device = parse_device(region.device)
        inputs = tuple(self.read(v, device) for v in region.inputs)
        outputs = tuple(self.define(v, device) for v in region.outputs)
        self.steps.append(RunRegion(device, number, inputs, outputs))


def _plan(graph: Graph, regions: Sequence[Region]) -> Plan:
    builder = _PlanBuilder()
    for value in graph.inputs:
        builder.define(value, None)
    for number, region in enumerate(regions):
        builder.run(number, region)
    return Plan(
        inputs=tuple(Port(v.node.name, v.type) for v in graph.inputs),
        outputs=tuple(map(Port, graph.output_names, (v.type for v in graph.outputs))),
        output_slots=tuple(builder.home[v][1] for v in graph.outputs),
        steps=tuple(builder.steps),
        slots=builder.slots,
    )


def _region_report(region: Region, code: CompiledRegion) -> RegionReport:
    nodes = sum(n.op != "constant" for n in region.graph.nodes)
    kernels = tuple(code.kernels)
    return RegionReport(region.device, nodes, kernels, code.arena_bytes, code.weight_bytes)


def _host_ops(placed: Placement, device: Device) -> tuple[HostOpReport, ...]:
    """The nodes that fell back, with a warning that there are some."""
    if placed.reasons:
        count = len(placed.reasons)
        log.warning("not on %s but interpreted, slowly: %d node(s); see the report", device, count)
    return tuple(HostOpReport(n.name, n.op, "; ".join(why)) for n, why in placed.reasons.items())


def _told(entries: Sequence[LogEntry], event: str) -> tuple[str, ...]:
    return tuple(str(e) for e in entries if e.event == event)
