"""Attention, depth first: scores, softmax and the product with the values, by blocks of rows.

Scores of a block stay in scratch, within the core's own L2, and threads wait for each other once
instead of three times. Keys and values are packed once per head, not once per block (the blocking
of FlashAttention, Dao et al. 2022, without its running maximum: rows are never cut). The members
are the ordinary kernels with blocks of rows as work items, see `attention_products`. They see the
scores as a whole tensor; base pointers are moved so that the block's rows lie where it would have
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import llvmlite.ir as ll

from tilth.cpu.emit import I64, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task, once, row_major
from tilth.cpu.kernels import row, split_bf16
from tilth.cpu.kernels.attention_products import Needs, Product, Split, Tiled
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.contraction_form import RHS, canonicalise
from tilth.cpu.kernels.contraction_geometry import aligned
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.pieces import even_part
from tilth.cpu.kernels.space import decode, kernel_emitter, touched_bytes
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node
from tilth.ir.types import f32

_SHARE_OF_L2 = 0.8  # that keys, values and what belongs to a block may take


@dataclass(frozen=True)
class Attention:
    """The members: `values` multiplies what `softmax` makes of the result of `scores`."""

    scores: Node
    softmax: Node
    values: Node

    @property
    def members(self) -> tuple[Node, Node, Node]:
        return self.scores, self.softmax, self.values

    @property
    def products(self) -> tuple[Node, Node]:
        return self.scores, self.values

    @property
    def pitch(self) -> int:
        """Bytes from one row of scores to the next."""
        return conflict_free(self.scores.outputs[0].shape[-1] * f32.nbytes)

    @property
    def between(self) -> Operand:
        """Scores, and what softmax puts in their place, as the members see them."""
        shape = self.scores.outputs[0].shape
        pitch = self.pitch // f32.nbytes
        strides = row_major((*shape[:-1], pitch))
        return Operand(f32, shape, strides)


def attention_of(body: Graph) -> Attention:
    """The members in the body of a fusion of kind `attention`."""
    values = body.outputs[0].node
    (softmax,) = (v.node for v in values.inputs if v.op == "fusion")
    (scores,) = (v.node for v in softmax.inputs if v.op == "fusion")
    return Attention(scores, softmax, values)


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `attention`. Raises CompileError where it does not pay."""
    if not pays(task):
        raise CompileError("this attention does not pay as one kernel; plan its members instead")
    scores, softmax, values = _tasks(task)
    way, pair, blocks = _way(task), (scores, values), _blocks(task)
    products = [way.product(pair, i, blocks) for i in range(2)]
    kernels = [products[0].kernel, row.lower_rows(softmax), products[1].kernel]

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return _Blocks(module, isa, name, task, kernels, products).emit()

    packed = sum(aligned(product.right) for product in products)
    return Kernel(
        name="attention",
        key=("attention", tuple(k.key for k in kernels), task.layouts),
        emit=emit,
        items=_heads(scores) * blocks,
        flops=sum(k.flops for k in kernels),
        bytes=touched_bytes(task.views),
        scratch=packed + _nbytes(task) + max(k.scratch for k in kernels),
        algorithm=f"{way.name}, {blocks} blocks of {_block_tiles(task)} row tiles",
    )


def pays(task: Task) -> bool:
    """Can both products be computed by blocks, and is that expected to be faster?

    With a matrix unit it is if that wants to compute both, or if there are so many scores that it
    should.
    """
    attention, (scores, _, values) = attention_of(task.body), _tasks(task)
    products = scores, values
    if not (all(map(_by_heads, products)) and _way(task).fits(products)):
        return False
    if _heads(scores) != _heads(values):
        return False
    many = math.prod(attention.between.shape) * f32.nbytes > task.isa.l2
    return not task.isa.bf16_tiles or many or all(map(split_bf16.pays, products))


def _way(task: Task) -> Split | Tiled:
    return Split() if task.isa.bf16_tiles else Tiled()


def _heads(task: Task) -> int:
    """Matrices of a product's right operand, each of which is split once."""
    return math.prod(loop.size for loop in canonicalise(task).batch)


def _by_heads(task: Task) -> bool:
    """Do the rows of a product, in their order, read one right matrix after the other?"""
    form, result = canonicalise(task), task.results[0]
    multiplied = tuple(form.body.inputs[i] for i in (form.lhs, form.rhs))
    as_written = multiplied == form.hero.inputs and form.lhs != form.rhs
    alone = set(form.body.users[multiplied[1]]) == {form.hero}  # it is read in split form only
    if not (form.m and as_written and alone):
        return False
    axes = [i for i, n in enumerate(result.shape[:-1]) if n > 1]
    right, rows = task.operands[form.rhs], len(result.shape) - 2
    moving = [i for i in axes if i != rows and right.strides[i]]
    sharing = [i for i in axes if i not in moving]  # rows that read the same matrix
    in_order = axes == [*moving, *sharing] and all(
        steps == sorted(steps, reverse=True)
        for steps in ([abs(result.strides[i]) for i in loops] for loops in (moving, sharing))
    )
    return in_order


