"""Reductions over axes that are not innermost in memory, such as the mean over H and W of NHWC.

Lanes are independent results: each vector along a kept axis is accumulated over all reduced
positions. Where only a reduced axis runs along memory, the work is that of a row fusion. Exact
sums are made of short ones (see `pairwise`); those of rows are, by their many lanes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import llvmlite.ir as ll

from tilth.cpu.access import load, store
from tilth.cpu.emit import I64, Emitter, Val, width
from tilth.cpu.expression import combine, constant, evaluate, identity_of
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels import pairwise, row
from tilth.cpu.kernels.space import (
    Space,
    advance,
    body_key,
    decode,
    kernel_emitter,
    maskable,
    require_dtypes,
    split,
    touched_bytes,
    unroll,
    vector_loop,
)
from tilth.cpu.kernels.stages import reduced_axes, reduction_space
from tilth.ir.graph import Graph, Value


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `reduce`."""
    require_dtypes(task.views)
    body, operands = task.body, task.operands
    space = reduction_space(body, operands, task.results)
    axes = reduced_axes(body)
    lead = next((a for a in space.accesses if any(a.strides[i] for i in axes)), space.accesses[0])
    kept = [i for i in range(len(space.dims)) if i not in axes]
    if not any(lead.strides[i] == 1 and space.dims[i] > 1 for i in kept):
        return row.lower(task)

    def outermost_first(dims: Sequence[int]) -> list[int]:
        return sorted(dims, key=lambda i: -abs(lead.strides[i]))

    space = space.permuted([*outermost_first(axes), *outermost_first(kept)]).merged(len(axes))
    n_kept = len(space.dims) - len(axes)
    space = space.merged(0, len(axes))
    n_reduced = len(space.dims) - n_kept
    depth = max(1, math.prod(space.dims[:n_reduced]))
    cut = split(
        space.dims[n_reduced:], task.threads, 16, max(16, 4096 // depth), max(64, 32768 // depth)
    )
    runs = pairwise.cut(space.dims[:n_reduced], pairwise.RUN) if _in_runs(task) else None
    inner = Space(cut.dims, tuple(a.without(n_reduced) for a in space.accesses))

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, len(space.accesses))
        *_, begin, end, _step = e.args
        nest = _Nest(e, body, space, n_reduced, len(operands), runs)
        with e.loop(begin, end) as item:
            at, count = cut.enter(e, item, pointers, inner.accesses)
            nest.walk(n_reduced + cut.axis, at, count)
        return e.finish()

    return Kernel(
        name="reduce",
        key=("reduce", body_key(body), space, cut, runs),
        emit=emit,
        items=cut.items,
        flops=sum(n.op != "constant" for n in body.nodes) * space.size,
        bytes=touched_bytes(task.views),
        algorithm="vectors of results" + ", pairwise sums" * (runs is not None),
    )


def _in_runs(task: Task) -> bool:
    """Are there only sums that round, and should they round little?"""
    nodes = [n for n in task.body.nodes if n.op == "reduce"]
    return task.exact and all(n.types[0].dtype.is_float for n in nodes)  # type: ignore[union-attr]


