"""From a fused graph to steps: which kernel runs when, and where each value lies.

Values get a *home* before their producer runs when a consumer wants them in a particular place: a
slice of a concatenation, the interior of a padded tensor, an output of the program. Everything else
is a view of its operand or a fresh buffer. What is left over becomes a copy kernel. Sub-graphs of
control flow are planned in the same way (see `control`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilth.cpu import control, kernels
from tilth.cpu.attention import join_attention
from tilth.cpu.chains import join_chains
from tilth.cpu.choices import Estimates
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Lower, Packed, Task
from tilth.cpu.kernels import attention
from tilth.cpu.steps import Item, Step
from tilth.cpu.view import Buffer, View, behind, dense_view, through
from tilth.ir.graph import Graph, Node, Value, make_input
from tilth.ir.types import Shape, TensorType, u8

VIEW_OPS = frozenset({"reshape", "transpose", "slice", "reverse", "broadcast_in_dim"})


def plan(
    graph: Graph, isa: Isa, threads: int, exact: bool = False, lower: Lower | None = None
) -> list[Item]:
    """What computes `graph`, in order. Raises CompileError.

    `exact` keeps to algorithms that compute what the graph says, term by term. `lower` chooses how
    contractions are computed; by default, estimates do.
    """
    inputs, outputs = (
        [dense_view(Buffer(kind, v.tensor.nbytes, i), v.tensor) for i, v in enumerate(values)]
        for kind, values in (("input", graph.inputs), ("output", graph.outputs))
    )
    return Planner(graph, isa, threads, exact, lower or Estimates()).run(inputs, outputs)


class Planner:
    """Plans one graph, and the graphs inside its control flow with planners like itself."""

    def __init__(self, graph: Graph, isa: Isa, threads: int, exact: bool, lower: Lower):
        self.graph = graph if exact else join_attention(join_chains(graph, isa, threads))
        self.isa, self.threads, self.exact = isa, threads, exact
        self.lower = lower
        self.homes: dict[Value, View] = {}
        self.views: dict[Value, View] = {}
        self.items: list[Item] = []

    def run(self, inputs: Sequence[View], outputs: Sequence[View]) -> list[Item]:
        """The code that reads the graph's inputs and leaves its outputs in these places."""
        for value, home in zip(self.graph.outputs, outputs, strict=True):
            self._offer(value, home)
        self._claim_homes()
        self.views.update(zip(self.graph.inputs, inputs, strict=True))
        for node in self.graph.nodes:
            self._place(node)
        for value, home in zip(self.graph.outputs, outputs, strict=True):
            if not self.views[value].same_place(home):
                self.copy(self.views[value], home, value.node)
        return self.items

    def inner(self, graph: Graph, inputs: Sequence[View], outputs: Sequence[View]) -> list[Item]:
        """The code of a sub-graph."""
        inner = Planner(graph, self.isa, self.threads, self.exact, self.lower)
        return inner.run(inputs, outputs)

    # -- homes -------------------------------------------------------------------------------
    def _claim_homes(self) -> None:
        for node in reversed(self.graph.nodes):
            result = node.outputs[0]
            if node.op == "concatenate":
                home = self.homes.setdefault(result, self.fresh(result))
                for value, part in zip(node.inputs, _concat_parts(node, home), strict=True):
                    self._offer(value, part)
            elif _is_plain_pad(node):
                home = self.homes.setdefault(result, self.fresh(result))
                self._offer(node.inputs[0], _pad_interior(node, home))
            elif node.op in VIEW_OPS and result in self.homes:
                wanted = behind(node, self.homes[result])
                if wanted is not None:
                    self._offer(node.inputs[0], wanted)

    def _offer(self, value: Value, home: View) -> None:
        """Make `home` the value's place unless it has one or cannot be written there well."""
        if value in self.homes or value.node.op in ("input", "constant"):
            return
        inner = [s for d, s in zip(home.shape, home.strides, strict=True) if d != 1]
        elementwise = value.node.op == "fusion" and value.node.attrs["kind"] == "elementwise"
        if not inner or inner[-1] == 1 or elementwise:
            self.homes[value] = home

    # -- steps -------------------------------------------------------------------------------
    def _place(self, node: Node) -> None:
        if node.op == "constant":
            array = node.attrs["value"]
            buffer = Buffer("weights", array.nbytes, constant=array)
            self.views[node.outputs[0]] = dense_view(buffer, node.outputs[0].tensor)
        elif node.op in VIEW_OPS:
            self._place_view(node)
        elif node.op == "concatenate":
            self._place_concatenate(node)
        elif _is_plain_pad(node):
            self._place_pad(node)
        elif node.op in control.PLANNERS:
            control.PLANNERS[node.op](self, node)
        else:
            self._place_kernel(node)

    def _place_view(self, node: Node) -> None:
        source, result = self.views[node.inputs[0]], node.outputs[0]
        home, seen = self.homes.get(result), through(node, source)
        if seen is not None and (home is None or seen.same_place(home)):
            self.views[result] = seen
            return
        target = home or self.fresh(result)
        if seen is None:  # a reshape across strides: copy the operand to where it is a plain view
            landing = behind(node, target)
            if landing is None:
                dense = self.fresh(node.inputs[0])
                self.copy(source, dense, node)
                seen = through(node, dense)
                assert seen is not None  # a dense tensor has every shape
            else:
                self.copy(source, landing, node)
        if seen is not None:
            self.copy(seen, target, node)
        self.views[result] = target

    def _place_concatenate(self, node: Node) -> None:
        home = self.homes[node.outputs[0]]
        for value, part in zip(node.inputs, _concat_parts(node, home), strict=True):
            if not self.views[value].same_place(part):
                self.copy(self.views[value], part, node)
        self.views[node.outputs[0]] = home

    def _place_pad(self, node: Node) -> None:
        home, source = self.homes[node.outputs[0]], self.views[node.inputs[0]]
        interior = _pad_interior(node, home)
        if not source.same_place(interior):
            self.copy(source, interior, node)
        self._step(node, kernels.lower_pad_halo, (), (home,))
        self.views[node.outputs[0]] = home

    def _place_kernel(self, node: Node) -> None:
        reads = tuple(self.views[v] for v in node.inputs)
        writes = tuple(map(self.home, node.outputs))
        self.views.update(zip(node.outputs, writes, strict=True))
        if node.op == "fusion":
            kind = node.attrs["kind"]
            if kind == "attention" and not attention.pays(
                self._task(node.attrs["body"], reads, writes)
            ):
                self._place_members(node, reads, writes)
                return
            reads = self._channels_together(node, reads)
            lower = self.lower if kind == "contraction" else kernels.FUSION_KINDS[kind]
            self._step(node, lower, reads, writes, body=node.attrs["body"])
        else:
            self._step(node, kernels.OPS[node.op], reads, writes)

    def _place_members(self, node: Node, reads: Sequence[View], writes: Sequence[View]) -> None:
        """What is in a fusion of fusions, one by one."""
        body = node.attrs["body"]
        self.views.update(zip(body.inputs, reads, strict=True))
        self.homes.update(zip(body.outputs, writes, strict=True))
        for member in body.nodes:
            self._place(member)

    def _channels_together(self, node: Node, reads: tuple[View, ...]) -> tuple[View, ...]:
        """What a fusion reads, copied where it is a convolution of pixels whose channels lie apart.

        Each element would come from a cache line of its own, and from the same few sets.
        """
        body = node.attrs["body"]
        heroes = [n for n in body.nodes if n.op == "convolution"]
        if node.attrs["kind"] != "contraction" or not heroes:
            return reads
        x, w = heroes[0].inputs
        place = body.inputs.index(x)
        if reads[place].strides[-1] == 1 or x.shape[-1] == 1 or math.prod(w.shape[:-2]) > 1:
            return reads
        dense = self.fresh(x)
        self.copy(reads[place], dense, node, x.tensor)
        return (*reads[:place], dense, *reads[place + 1 :])

    def copy(self, source: View, target: View, node: Node, type_: TensorType | None = None) -> None:
        """A step that copies what has this type, by default that of the node's result."""
        x = make_input(type_ or node.types[0], "x")
        body = Graph((x,), (x,), name="copy")
        self._step(node, kernels.FUSION_KINDS["elementwise"], (source,), (target,), body)

    def _step(
        self,
        node: Node,
        lower: Lower,
        reads: Sequence[View],
        writes: Sequence[View],
        body: Graph | None = None,
    ) -> None:
        body = body or Graph(node.inputs, node.outputs)
        kernel = lower(self._task(body, reads, writes))
        packed = tuple(
            _packed(kernel.packed[i]) if i in kernel.packed else view
            for i, view in enumerate(reads)
        )
        if kernel.items:
            self.items.append(Step(kernel, packed, tuple(writes), node))

    def _task(self, body: Graph, reads: Sequence[View], writes: Sequence[View]) -> Task:
        operands, results = (tuple(v.operand for v in views) for views in (reads, writes))
        return Task(body, operands, results, self.isa, self.threads, self.exact)

    def home(self, value: Value) -> View:
        """Where to write a value: where a consumer wants it, or anywhere."""
        return self.homes.get(value) or self.fresh(value)

    def fresh(self, value: Value) -> View:
        return dense_view(Buffer("arena", value.tensor.nbytes), value.tensor)


def _packed(packed: Packed) -> View:
    """Weights laid out by a kernel: only their address matters from here on."""
    buffer = Buffer("weights", packed.nbytes, packed=packed)
    return dense_view(buffer, TensorType(u8, (packed.nbytes,)))


def _concat_parts(node: Node, home: View) -> list[View]:
    axis, start, parts = node.attrs["axis"], 0, []
    for value in node.inputs:
        corner = tuple(start if i == axis else 0 for i in range(len(home.shape)))
        parts.append(home.subview(corner, value.shape))
        start += value.shape[axis]
    return parts


def _is_plain_pad(node: Node) -> bool:
    """A pad that only adds a border."""
    if node.op != "pad" or node.inputs[1].op != "constant" or any(node.attrs["interior"]):
        return False
    return min((*node.attrs["low"], *node.attrs["high"]), default=0) >= 0


def _pad_interior(node: Node, home: View) -> View:
    low: Shape = node.attrs["low"]
    return home.subview(low, node.inputs[0].shape)
