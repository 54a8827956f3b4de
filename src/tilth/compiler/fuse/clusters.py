"""Which nodes go into one kernel: a partition of the graph into clusters with one result each.

A cluster is closed when every value computed in it, except that of its root, is read only inside
it. Such a cluster cannot lie on a cycle: whatever it reads was computed before its root, and
nothing outside can depend on anything but its root. Contractions and windows choose first (an
epilogue is free there), then reductions, then what is left of the elementwise ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tilth.compiler.match import is_elementwise
from tilth.compiler.reshapes import only_ones_differ
from tilth.ir.graph import Graph, Node
from tilth.ir.types import Shape

# How far a cluster reaches, in nodes; more than any known block needs, and keeps kernels small.
_REACH = 128


@dataclass(frozen=True)
class Space:
    """The iteration space of reductions: the full shape, and the axes that are reduced."""

    full: Shape
    axes: tuple[int, ...] = ()

    @property
    def reduced(self) -> Shape:
        """The shape without the reduced axes."""
        return tuple(n for d, n in enumerate(self.full) if d not in self.axes)

    @property
    def kept(self) -> Shape:
        """The shape with 1 for the reduced axes."""
        return tuple(1 if d in self.axes else n for d, n in enumerate(self.full))

    @property
    def trailing(self) -> bool:
        rank = len(self.full)
        return self.axes == tuple(range(rank - len(self.axes), rank))


@dataclass(frozen=True)
class Cluster:
    """Nodes that become one `fusion`, in topological order; the last, `root`, gives its result."""

    kind: str
    members: tuple[Node, ...]
    space: Space
    hero: Node | None = None

    @property
    def root(self) -> Node:
        return self.members[-1]


def find_clusters(graph: Graph) -> list[Cluster]:
    """Disjoint clusters; together they hold all heroes, reductions and elementwise ops."""
    finder = _Finder(graph)
    for node in graph.nodes:
        if (kind := hero_kind(node)) is not None:
            finder.grow_epilogue(node, kind)
    for node in graph.nodes:
        if node.op == "reduce" and finder.is_free(node):
            finder.grow_reduction(node)
    for node in reversed(graph.nodes):
        if is_elementwise(node) and finder.is_free(node):
            finder.grow_elementwise(node)
    return finder.clusters


def hero_kind(node: Node) -> str | None:
    """The fusion kind that a contraction or window op leads; None for any other op."""
    if node.op == "dot_general":
        return "contraction"
    if node.op == "reduce_window":
        return "window"
    if node.op == "convolution" and node.attrs["layout"] == "channels_last":
        channels = node.inputs[0].shape[-1]
        return "window" if node.attrs["groups"] == channels > 1 else "contraction"
    return None


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.clusters: list[Cluster] = []
        self._taken: set[Node] = set()
        self._position = {node: i for i, node in enumerate(graph.nodes)}
        self._results = {value.node for value in graph.outputs}

    def is_free(self, node: Node) -> bool:
        return node not in self._taken

    def grow_epilogue(self, hero: Node, kind: str) -> None:
        """The longest closed run of elementwise ops on the hero's result."""
        space = Space(hero.outputs[0].shape)

        def fits(node: Node) -> bool:
            return is_elementwise(node) and node.outputs[0].shape == space.full

        self._take(kind, self._closing_runs(hero, fits)[-1], space, hero)

    def grow_reduction(self, reduce: Node) -> None:
        """The reduction with the elementwise ops around it, and others over the same axes."""
        space = Space(reduce.inputs[0].shape, reduce.attrs["axes"])
        kind = "row" if space.trailing else "reduce"

        def fits(node: Node) -> bool:
            return _domain(node, space) is not None

        def may_feed(node: Node, user: Node) -> bool:
            """Only a row is still in cache when its reduction is known."""
            same_domain = _domain(node, space) == _source_domain(user, space)
            return _lines_up(node, user) and (kind == "row" or same_domain)

        roots = [run[-1] for run in self._closing_runs(reduce, fits)]
        for root in reversed([root for root in roots if not _is_alignment(root)]):
            members = self._closed(root, fits, may_feed)
            if reduce in members and (kind == "row" or _domain(root, space) == "reduced"):
                return self._take(kind, self._without_edges(members), space)

    def grow_elementwise(self, root: Node) -> None:
        space = Space(root.outputs[0].shape)

        def fits(node: Node) -> bool:
            return is_elementwise(node) and node.outputs[0].shape == space.full

        members = self._closed(root, fits, lambda node, user: True)
        self._take("elementwise", members, space)

    def _take(
        self, kind: str, members: Iterable[Node], space: Space, hero: Node | None = None
    ) -> None:
        ordered = tuple(sorted(members, key=self._position.__getitem__))
        self._taken.update(ordered)
        self.clusters.append(Cluster(kind, ordered, space, hero))

    def _closing_runs(self, start: Node, fits: Callable[[Node], bool]) -> list[list[Node]]:
        """All closed runs of free fitting nodes that depend on `start`, shortest first.

        A run is closed at its last node when no other value of the run is read outside it.
        """
        run, runs = [start], [[start]]
        outside = set(self._users(start))  # nodes that read the run and are not in it
        while len(run) < _REACH and run[-1] not in self._results:
            candidates = [n for n in outside if self.is_free(n) and fits(n)]
            if not candidates:
                break
            node = min(candidates, key=self._position.__getitem__)
            outside.remove(node)
            run.append(node)
            if not outside:
                runs.append(list(run))
            outside.update(self._users(node))
        return runs

    def _closed(
        self, root: Node, fits: Callable[[Node], bool], may_feed: Callable[[Node, Node], bool]
    ) -> set[Node]:
        """The largest closed cluster of free fitting nodes with this root."""
        members = {root}
        for node in self._before(root, fits):
            users = self._users(node)
            inside = node not in self._results and all(user in members for user in users)
            if inside and all(may_feed(node, user) for user in users):
                members.add(node)
        return members

    def _before(self, root: Node, fits: Callable[[Node], bool]) -> list[Node]:
        """Free fitting nodes that `root` depends on through such nodes, users first."""
        seen, stack = {root}, [root]
        while stack and len(seen) < _REACH:
            for value in stack.pop().inputs:
                node = value.node
                known = node in seen or node not in self._position
                if not known and self.is_free(node) and fits(node):
                    seen.add(node)
                    stack.append(node)
        return sorted(seen - {root}, key=self._position.__getitem__, reverse=True)

    def _without_edges(self, members: set[Node]) -> set[Node]:
        """Reshapes and broadcasts of what comes from outside stay outside."""
        kept = set(members)
        for node in sorted(members, key=self._position.__getitem__):
            if _is_alignment(node) and node.inputs[0].node not in kept:
                kept.remove(node)
        return kept

    def _users(self, node: Node) -> list[Node]:
        return [user for value in node.outputs for user in self.graph.users[value]]


