"""From a fused graph to steps: which kernel runs when, and where each value lies.

Values get a *home* before their producer runs when a consumer wants them in a particular place: a
slice of a concatenation, the interior of a padded tensor, an output of the program. Everything else
is a view of its operand or a fresh buffer. What is left over becomes a copy kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilth.cpu import kernels
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand
from tilth.cpu.kernels import winograd
from tilth.cpu.view import Buffer, View, behind, dense_view, through
from tilth.ir.graph import Graph, Node, Value, make_constant, make_input
from tilth.ir.types import Shape

VIEW_OPS = frozenset({"reshape", "transpose", "slice", "reverse", "broadcast_in_dim"})


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One kernel call of the program; all threads take part."""

    kernel: Kernel
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    node: Node

    @property
    def may_alias(self) -> range:
        """Positions of the operands whose memory the result may take over (read, then written)."""
        kind = self.node.attrs["kind"] if self.node.op == "fusion" else ""
        first = {"elementwise": 0, "contraction": 2}.get(kind, len(self.reads))
        return range(first, len(self.reads))


def plan(graph: Graph, isa: Isa, threads: int, exact: bool = False) -> list[Step]:
    """The steps that compute `graph`, in order. Raises CompileError.

    `exact` keeps to algorithms that compute what the graph says, term by term.
    """
    return _Planner(graph, isa, threads, exact).run()


class _Planner:
    def __init__(self, graph: Graph, isa: Isa, threads: int, exact: bool):
        self.graph, self.isa, self.threads, self.exact = graph, isa, threads, exact
        self.homes: dict[Value, View] = {}
        self.views: dict[Value, View] = {}
        self.steps: list[Step] = []

    def run(self) -> list[Step]:
        outputs = [
            dense_view(Buffer("output", v.tensor.nbytes, i), v.tensor)
            for i, v in enumerate(self.graph.outputs)
        ]
        for value, home in zip(self.graph.outputs, outputs, strict=True):
            self._offer(value, home)
        self._claim_homes()
        for i, value in enumerate(self.graph.inputs):
            self.views[value] = dense_view(Buffer("input", value.tensor.nbytes, i), value.tensor)
        for node in self.graph.nodes:
            self._place(node)
        for value, home in zip(self.graph.outputs, outputs, strict=True):
            if not self.views[value].same_place(home):
                self._copy(self.views[value], home, value.node)
        return self.steps

    # -- homes -------------------------------------------------------------------------------
    def _claim_homes(self) -> None:
        for node in reversed(self.graph.nodes):
            result = node.outputs[0]
            if node.op == "concatenate":
                home = self.homes.setdefault(result, self._fresh(result))
                for value, part in zip(node.inputs, _concat_parts(node, home), strict=True):
                    self._offer(value, part)
            elif _is_plain_pad(node):
                home = self.homes.setdefault(result, self._fresh(result))
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
        else:
            self._place_kernel(node)

    def _place_view(self, node: Node) -> None:
        source, result = self.views[node.inputs[0]], node.outputs[0]
        home, seen = self.homes.get(result), through(node, source)
        if seen is not None and (home is None or seen.same_place(home)):
            self.views[result] = seen
            return
        target = home or self._fresh(result)
        if seen is None:  # a reshape across strides: copy the operand to where it is a plain view
            landing = behind(node, target)
            if landing is None:
                dense = self._fresh(node.inputs[0])
                self._copy(source, dense, node)
                seen = through(node, dense)
                assert seen is not None  # a dense tensor has every shape
            else:
                self._copy(source, landing, node)
        if seen is not None:
            self._copy(seen, target, node)
        self.views[result] = target

    def _place_concatenate(self, node: Node) -> None:
        home = self.homes[node.outputs[0]]
        for value, part in zip(node.inputs, _concat_parts(node, home), strict=True):
            if not self.views[value].same_place(part):
                self._copy(self.views[value], part, node)
        self.views[node.outputs[0]] = home

    def _place_pad(self, node: Node) -> None:
        home, source = self.homes[node.outputs[0]], self.views[node.inputs[0]]
        interior = _pad_interior(node, home)
        if not source.same_place(interior):
            self._copy(source, interior, node)
        self._step(node, kernels.lower_pad_halo, (), (home,))
        self.views[node.outputs[0]] = home

    def _place_kernel(self, node: Node) -> None:
        reads = tuple(self.views[v] for v in node.inputs)
        writes = tuple(self.homes.get(v) or self._fresh(v) for v in node.outputs)
        self.views.update(zip(node.outputs, writes, strict=True))
        if node.op == "fusion":
            kind = node.attrs["kind"]
            lower = self._lower_contraction if kind == "contraction" else kernels.FUSION_KINDS[kind]
            self._step(node, lower, reads, writes, body=node.attrs["body"])
        else:
            self._step(node, kernels.OPS[node.op], reads, writes)

    def _lower_contraction(
        self,
        body: Graph,
        operands: tuple[Operand, ...],
        results: tuple[Operand, ...],
        isa: Isa,
        threads: int,
    ) -> Kernel:
        """By Winograd's algorithm where that is expected to be faster and allowed."""
        fast = not self.exact and winograd.pays(body, operands, results, isa, threads)
        lower = winograd.lower if fast else kernels.FUSION_KINDS["contraction"]
        return lower(body, operands, results, isa, threads)

    def _copy(self, source: View, target: View, node: Node) -> None:
        x = make_input(node.types[0], "x")
        body = Graph((x,), (x,), name="copy")
        self._step(node, kernels.FUSION_KINDS["elementwise"], (source,), (target,), body)

    def _step(
        self,
        node: Node,
        lower: kernels.Lower,
        reads: Sequence[View],
        writes: Sequence[View],
        body: Graph | None = None,
    ) -> None:
        operands: tuple[Operand, ...] = tuple(v.operand for v in reads)
        results = tuple(v.operand for v in writes)
        kernel = lower(body or node, operands, results, self.isa, self.threads)
        packed = tuple(
            _packed(kernel.packed[i]) if i in kernel.packed else view
            for i, view in enumerate(reads)
        )
        if kernel.items:
            self.steps.append(Step(kernel, packed, tuple(writes), node))

    def _fresh(self, value: Value) -> View:
        return dense_view(Buffer("arena", value.tensor.nbytes), value.tensor)


def _packed(array: np.ndarray) -> View:
    """Weights laid out by a kernel: only their address matters from here on."""
    constant = make_constant(array)
    buffer = Buffer("weights", constant.tensor.nbytes, constant=constant.node.attrs["value"])
    return dense_view(buffer, constant.tensor)


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
