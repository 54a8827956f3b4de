"""Which fusions run depth first: a depthwise convolution and the convolutions around it.

Between them lies the widest tensor of its neighbourhood. Where it would be written and read again
across caches, the three become one `chain` (see `kernels.chain`). That is a question of cache sizes
and threads, so it is asked here and not in the passes that all targets share.
"""

from __future__ import annotations

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Task, dense
from tilth.cpu.kernels import contraction_plan, split_bf16, split_bf16_cost
from tilth.cpu.kernels.chain import Chain
from tilth.cpu.kernels.contraction_form import canonicalise
from tilth.ir.cost import graph_flops
from tilth.ir.graph import Graph, Node, Value, clone, constant_of, make_input
from tilth.ir.ops.table import make
from tilth.ir.types import f32

# What an operation of a depthwise convolution costs next to one of a product: with operands in the
# core's own L2, as in a chain, or partly in that of another core.
_DEPTHWISE_COST = 2.5, 5.0


def join_chains(graph: Graph, isa: Isa, threads: int) -> Graph:
    """The graph with one fusion of kind `chain` in place of the members of each chain that pays."""
    chains: dict[Node, Chain] = {}
    taken: set[Node] = set()
    for node in graph.nodes:
        chain = _around(graph, node, taken)
        if chain is not None and _pays(chain, isa, threads):
            chains[chain.members[-1]] = chain
            taken.update(chain.members)

    def rebuilt(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        results = clone(node, inputs)
        return _joined(chains[node], results[0].node) if node in chains else results

    return graph.map(rebuilt) if chains else graph


def _pays(chain: Chain, isa: Isa, threads: int) -> bool:
    """Does the thread with most rows finish before its share of the members one by one?"""
    stride, span = chain.reach
    rows, twice = chain.height / threads, 0.0
    if chain.batch % threads:
        strips = chain.strips(isa, threads)
        rows = -(-chain.height * -(-strips // threads) // strips)
        twice = max(0, span - stride) * (threads - 1) / threads  # rows of another thread
    inside, outside = 0.0, 0.0
    for member in chain.members:
        flops, own = graph_flops(member.attrs["body"]), rows
        if member is chain.first:
            own = rows * stride + twice
        at_hand, elsewhere = 1.0, 1.0
        if member is chain.window:
            at_hand, elsewhere = _DEPTHWISE_COST
        else:
            elsewhere = _fastest(member, isa, threads)
        inside += at_hand * flops * own / member.outputs[0].shape[1]
        outside += elsewhere * flops / threads
    return inside <= outside


def _fastest(member: Node, isa: Isa, threads: int) -> float:
    """The time that a contraction takes by itself, as a share of that of the direct algorithm."""
    operands = tuple(dense(v.tensor, constant_of(v)) for v in member.inputs)
    results = (dense(member.outputs[0].tensor),)
    task = Task(member.attrs["body"], operands, results, isa, threads)
    if not split_bf16.pays(task):
        return 1.0
    shape = contraction_plan.shape_of(canonicalise(task), isa)
    fast = split_bf16_cost.cycles(split_bf16.plans(task)[0], isa, threads)
    return fast / contraction_plan.cycles(shape, isa, threads)


def _around(graph: Graph, window: Node, taken: set[Node]) -> Chain | None:
    """The chain around a depthwise convolution; None if there is nothing to join it with."""
    hero = _hero(window, "window")
    if hero is None or hero.outputs[0].shape[-1] != hero.attrs["groups"]:
        return None

    def alone(value: Value, user: Node) -> bool:
        """Is `value` read by `user` only?"""
        return graph.users[value] == (user,) and value not in graph.outputs

    above, reader, pad = window.inputs[0], window, None
    if _is_border(above.node) and alone(above, window):
        above, reader, pad = above.node.inputs[0], above.node, above.node
    first: Node | None = above.node
    if above.node in taken or not (alone(above, reader) and _may_be_first(above.node)):
        first = pad = None
    below = graph.users[window.outputs[0]][:1]
    last = below[0] if below and alone(window.outputs[0], below[0]) else None
    if last is None or last.inputs[0] != window.outputs[0] or not _is_pointwise(last):
        last = None
    return Chain(first, pad, window, last) if first or last else None


def _hero(node: Node, kind: str) -> Node | None:
    """The convolution of images, in f32 and with constant weights, that a fusion of this kind is
    about."""
    if node.op != "fusion" or node.attrs["kind"] != kind:
        return None
    hero = next(n for n in node.attrs["body"].nodes if n.op != "constant")
    images = hero.op == "convolution" and len(hero.outputs[0].shape) == 4
    if not images or any(v.tensor.dtype != f32 for v in (*node.inputs, *node.outputs)):
        return None
    wide = min(hero.outputs[0].shape[1:3]) > 1
    return hero if wide and constant_of(node.inputs[1]) is not None else None


def _is_pointwise(node: Node) -> bool:
    hero = _hero(node, "contraction")
    if hero is None or hero.attrs["groups"] != 1:
        return False
    return hero.inputs[1].shape[:2] == (1, 1) and set(hero.attrs["strides"]) == {1}


def _may_be_first(node: Node) -> bool:
    """Is it a convolution that no faster algorithm wants?"""
    hero = _hero(node, "contraction")
    if hero is None or hero.attrs["groups"] != 1:
        return False
    return _is_pointwise(node) or min(hero.attrs["strides"]) > 1


def _is_border(node: Node) -> bool:
    """Does it add zeros around images?"""
    if node.op != "pad" or any(node.attrs["interior"]):
        return False
    low, high = node.attrs["low"], node.attrs["high"]
    zero = constant_of(node.inputs[1])
    around_images = (low[0], high[0], low[-1], high[-1]) == (0, 0, 0, 0) and len(low) == 4
    return around_images and min((*low, *high)) >= 0 and zero is not None and not zero.any()


def _joined(chain: Chain, end: Node) -> tuple[Value, ...]:
    """The chain as one node; `end` is its last member, over new operands."""
    operands: list[Value] = []
    parameters: list[Value] = []

    def parameter(value: Value) -> Value:
        """Also for what is read twice: members may want weights packed in different ways."""
        operands.append(value)
        parameters.append(make_input(value.type, f"p{len(parameters)}"))
        return parameters[-1]

    def member(node: Node, source: Value | None) -> Value:
        first = source or parameter(node.inputs[0])
        return clone(node, (first, *map(parameter, node.inputs[1:])))[0]

    window = end.inputs[0].node if chain.last else end
    result: Value | None = None
    if chain.first is not None:
        above = window.inputs[0].node
        result = member(above.inputs[0].node if chain.pad else above, None)
        if chain.pad is not None:
            (result,) = clone(above, (result, above.inputs[1]))
    result = member(window, result)
    if chain.last is not None:
        result = member(end, result)
    body = Graph(tuple(parameters), (result,), name="chain")
    names = {"name": window.name, "source": window.source}
    return make("fusion", *operands, kind="chain", body=body, **names).outputs
