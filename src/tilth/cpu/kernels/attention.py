"""Attention, depth first: scores, softmax and the product with the values, by blocks of rows.

Scores of a block stay in scratch, within the core's own L2, and threads wait for each other once
instead of three times. Keys and values are split for the matrix unit once per head, not once per
block (the blocking of FlashAttention, Dao et al. 2022, without its running maximum: rows are never
cut). The members are the ordinary kernels with blocks of rows as work items. They see the scores
as a whole tensor; base pointers are moved so that the block's rows lie where it would have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import llvmlite.ir as ll

from tilth.cpu.emit import I64, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task, once, row_major
from tilth.cpu.kernels import row, split_bf16, split_bf16_emit
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.contraction_form import RHS, canonicalise
from tilth.cpu.kernels.contraction_geometry import aligned
from tilth.cpu.kernels.matrix_unit import ROWS
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.pieces import even_part
from tilth.cpu.kernels.space import decode, kernel_emitter, touched_bytes
from tilth.cpu.kernels.split_bf16_plan import Plan, problem_of
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node
from tilth.ir.types import f32

_SHARE_OF_L2 = 0.8  # that keys, values and what belongs to a block may take
_FEWEST_ROWS = 2 * ROWS  # of a block: a pair of row tiles


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
    attention, (scores, softmax, values) = attention_of(task.body), _tasks(task)
    blocks = _blocks(task)
    plans = [_plan(member, blocks) for member in (scores, values)]
    kernels = [
        split_bf16.lower(scores, plans[0]),
        row.lower_rows(softmax),
        split_bf16.lower(values, plans[1]),
    ]

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return _Blocks(module, isa, name, task, kernels, plans).emit()

    packed = sum(aligned(plan.problem.right) for plan in plans)
    return Kernel(
        name="attention",
        key=("attention", tuple(k.key for k in kernels), task.layouts),
        emit=emit,
        items=_heads(scores) * blocks,
        flops=sum(k.flops for k in kernels),
        bytes=touched_bytes(task.views),
        scratch=packed + _nbytes(attention, plans[0]) + max(k.scratch for k in kernels),
        algorithm=f"split bf16, {blocks} blocks of {plans[0].block_tiles} row tiles",
    )


def pays(task: Task) -> bool:
    """Can the matrix unit compute both products, and does it want to, or are there so many scores
    that it should?"""
    attention, (scores, _, values) = attention_of(task.body), _tasks(task)
    products = (scores, values)
    if not all(split_bf16.plans(member) and _by_heads(member) for member in products):
        return False
    if _heads(scores) != _heads(values):
        return False
    many = math.prod(attention.between.shape) * f32.nbytes > task.isa.l2
    return many or all(map(split_bf16.pays, products))


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
    problem = problem_of(form)
    columns = [loop.size for loop in form.n]
    return in_order and columns == [result.shape[-1]] and problem.rows == problem.wanted


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


def _plan(task: Task, blocks: int) -> Plan:
    """Whose right operand is in scratch, as if it were constant."""
    problem = problem_of(canonicalise(task))
    return Plan(problem, constant=True, row_blocks=blocks, panel_blocks=1)


@once
def _blocks(task: Task) -> int:
    """Blocks of rows per head: so many that one stays in L2 beside keys and values, and that all
    threads get as many."""
    attention, (scores, _, values) = attention_of(task.body), _tasks(task)
    problems = [problem_of(canonicalise(member)) for member in (scores, values)]
    each = attention.pitch + sum(p.pitch for p in problems)
    room = _SHARE_OF_L2 * task.isa.l2 - sum(p.right for p in problems)
    rows = max(_FEWEST_ROWS, int(room / each) // _FEWEST_ROWS * _FEWEST_ROWS)
    blocks = -(-problems[0].rows // rows)
    if _heads(scores) % task.threads:
        blocks = -(-blocks // task.threads) * task.threads
    return min(blocks, problems[0].row_tiles)


def _nbytes(attention: Attention, plan: Plan) -> int:
    """Scratch for the scores of a block."""
    return aligned(plan.block_tiles * ROWS * attention.pitch)


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
        plans: list[Plan],
    ):
        self.attention, self.plan = attention_of(task.body), plans[0]
        self.heads = _heads(_tasks(task)[0])
        self.functions = [k.emit(module, isa, f"{name}.{i}") for i, k in enumerate(kernels)]
        values = (*task.body.inputs, task.body.outputs[0])
        self.e, pointers = kernel_emitter(module, isa, name, len(values))
        self.pointers = dict(zip(values, pointers, strict=True))
        scratch, self.begin, self.end, _ = self.e.args[len(values) :]
        self.right: dict[Node, tuple[Plan, Val, ll.Function]] = {}  # split, where, by whom
        for member, of, plan in zip(self.attention.products, _tasks(task)[::2], plans, strict=True):
            split = split_bf16_emit.emit_right(
                module, isa, f"{name}.right{len(self.right)}", plan, of
            )
            self.right[member] = plan, scratch, split
            scratch = self.e.offset(scratch, aligned(plan.problem.right))
        self.scores = scratch
        self.scratch = self.e.offset(scratch, _nbytes(self.attention, plans[0]))
        for function in (*self.functions, *(split for _, _, split in self.right.values())):
            function.attributes.add("noinline")

    def emit(self) -> ll.Function:
        e, shape = self.e, (self.heads, self.plan.row_blocks)
        with e.loop(self.begin, self.end) as item:
            head, block = (e.i64(i) for i in decode(e, item, shape))
            first = e.b.icmp_signed("==", block, I64(0))
            with e.when(e.b.or_(first, e.b.icmp_signed("==", item, self.begin))):
                for member in self.right:
                    self._split_right(member, head)
            self._block(item, head, block)
        return e.finish()

    def _split_right(self, member: Node, head: Val) -> None:
        """Split the keys or the values of a head."""
        plan, packed, split = self.right[member]
        source, outer = self.pointers[member.inputs[plan.problem.form.rhs]], plan.problem.outer
        index = decode(self.e, head, tuple(loop.size for loop in outer))
        for i, loop in zip(index, outer, strict=True):
            source = step(self.e, source, i, loop.strides[RHS] * f32.nbytes)
        self.e.b.call(split, [source, packed])

    def _block(self, item: Val, head: Val, block: Val) -> None:
        """All members for a block of rows."""
        e, attention, plan = self.e, self.attention, self.plan
        rows = I64(plan.problem.rows)
        edges = even_part(e, block, plan.problem.row_tiles, plan.row_blocks)
        earlier = e.b.mul(head, rows)
        start, stop = (
            e.b.add(earlier, e.intrinsic("smin", e.b.mul(e.i64(i), I64(ROWS)), rows)) for i in edges
        )
        between = step(e, self.scores, start, -attention.pitch)
        known = self.pointers | {
            member.outputs[0]: between for member in (attention.scores, attention.softmax)
        }
        after = e.b.add(item, I64(1))
        ranges = ((item, after), (start, stop), (item, after))
        for function, member, range_ in zip(self.functions, attention.members, ranges, strict=True):
            args = [known[v] for v in (*member.inputs, member.outputs[0])]
            if member in self.right:
                plan, packed, _ = self.right[member]
                args[plan.problem.form.rhs] = step(e, packed, head, -plan.problem.right)
            e.b.call(function, [*args, self.scratch, *range_, I64(0)])
