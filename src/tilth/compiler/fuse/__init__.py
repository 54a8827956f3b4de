"""The fusion pass: nodes become `fusion` nodes, each computed by one kernel of the target.

`clusters` decides what goes together, `build` brings the bodies into the form kernels expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilth.compiler.fuse.build import build_fusions
from tilth.compiler.fuse.clusters import Cluster, find_clusters
from tilth.compiler.log import LogEntry
from tilth.ir.graph import Graph

_MOVEMENT = frozenset({"reshape", "transpose", "slice", "broadcast_in_dim", "reverse"})


def fuse(graph: Graph) -> tuple[Graph, list[LogEntry]]:
    """Fuse all of `graph`; the log tells fusions made, and epilogues missed with the reason."""
    clusters = find_clusters(graph)
    log = [*map(_made, clusters), *_missed(graph, clusters)]
    return build_fusions(graph, clusters), log


def _made(cluster: Cluster) -> LogEntry:
    names = tuple(dict.fromkeys(node.name for node in cluster.members if node.name))
    return LogEntry("fuse", "fused", names, f"{len(cluster.members)} ops: {cluster.kind}")


def _missed(graph: Graph, clusters: Sequence[Cluster]) -> Iterator[LogEntry]:
    """Elementwise kernels that follow a contraction or window but are not its epilogue."""
    of = {node: cluster for cluster in clusters for node in cluster.members}
    for cluster in clusters:
        if cluster.hero is None:
            continue
        (result,) = cluster.root.outputs
        between, users = "", graph.users[result]
        while len(users) == 1 and users[0].op in _MOVEMENT:
            between, users = users[0].op, graph.users[users[0].outputs[0]]
        followers = [of[u] for u in users if u in of and of[u].kind == "elementwise"]
        if not followers:
            continue
        if len(users) > 1 or result in graph.outputs:
            reason = f"the result is read in {len(users)} places"
        elif between:
            reason = f"a {between} stands between"
        else:
            reason = "its shape differs, or another contraction took it"
        nodes = (cluster.hero.name or cluster.hero.op, followers[0].root.name or "?")
        yield LogEntry("fuse", "missed", nodes, f"epilogue: {reason}")