def _is_alignment(node: Node) -> bool:
    """Movement that only lines dimensions up, which kernels get for free."""
    if node.op == "reshape":
        return only_ones_differ(node.inputs[0].shape, node.attrs["shape"])
    return node.op == "broadcast_in_dim"


def _lines_up(node: Node, user: Node) -> bool:
    """False where an elementwise op broadcasts a value that lacks the reduced axes."""
    rank = node.outputs[0].tensor.rank
    return rank == 0 or not is_elementwise(user) or rank == user.outputs[0].tensor.rank


def _domain(node: Node, space: Space) -> str | None:
    """Whether a node computes one element per element ("full") or one per row ("reduced")."""
    if len(node.types) != 1:
        return None
    if node.op == "reduce":
        same = (node.inputs[0].shape, node.attrs["axes"]) == (space.full, space.axes)
        return "reduced" if same else None
    shape = node.outputs[0].shape
    if is_elementwise(node):
        return _domain_of_shape(shape, space)
    if _is_alignment(node) and _domain_of_shape(node.inputs[0].shape, space) == "reduced":
        return _domain_of_shape(shape, space) if _keeps_rows(node, space) else None
    return None


def _keeps_rows(node: Node, space: Space) -> bool:
    """Whether an alignment of per-row values leaves each with its row."""
    if node.op == "reshape":
        return True
    rows = tuple(d for d in range(len(space.full)) if d not in space.axes)
    whole = tuple(range(len(space.full)))
    return node.attrs["dims"] == (rows if node.inputs[0].shape == space.reduced else whole)


def _domain_of_shape(shape: Shape, space: Space) -> str | None:
    if shape == space.full:
        return "full"
    return "reduced" if shape in (space.reduced, space.kept) else None


def _source_domain(node: Node, space: Space) -> str | None:
    """The domain a node reads: a reduction reads the full one."""
    return "full" if node.op == "reduce" else _domain(node, space)
