"""Placement: which device runs which part of a graph, in as few regions as possible.

Asked after the shared passes and before those a target wants for itself. A graph that one device
can run whole is exactly one region. Regions run in order; what one computes and a later one (or
the caller) needs is an output of the first, so every transfer is visible in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, Node, Value, clone, make_input


@dataclass(frozen=True)
class Region:
    """A graph for one device. `inputs` and `outputs` are the placed graph's values, in order.

    An input is one of the placed graph's inputs or an output of an earlier region.
    """

    device: str
    graph: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Placement:
    """Regions in execution order, and why nodes could not run on more preferred devices."""

    regions: tuple[Region, ...]
    reasons: Mapping[Node, tuple[str, ...]]


def place(
    graph: Graph,
    devices: Sequence[str],
    unsupported: Callable[[Node, str], str | None],
    override: Callable[[Node], str | None] | None = None,
) -> Placement:
    """Partition `graph` over `devices`, most preferred first.

    `unsupported(node, device)` says why not, or None; `override(node)` may name a device. Raises
    UnsupportedError listing every node that no device can run (or not the one it was given to).
    """
    reasons: dict[Node, tuple[str, ...]] = {}
    device_of: dict[Node, str] = {}
    odd = {v.node for v in graph.outputs if v.op == "constant" and unsupported(v.node, devices[0])}
    for node in graph.nodes:
        if node.op == "constant" and node not in odd:
            continue  # each region that reads a constant holds it
        chosen = override(node) if override is not None else None
        candidates = list(devices) if chosen is None else [chosen]
        refusals = []
        for device in candidates:
            reason = unsupported(node, device)
            if reason is None:
                device_of[node] = device
                break
            refusals.append(f"{device}: {reason}")
        if refusals:
            reasons[node] = tuple(refusals)
    homeless = [n for n in reasons if n not in device_of]
    if homeless:
        lines = [f"  {n.name or '?'} ({n.op}): {'; '.join(reasons[n])}" for n in homeless]
        raise UnsupportedError("no device can run these nodes:\n" + "\n".join(lines))
    phases = _fewest_phases(graph, device_of) or [(devices[0], [])]
    return Placement(tuple(_regions(graph, phases)), reasons)


_Phase = tuple[str, list[Node]]


def _fewest_phases(graph: Graph, device_of: Mapping[Node, str]) -> list[_Phase]:
    """Nodes in the order of execution, as runs on one device; the start that needs fewest runs."""
    schedules = [_phases(graph, device_of, first) for first in dict.fromkeys(device_of.values())]
    return min(schedules, key=len, default=[])


def _phases(graph: Graph, device_of: Mapping[Node, str], device: str) -> list[_Phase]:
    """Run all that is ready on one device, then switch to that of the earliest waiting node."""
    remaining = [n for n in graph.nodes if n in device_of]
    waiting = set(remaining)
    phases: list[_Phase] = []
    while remaining:
        run = []
        for node in remaining:
            if device_of[node] == device and not any(v.node in waiting for v in node.inputs):
                waiting.remove(node)
                run.append(node)
        if run:
            phases.append((device, run))
        remaining = [n for n in remaining if n in waiting]
        if remaining:
            device = device_of[remaining[0]]
    return phases


def _regions(graph: Graph, phases: Sequence[_Phase]) -> list[Region]:
    phase_of = {node: i for i, (_, nodes) in enumerate(phases) for node in nodes}
    exported: dict[int, dict[Value, None]] = {i: {} for i in range(len(phases))}
    for value in graph.outputs:
        if value.op != "input":  # an input that is an output needs no code
            exported[phase_of.get(value.node, 0)][value] = None
    for i, (_, nodes) in enumerate(phases):
        for value in (v for node in nodes for v in node.inputs):
            if phase_of.get(value.node, i) != i:
                exported[phase_of[value.node]][value] = None
    return [
        _region(device, nodes, tuple(exported[i]), f"{graph.name}.{i}" if i else graph.name)
        for i, (device, nodes) in enumerate(phases)
    ]


def _region(device: str, nodes: Sequence[Node], outputs: tuple[Value, ...], name: str) -> Region:
    new: dict[Value, Value] = {}
    inputs: list[Value] = []
    own = set(nodes)

    def inside(value: Value) -> Value:
        if value not in new:
            if value.op == "constant":
                return value
            label = value.node.name if value.op == "input" else f"transfer{len(inputs)}"
            new[value] = make_input(value.type, label)
            inputs.append(value)
        return new[value]

    for node in nodes:
        results = clone(node, tuple(inside(v) for v in node.inputs))
        new.update(zip(node.outputs, results, strict=True))
    assert all(v.node in own or v.op == "constant" for v in outputs)
    graph = Graph(tuple(new[v] for v in inputs), tuple(inside(v) for v in outputs), name=name)
    return Region(device, graph, tuple(inputs), outputs)
