"""Which nodes go into one kernel: a partition of the graph into clusters with one result each.

A cluster is closed when every value computed in it, except that of its root, is read only inside
it. Such a cluster cannot lie on a cycle: whatever it reads was computed before its root, and
nothing outside can depend on anything but its root. Contractions and windows choose first (an
epilogue is free there), then reductions, then what is left of the elementwise ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tilth.compiler.match import is_elementwise
from tilth.compiler.reshapes import only_ones_differ
from tilth.ir.graph import Graph, Node
from tilth.ir.types import Shape

# How far a cluster looks ahead, in nodes; more than any known block needs, and keeps it linear.
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
    """Nodes that become one `fusion` of `kind`; `root` gives its result."""

    kind: str
    root: Node
    members: frozenset[Node]
    space: Space
    hero: Node | None = None


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

        for root in reversed([hero, *self._ahead(hero, fits)]):
            members = self._closed(root, lambda n: n is hero or fits(n), reaching=hero)
            if hero in members:
                return self._take(Cluster(kind, root, members, space, hero))

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

        for root in reversed([reduce, *self._ahead(reduce, fits)]):
            if _is_alignment(root):
                continue
            members = self._closed(root, fits, may_feed)
            if reduce in members and (kind == "row" or _domain(root, space) == "reduced"):
                return self._take(Cluster(kind, root, self._without_edges(members), space))

    def grow_elementwise(self, root: Node) -> None:
        space = Space(root.outputs[0].shape)

        def fits(node: Node) -> bool:
            return is_elementwise(node) and node.outputs[0].shape == space.full

        self._take(Cluster("elementwise", root, self._closed(root, fits), space))

    def _take(self, cluster: Cluster) -> None:
        self._taken |= cluster.members
        self.clusters.append(cluster)

    def _ahead(self, start: Node, fits: Callable[[Node], bool]) -> list[Node]:
        """Free fitting nodes that `start` reaches through such nodes, in topological order."""
        found, frontier = {start}, [start]
        while frontier and len(found) < _REACH:
            for user in self._users(frontier.pop(0)):
                if user not in found and self.is_free(user) and fits(user):
                    found.add(user)
                    frontier.append(user)
        return sorted(found - {start}, key=self._position.__getitem__)

    def _closed(
        self,
        root: Node,
        fits: Callable[[Node], bool],
        may_feed: Callable[[Node, Node], bool] = lambda node, user: True,
        reaching: Node | None = None,
    ) -> frozenset[Node]:
        """The largest closed cluster of free fitting nodes with this root.

        With `reaching`, only nodes that depend on that node are taken.
        """
        members = {root}
        for node in self._before(root, fits, reaching):
            users = self._users(node)
            inside = node not in self._results and all(user in members for user in users)
            if inside and all(may_feed(node, user) for user in users):
                members.add(node)
        return frozenset(members)

    def _before(
        self, root: Node, fits: Callable[[Node], bool], reaching: Node | None
    ) -> Iterable[Node]:
        """Free fitting nodes that `root` depends on through such nodes, users first."""
        seen, stack = {root}, [root]
        while stack:
            for value in stack.pop().inputs:
                node = value.node
                known = node in seen or node not in self._position
                if not known and self.is_free(node) and fits(node):
                    seen.add(node)
                    stack.append(node)
        ordered = sorted(seen, key=self._position.__getitem__)
        if reaching is not None:
            depends = {reaching}
            depends.update(_depending(ordered, depends))
            ordered = [node for node in ordered if node in depends]
        return reversed([node for node in ordered if node is not root])

    def _without_edges(self, members: frozenset[Node]) -> frozenset[Node]:
        """Reshapes and broadcasts of what comes from outside stay outside."""
        kept = set(members)
        for node in sorted(members, key=self._position.__getitem__):
            if _is_alignment(node) and node.inputs[0].node not in kept:
                kept.remove(node)
        return frozenset(kept)

    def _users(self, node: Node) -> list[Node]:
        return [user for value in node.outputs for user in self.graph.users[value]]


def _depending(ordered: Iterable[Node], on: set[Node]) -> Iterator[Node]:
    """The nodes, among those given in topological order, that read one of `on` or each other."""
    reached = set(on)
    for node in ordered:
        if any(v.node in reached for v in node.inputs):
            reached.add(node)
            yield node


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