class _Nest:
    """The loops inside one work item. Dimensions: the reduced ones, then the kept ones."""

    def __init__(
        self,
        e: Emitter,
        body: Graph,
        space: Space,
        n_reduced: int,
        n_operands: int,
        runs: pairwise.Runs | None,
    ):
        self.e, self.body, self.space = e, body, space
        self.n_reduced, self.n_operands, self.runs = n_reduced, n_operands, runs
        self.reduces = [n for n in body.nodes if n.op == "reduce"]
        self.before = _inputs_of([n.inputs[0] for n in self.reduces], ())
        self.after = _inputs_of(body.outputs, [n.outputs[0] for n in self.reduces])

    def walk(self, axis: int, pointers: Sequence[Val], count: int | Val) -> None:
        """Loop over `count` steps of a kept dimension and everything inside."""
        e, dims, accesses = self.e, self.space.dims, self.space.accesses
        if axis < len(dims) - 1:
            with e.loop(0, count) as i:
                self.walk(axis + 1, advance(e, pointers, accesses, axis, i), dims[axis + 1])
            return
        n = e.isa.lanes * unroll(self.body)

        def step(position: int | Val, n: int, limit: int | Val | None) -> None:
            self.results(advance(e, pointers, accesses, -1, position), n, limit)

        vector_loop(e, count, n, maskable(accesses), step)

    def results(self, pointers: Sequence[Val], n: int, limit: int | Val | None) -> None:
        """`n` results of every output: accumulate, then the epilogue."""
        e = self.e
        neutral = []
        for node in self.reduces:
            dtype, kind = node.inputs[0].tensor.dtype, node.attrs["kind"]
            neutral.append(constant(e, dtype, identity_of(kind, dtype), n))
        totals = [e.var(value.type, value) for value in neutral]
        if self.runs is None:
            self.accumulate(0, pointers, totals, n, limit)
        else:
            self.accumulate_in_runs(self.runs, pointers, totals, neutral, limit)
        values = {r.outputs[0]: e.b.load(t) for r, t in zip(self.reduces, totals, strict=True)}
        values |= self.fetch(self.after, pointers, n, limit)
        outputs = evaluate(e, self.body.outputs, values, n)
        for i, value in enumerate(outputs, start=self.n_operands):
            access = self.space.accesses[i]
            store(e, value, pointers[i], access.dtype, access.inner, limit)

    def accumulate_in_runs(
        self,
        runs: pairwise.Runs,
        pointers: Sequence[Val],
        totals: Sequence[Val],
        neutral: Sequence[Val],
        limit: int | Val | None,
    ) -> None:
        """As `accumulate` over all reduced dimensions."""
        e, accesses, n = self.e, self.space.accesses, width(neutral[0].type)
        *outer, whole = self.space.dims[: runs.level + 1]
        turns, pieces = math.prod(outer), -(-whole // runs.length)
        sums = []
        for node, value in zip(self.reduces, neutral, strict=True):
            plus = partial(combine, e, node.attrs["kind"], node.inputs[0].tensor.dtype)
            sums.append(pairwise.Pairwise(e, plus, [value], turns * pieces))
        with e.loop(0, turns) as turn, e.loop(0, pieces) as piece:
            at, first = pointers, e.b.mul(piece, I64(runs.length))
            for axis, i in enumerate((*decode(e, turn, tuple(outer)), first)):
                at = advance(e, at, accesses, axis, i)
            for total, value in zip(totals, neutral, strict=True):
                e.b.store(value, total)
            rest = e.b.sub(I64(whole), first)
            with e.loop(0, e.intrinsic("smin", rest, I64(runs.length))) as i:
                inner = advance(e, at, accesses, runs.level, i)
                self.accumulate(runs.level + 1, inner, totals, n, limit)
            run = e.b.add(e.b.mul(turn, I64(pieces)), piece)
            for pair, total in zip(sums, totals, strict=True):
                pair.add(run, [e.b.load(total)])
        for pair, total in zip(sums, totals, strict=True):
            e.b.store(pair.total(I64(turns * pieces))[0], total)

    def accumulate(
        self,
        axis: int,
        pointers: Sequence[Val],
        totals: Sequence[Val],
        n: int,
        limit: int | Val | None,
    ) -> None:
        e = self.e
        if axis < self.n_reduced:
            with e.loop(0, self.space.dims[axis]) as i:
                at = advance(e, pointers, self.space.accesses, axis, i)
                self.accumulate(axis + 1, at, totals, n, limit)
            return
        values = self.fetch(self.before, pointers, n, limit)
        terms = evaluate(e, [r.inputs[0] for r in self.reduces], values, n)
        for node, total, term in zip(self.reduces, totals, terms, strict=True):
            dtype = node.inputs[0].tensor.dtype
            e.b.store(combine(e, node.attrs["kind"], dtype, e.b.load(total), term), total)

    def fetch(
        self, inputs: set[Value], pointers: Sequence[Val], n: int, limit: int | Val | None
    ) -> dict[Value, Val]:
        loaded = {}
        for i, value in enumerate(self.body.inputs):
            if value in inputs:
                access = self.space.accesses[i]
                loaded[value] = load(self.e, pointers[i], access.dtype, n, access.inner, limit)
        return loaded


def _inputs_of(roots: Sequence[Value], stop: Sequence[Value]) -> set[Value]:
    """The body inputs that `roots` depend on, not looking behind `stop`."""
    seen: set[Value] = set(stop)
    stack = list(roots)
    found = set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.op == "input":
            found.add(value)
        stack.extend(value.node.inputs)
    return found
