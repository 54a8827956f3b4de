"""Row-wise fusions: softmax, layer_norm, rms_norm and their kin.

One work item is a group of rows. A row is swept once per reduction and once for the results; short
rows stay in registers from the first sweep to the last, long ones keep what is expensive (such as
exponentials) in a scratch row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.access import address, is_small_float, load, store
from tilth.cpu.emit import Emitter, Val
from tilth.cpu.expression import evaluate
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels.accumulator import Accumulator
from tilth.cpu.kernels.space import (
    Space,
    advance,
    blocks,
    body_key,
    kernel_emitter,
    maskable,
    require_dtypes,
    split,
    touched_bytes,
    unroll,
    vector_loop,
)
from tilth.cpu.kernels.stages import (
    Pass,
    Stages,
    plan,
    reciprocals,
    reduced_axes,
    reduction_space,
)
from tilth.ir import types
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.types import DType, Shape

Index = int | Val
Limit = int | Val | None
Step = Callable[[Sequence[Val], Index, int, Limit], None]


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `row`; the reduced axes may in fact be any."""
    return _lower(task, 1024, 8192)


def lower_rows(task: Task) -> Kernel:
    """As `lower`, with single rows as work items."""
    return _lower(task, 1, 1)


def _lower(task: Task, least: int, most: int) -> Kernel:
    """Items have so many elements, and a row at least."""
    require_dtypes(task.views)
    body, operands = task.body, task.operands
    space = reduction_space(body, operands, task.results)
    space, n_rows = _rows_first(space, reduced_axes(body))
    length = math.prod(space.dims[n_rows:])
    varies = [any(a.strides[n_rows:]) for a in space.accesses]
    reads = list(zip(body.inputs, space.accesses, varies, strict=False))
    full = {v for v, _, varying in reads if varying}
    slow = {v for v, access, _ in reads if access.inner not in (0, 1)}
    body = reciprocals(body, full)
    stored = tuple(i for i, varying in enumerate(varies[len(operands) :]) if varying)
    stages = plan(body, stored, full, slow)
    bounds = (max(1, n // max(1, length)) for n in (least, most))
    cut = split(space.dims[:n_rows], task.threads, 1, *bounds)
    short = _in_registers(task.isa, space, n_rows)
    kept = () if short else stages.kept
    scratch = {v: i * _scratch_stride(length) for i, v in enumerate(kept)}

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, len(space.accesses))
        *_, memory, begin, end, _step = e.args
        slots = {v: e.offset(memory, at) for v, at in scratch.items()}
        rows = _Rows(e, body, space, n_rows, stages, slots)
        with e.loop(begin, end) as item:
            at, count = cut.enter(e, item, pointers, space.accesses)
            rows.walk(cut.axis, at, count)
        return e.finish()

    return Kernel(
        name="row",
        key=("row", body_key(body), space, cut),
        emit=emit,
        items=cut.items,
        flops=sum(n.op != "constant" for n in body.nodes) * space.size,
        bytes=touched_bytes(task.views),
        scratch=len(scratch) * _scratch_stride(length),
        algorithm="rows in registers" if short else "rows in passes",
    )


def _scratch_stride(length: int) -> int:
    return -(-length * 8 // 64) * 64


def _rows_first(space: Space, axes: Shape) -> tuple[Space, int]:
    """Merged dimensions, the rows' before those within a row; and how many the former are."""
    kept = [i for i in range(len(space.dims)) if i not in axes]
    lead = next((a for a in space.accesses if any(a.strides[i] for i in axes)), space.accesses[0])
    inside = sorted(axes, key=lambda i: -abs(lead.strides[i]))
    space = space.permuted([*kept, *inside]).merged(len(kept))
    n_inside = len(space.dims) - len(kept)
    space = space.merged(0, len(kept))
    return space, len(space.dims) - n_inside


class _Rows:
    """The loops inside one work item: rows, and the passes over each."""

    def __init__(
        self,
        e: Emitter,
        body: Graph,
        space: Space,
        n_rows: int,
        stages: Stages,
        scratch: dict[Value, Val],
    ):
        self.e, self.body, self.space, self.n_rows = e, body, space, n_rows
        self.stages, self.scratch = stages, scratch
        self.position_of = {v: i for i, v in enumerate(body.inputs)}
        row_dims = space.dims[n_rows:]
        self.n = e.isa.lanes * unroll(body)
        self.masks = maskable(space.accesses)
        self.static_blocks = None
        if _in_registers(e.isa, space, n_rows):
            self.static_blocks = blocks(row_dims[0], e.isa.lanes, min(self.n, 4 * e.isa.lanes))

    def walk(self, axis: int, pointers: Sequence[Val], count: int | Val) -> None:
        """Loop over `count` steps of dims[axis] and over all rows inside."""
        with self.e.loop(0, count) as i:
            inner = advance(self.e, pointers, self.space.accesses, axis, i)
            if axis == self.n_rows - 1:
                self.row(inner)
            else:
                self.walk(axis + 1, inner, self.space.dims[axis + 1])

    def row(self, pointers: Sequence[Val]) -> None:
        e, accesses = self.e, self.space.accesses
        loaded_in_passes = {v for sweep in self.stages.passes for v in sweep.leaves}
        scalars = {
            v: load(e, pointers[i], accesses[i].dtype, 1)
            for v, i in self.position_of.items()
            if v not in loaded_in_passes
        }
        registers: dict[int, dict[Value, Val]] = {}
        for sweep in self.stages.passes:
            self.sweep(sweep, pointers, scalars, registers)
        n_inputs = len(self.body.inputs)
        for i in self.stages.row_outputs:
            [value] = evaluate(e, [self.body.outputs[i]], scalars, 1)
            store(e, value, pointers[n_inputs + i], accesses[n_inputs + i].dtype)

    def sweep(
        self,
        sweep: Pass,
        pointers: Sequence[Val],
        scalars: dict[Value, Val],
        registers: dict[int, dict[Value, Val]],
    ) -> None:
        """One pass over the row; the results of its reductions are added to `scalars`."""
        e = self.e
        evaluate(e, sweep.scalars, scalars, 1)
        sums = [
            Accumulator(e, n.attrs["kind"], n.inputs[0].tensor.dtype, self.n) for n in sweep.reduces
        ]

        def step(at: Sequence[Val], place: Index, n: int, limit: Limit) -> None:
            values = registers.setdefault(place, {}) if self.static_blocks else {}
            values |= {v: e.splat(scalars[v], n) for v in sweep.scalars}
            for v in (*sweep.leaves, *sweep.reloads):
                if v not in values:
                    values[v] = self.fetch(v, sweep, at, place, n, limit)
            for target, total in zip(evaluate(e, sweep.targets, values, n), sums, strict=True):
                total.add(target, limit)
            self.put(sweep, values, at, place, n, limit)

        self.positions(self.n_rows, pointers, 0, step)
        for node, total in zip(sweep.reduces, sums, strict=True):
            scalars[node.outputs[0]] = total.result()

    def positions(
        self, axis: int, pointers: Sequence[Val], place: int | Val, step: Callable
    ) -> None:
        """Call `step(pointers, place in the row, lanes, limit)` for the vectors of the row."""
        e, dims, accesses = self.e, self.space.dims, self.space.accesses
        if axis < len(dims) - 1:
            inner = math.prod(dims[axis + 1 :])
            with e.loop(0, dims[axis]) as i:
                at = advance(e, pointers, accesses, axis, i)
                start = e.b.add(e.i64(place), e.b.mul(i, e.i64(inner)))
                self.positions(axis + 1, at, start, step)
            return

        def vector(position: Index, n: int, limit: Limit) -> None:
            both = isinstance(position, int) and isinstance(place, int)
            there = place + position if both else e.b.add(e.i64(place), e.i64(position))
            step(advance(e, pointers, accesses, -1, position), there, n, limit)

        if self.static_blocks:
            for block in self.static_blocks:
                vector(*block)
        else:
            vector_loop(e, dims[-1], self.n, self.masks, vector)

    def fetch(
        self, v: Value, sweep: Pass, at: Sequence[Val], place: Index, n: int, limit: Limit
    ) -> Val:
        """A full value from its operand, or from where an earlier pass kept it."""
        e = self.e
        if v in sweep.reloads:
            dtype = _scratch_dtype(v)
            return load(e, address(e, self.scratch[v], dtype, (1,), (place,)), dtype, n, 1, limit)
        i = self.position_of[v]
        access = self.space.accesses[i]
        return load(e, at[i], access.dtype, n, access.inner, limit)

    def put(
        self,
        sweep: Pass,
        values: dict[Value, Val],
        at: Sequence[Val],
        place: Index,
        n: int,
        limit: Limit,
    ) -> None:
        """Store the pass's outputs, and what later passes want kept."""
        e, n_inputs = self.e, len(self.body.inputs)
        outputs = [self.body.outputs[i] for i in sweep.outputs]
        for i, value in zip(sweep.outputs, evaluate(e, outputs, values, n), strict=True):
            access = self.space.accesses[n_inputs + i]
            store(e, value, at[n_inputs + i], access.dtype, access.inner, limit)
        for v in () if self.static_blocks else sweep.keeps:
            dtype = _scratch_dtype(v)
            where = address(e, self.scratch[v], dtype, (1,), (place,))
            store(e, evaluate(e, [v], values, n)[0], where, dtype, 1, limit)


def _accumulator(e: Emitter, reduce: Node, n: int) -> Accumulator:
    return Accumulator(e, reduce.attrs["kind"], reduce.inputs[0].tensor.dtype, n)


def _in_registers(isa: Isa, space: Space, n_rows: int) -> bool:
    """Is a row one dimension that half the registers hold?"""
    length = space.dims[-1]
    fits = len(space.dims) == n_rows + 1 and 0 < length <= isa.registers // 2 * isa.lanes
    return fits and (maskable(space.accesses) or length % isa.lanes == 0)


def _scratch_dtype(value: Value) -> DType:
    """Small floats are kept unrounded."""
    dtype = value.tensor.dtype
    return types.f32 if is_small_float(dtype) else dtype
