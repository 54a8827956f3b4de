"""The layout pass: convolutions become channels-last, and transposes travel as far as they can.

Every value of the graph is tracked in the dimension orders in which it is at hand. A convolution
asks for its operand as N S.. C and gives its result so; the ops between (elementwise, windows,
reductions, concatenations, reshapes, transposes themselves) compute in the order their operands
have. A `transpose` node appears only where an op really needs another order, so a convolutional
network keeps one at its input and none in its body. A dense layer after a flatten permutes its
constant weights instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilth.compiler.match import is_constant, rebuild, transposed
from tilth.compiler.reshapes import reshape_groups
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.ops.table import has_tag, op

Order = tuple[int, ...]  # the view's dimension i is the value's dimension order[i]


def assign_layouts(graph: Graph) -> Graph:
    """Rewrite `graph` so that all convolutions are channels-last, with few transposes left."""
    layouts = _Layouts()
    for value in graph.inputs:
        layouts.define(value, value, natural(value))
    for node in graph.nodes:
        _rule_of(node)(node, layouts)
    outputs = tuple(layouts.get(v, natural(v)) for v in graph.outputs)
    return Graph(graph.inputs, outputs, graph.output_names, graph.name, graph.notes)


def natural(value: Value) -> Order:
    return tuple(range(value.tensor.rank))


class _Layouts:
    """For each value of the old graph: its equivalents in the new one, by dimension order."""

    def __init__(self) -> None:
        self._orders: dict[Value, dict[Order, Value]] = {}

    def define(self, old: Value, new: Value, order: Order) -> None:
        self._orders[old] = {order: new}

    def get(self, old: Value, order: Order) -> Value:
        """`old` transposed by `order`, computed at most once per order."""
        at_hand = self._orders[old]
        if order not in at_hand:
            have, new = next(iter(at_hand.items()))
            at_hand[order] = transposed(new, tuple(have.index(d) for d in order))
        return at_hand[order]

    def order(self, old: Value) -> Order:
        """The order in which `old` is computed."""
        return next(iter(self._orders[old]))

    def cost(self, old: Value, order: Order) -> int:
        """Bytes to move before `old` is at hand in `order`; constants are moved for free."""
        if order in self._orders[old] or is_constant(old):
            return 0
        return old.tensor.nbytes if _moves_data(old.shape, self.order(old), order) else 0


def _moves_data(shape: Sequence[int], have: Order, want: Order) -> bool:
    """Whether going from one order to another is more than moving dimensions of size 1."""
    return [d for d in have if shape[d] != 1] != [d for d in want if shape[d] != 1]


def _permute(per_dim: Sequence, order: Order) -> tuple:
    """A per-dimension attribute in another dimension order."""
    return tuple(per_dim[d] for d in order)


def _best_order(values: Sequence[Value], layouts: _Layouts) -> Order:
    """The order that costs least to bring all `values` (of one rank) into; natural when equal."""
    candidates = [layouts.order(v) for v in values if not is_constant(v)]
    if not candidates:
        return natural(values[0])
    costs = {order: sum(layouts.cost(v, order) for v in values) for order in candidates}
    return min(costs, key=lambda order: (costs[order], order == natural(values[0])))


# --- one rule per kind of op: define the node's results in the order it computes them ---

_Rule = Callable[[Node, _Layouts], None]


def _as_written(node: Node, layouts: _Layouts) -> None:
    """An op that fixes its own dimension order."""
    inputs = tuple(
        layouts.get(v, natural(v)) if hasattr(v.type, "rank") else v for v in node.inputs
    )
    for old, new in zip(node.outputs, rebuild(node, inputs), strict=True):
        layouts.define(old, new, natural(old) if hasattr(old.type, "rank") else ())


def _convolution(node: Node, layouts: _Layouts) -> None:
    if node.attrs["layout"] == "channels_last":
        return _as_written(node, layouts)
    x, w = node.inputs
    spatial = tuple(range(2, x.tensor.rank))
    channels_last = (0, *spatial, 1)
    inputs = layouts.get(x, channels_last), layouts.get(w, (*spatial, 1, 0))
    (new,) = rebuild(node, inputs, layout="channels_last")
    layouts.define(node.outputs[0], new, channels_last)


def _elementwise(node: Node, layouts: _Layouts) -> None:
    rank = node.outputs[0].tensor.rank
    full = [v for v in node.inputs if v.tensor.rank == rank]
    order = _best_order(full, layouts) if full else tuple(range(rank))
    inputs = tuple(_broadcastable(v, order, layouts) for v in node.inputs)
    for old, new in zip(node.outputs, rebuild(node, inputs), strict=True):
        layouts.define(old, new, order)


def _broadcastable(value: Value, order: Order, layouts: _Layouts) -> Value:
    """`value` so that it broadcasts against tensors in `order` as it did in the natural one."""
    missing = len(order) - value.tensor.rank
    if missing == 0:
        return layouts.get(value, order)
    new = layouts.get(value, natural(value))
    if value.tensor.rank == 0 or order == tuple(range(len(order))):
        return new
    return transposed(op.reshape(new, shape=(1,) * missing + value.shape), order)


def _transpose(node: Node, layouts: _Layouts) -> None:
    (x,) = node.inputs
    order, permutation = layouts.order(x), node.attrs["permutation"]
    layouts.define(
        node.outputs[0], layouts.get(x, order), tuple(permutation.index(d) for d in order)
    )


def _reduce(node: Node, layouts: _Layouts) -> None:
    (x,) = node.inputs
    order, axes = layouts.order(x), node.attrs["axes"]
    kept = [d for d in range(x.tensor.rank) if d not in axes]
    new_axes = tuple(sorted(order.index(a) for a in axes))
    (new,) = rebuild(node, (layouts.get(x, order),), axes=new_axes)
    layouts.define(node.outputs[0], new, tuple(kept.index(d) for d in order if d not in axes))


def _per_dimension(*names: str) -> _Rule:
    """An op with attributes that have an entry per dimension; further operands are scalars."""

    def rule(node: Node, layouts: _Layouts) -> None:
        x, *scalars = node.inputs
        order = layouts.order(x)
        inputs = (layouts.get(x, order), *(layouts.get(v, natural(v)) for v in scalars))
        attrs = {name: _permute(node.attrs[name], order) for name in names}
        layouts.define(node.outputs[0], rebuild(node, inputs, **attrs)[0], order)

    return rule


def _along_axis(node: Node, layouts: _Layouts) -> None:
    """An op on same-rank operands along one `axis`, or several `axes`, that keeps the rank."""
    order = _best_order(node.inputs, layouts)
    inputs = tuple(layouts.get(v, order) for v in node.inputs)
    if "axes" in node.attrs:
        axes = tuple(sorted(order.index(a) for a in node.attrs["axes"]))
        (new,) = rebuild(node, inputs, axes=axes)
    else:
        (new,) = rebuild(node, inputs, axis=order.index(node.attrs["axis"]))
    layouts.define(node.outputs[0], new, order)


def _broadcast_in_dim(node: Node, layouts: _Layouts) -> None:
    (x,) = node.inputs
    order, dims, shape = layouts.order(x), node.attrs["dims"], node.attrs["shape"]
    new_order = _with_other_dims([dims[d] for d in order], len(shape))
    attrs = {
        "shape": _permute(shape, new_order),
        "dims": tuple(new_order.index(dims[d]) for d in order),
    }
    (new,) = rebuild(node, (layouts.get(x, order),), **attrs)
    layouts.define(node.outputs[0], new, new_order)


def _with_other_dims(order: Sequence[int], rank: int) -> Order:
    """`order` of some dimensions, and each dimension not among them right after its left one."""
    full = list(order)
    for d in range(rank):
        if d not in order:
            full.insert(full.index(d - 1) + 1 if d else 0, d)
    return tuple(full)


def _reshape(node: Node, layouts: _Layouts) -> None:
    """Reshape within groups of dimensions; the groups stay in the order of the operand.

    Only where the dimensions of one group are out of order is the operand transposed, and then no
    further than that (a channel shuffle in channels-last stays within the channels).
    """
    (x,) = node.inputs
    shape = node.attrs["shape"]
    order = [d for d in layouts.order(x) if x.shape[d] != 1]
    groups = reshape_groups(x.shape, shape)
    if groups is None:
        return _as_written(node, layouts)
    # ordered by their innermost dimension, so that it stays innermost
    groups = sorted(groups, key=lambda group: max(order.index(d) for d in group[0]))
    source = _with_other_dims([d for group in groups for d in group[0]], x.tensor.rank)
    target = _with_other_dims([d for group in groups for d in group[1]], len(shape))
    new = op.reshape(layouts.get(x, source), shape=_permute(shape, target), name=node.name)
    layouts.define(node.outputs[0], new, target)


def _dot_general(node: Node, layouts: _Layouts) -> None:
    """Where the operand is a flattened feature map, permute the constant weights, not the map."""
    flat = _flattened(node, layouts)
    if flat is None:
        return _as_written(node, layouts)
    x, order, dims = flat  # the contracted dimension is `dims` of x, row-major
    lhs, rhs = node.inputs
    (contract,) = node.attrs["rhs_contract"]
    split = op.reshape(
        layouts.get(rhs, natural(rhs)),
        shape=rhs.shape[:contract] + tuple(x.shape[d] for d in dims) + rhs.shape[contract + 1 :],
    )
    moved = [contract + dims.index(d) for d in order if d in dims]
    rest = range(contract + len(dims), split.tensor.rank)
    weights = op.reshape(transposed(split, (*range(contract), *moved, *rest)), shape=rhs.shape)
    (new,) = rebuild(node, (op.reshape(layouts.get(x, order), shape=lhs.shape), weights))
    layouts.define(node.outputs[0], new, natural(new))


def _flattened(node: Node, layouts: _Layouts) -> tuple[Value, Order, list[int]] | None:
    """For dot_general(reshape(x), constant) with x out of order only where it is contracted."""
    lhs, rhs = node.inputs
    if lhs.op != "reshape" or not is_constant(rhs) or len(node.attrs["lhs_contract"]) != 1:
        return None
    (x,) = lhs.node.inputs
    order, groups = layouts.order(x), reshape_groups(x.shape, lhs.shape)
    contracted = [g[0] for g in groups or () if g[1] == list(node.attrs["lhs_contract"])]
    if not contracted:
        return None
    (dims,) = contracted
    flat_order = [d for d in order if x.shape[d] != 1 and d in dims]
    sorted_order = _with_other_dims(
        [d for group, _ in groups or () for d in (flat_order if group == dims else group)],
        x.tensor.rank,
    )
    in_place = not _moves_data(x.shape, order, sorted_order)
    return (x, sorted_order, dims) if in_place and flat_order != dims else None


_RULES: dict[str, _Rule] = {
    "convolution": _convolution,
    "transpose": _transpose,
    "reshape": _reshape,
    "reduce": _reduce,
    "dot_general": _dot_general,
    "broadcast_in_dim": _broadcast_in_dim,
    "pad": _per_dimension("low", "high", "interior"),
    "slice": _per_dimension("start", "limit", "strides"),
    "reduce_window": _per_dimension(
        "window", "strides", "padding", "base_dilation", "window_dilation"
    ),
    "average_pool": _per_dimension("window", "strides", "padding", "window_dilation"),
    "concatenate": _along_axis,
    "reverse": _along_axis,
    "cumulative": _along_axis,
    "softmax": _along_axis,
    "log_softmax": _along_axis,
    "lrn": _along_axis,
}


def _rule_of(node: Node) -> _Rule:
    default = _elementwise if has_tag(node.op, "elementwise") else _as_written
    return _RULES.get(node.op, default)