@once
def _tasks(task: Task) -> tuple[Task, Task, Task]:
    """Of the members."""
    body, attention = task.body, attention_of(task.body)
    seen = dict(zip((*body.inputs, *body.outputs), task.views, strict=True))
    seen |= {m.outputs[0]: attention.between for m in (attention.scores, attention.softmax)}
    scores, softmax, values = (
        Task(
            member.attrs["body"],
            tuple(replace(seen[v], constant=None) for v in member.inputs),
            tuple(seen[v] for v in member.outputs),
            task.isa,
            task.threads,
        )
        for member in attention.members
    )
    return scores, softmax, values


@once
def _blocks(task: Task) -> int:
    """Blocks of rows per head: so many that one stays in L2 beside keys and values, and that all
    threads get as many."""
    attention, needs = attention_of(task.body), _needs(task)
    fewest = _way(task).fewest * needs.tile
    room = _SHARE_OF_L2 * task.isa.l2 - needs.right
    fit = int(room / (attention.pitch + needs.row)) // fewest * fewest
    blocks = -(-needs.rows // max(fewest, fit))
    if _heads(_tasks(task)[0]) % task.threads:
        blocks = -(-blocks // task.threads) * task.threads
    return min(blocks, needs.tiles)


def _needs(task: Task) -> Needs:
    scores, _, values = _tasks(task)
    return _way(task).needs((scores, values))


def _block_tiles(task: Task) -> int:
    """Tiles of rows in the largest block."""
    return -(-_needs(task).tiles // _blocks(task))


def _nbytes(task: Task) -> int:
    """Scratch for the scores of a block."""
    return aligned(_block_tiles(task) * _needs(task).tile * attention_of(task.body).pitch)


class _Blocks:
    """Emits the loop over blocks. Scratch holds the keys and values of a head, the scores of a
    block, and what members need."""

    def __init__(
        self,
        module: ll.Module,
        isa: Isa,
        name: str,
        task: Task,
        kernels: list[Kernel],
        products: list[Product],
    ):
        self.attention, self.products = attention_of(task.body), products
        self.heads, self.blocks = _heads(_tasks(task)[0]), _blocks(task)
        self.needs = _needs(task)
        self.functions = [k.emit(module, isa, f"{name}.{i}") for i, k in enumerate(kernels)]
        values = (*task.body.inputs, task.body.outputs[0])
        self.e, pointers = kernel_emitter(module, isa, name, len(values))
        self.pointers = dict(zip(values, pointers, strict=True))
        scratch, self.begin, self.end, _ = self.e.args[len(values) :]
        self.right: dict[Node, tuple[Product, Val, ll.Function]] = {}  # packed, where, by whom
        for member, product in zip(self.attention.products, products, strict=True):
            pack = product.emit_right(module, isa, f"{name}.right{len(self.right)}")
            self.right[member] = product, scratch, pack
            scratch = self.e.offset(scratch, aligned(product.right))
        self.scores = scratch
        self.scratch = self.e.offset(scratch, _nbytes(task))
        for function in (*self.functions, *(pack for _, _, pack in self.right.values())):
            function.attributes.add("noinline")

    def emit(self) -> ll.Function:
        e, shape = self.e, (self.heads, self.blocks)
        with e.loop(self.begin, self.end) as item:
            head, block = (e.i64(i) for i in decode(e, item, shape))
            first = e.b.icmp_signed("==", block, I64(0))
            with e.when(e.b.or_(first, e.b.icmp_signed("==", item, self.begin))):
                for member in self.right:
                    self._pack_right(member, head)
            self._block(item, head, block)
        return e.finish()

    def _pack_right(self, member: Node, head: Val) -> None:
        """Pack the keys or the values of a head."""
        product, packed, pack = self.right[member]
        source = self.pointers[member.inputs[product.rhs]]
        index = decode(self.e, head, tuple(loop.size for loop in product.outer))
        for i, loop in zip(index, product.outer, strict=True):
            source = step(self.e, source, i, loop.strides[RHS] * f32.nbytes)
        self.e.b.call(pack, [source, packed])

    def _block(self, item: Val, head: Val, block: Val) -> None:
        """All members for a block of rows."""
        e, attention = self.e, self.attention
        edges = even_part(e, block, self.needs.tiles, self.blocks)
        earlier = e.b.mul(head, I64(self.needs.rows))
        first_row = self.products[0].first_row
        start, stop = (e.b.add(earlier, first_row(e, e.i64(i))) for i in edges)
        between = step(e, self.scores, start, -attention.pitch)
        known = self.pointers | {
            member.outputs[0]: between for member in (attention.scores, attention.softmax)
        }
        after = e.b.add(item, I64(1))
        ranges = ((item, after), (start, stop), (item, after))
        for function, member, range_ in zip(self.functions, attention.members, ranges, strict=True):
            args = [known[v] for v in (*member.inputs, member.outputs[0])]
            if member in self.right:
                product, packed, _ = self.right[member]
                args[product.rhs] = step(e, packed, head, -product.right)
            e.b.call(function, [*args, self.scratch, *range_, I64(0)])
