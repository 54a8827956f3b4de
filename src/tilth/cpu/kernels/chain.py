"""Depth first: a depthwise convolution and those before and after it, in strips of rows.

A strip of the result is finished before the next one is begun, so what lies between the members
never leaves the cache of its core, and threads wait for each other once instead of three times.
The members are the ordinary kernels with rows as work items. They see intermediates as whole
tensors; only the rows of the strip exist, in scratch, and base pointers are moved so that these
rows lie where the tensor would have them. Rows that two strips of a thread share are kept, those
that two threads share are computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import llvmlite.ir as ll

from tilth.cpu.access import register_type, store
from tilth.cpu.emit import I64, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels import contraction, window
from tilth.cpu.kernels.packing import copy_run
from tilth.cpu.kernels.space import decode, kernel_emitter, touched_bytes, vector_loop
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.types import Shape, f32

_LINE = 64  # bytes
_SHARE_OF_L2 = 0.4  # that the intermediates of a strip may take


@dataclass(frozen=True)
class Chain:
    """The members of a chain: `first` gives what `window` reads, `last` reads what it gives.

    `pad` stands between the first two; without `first`, the window's operand has been padded
    before.
    """

    first: Node | None
    pad: Node | None
    window: Node
    last: Node | None

    @property
    def members(self) -> tuple[Node, ...]:
        return tuple(n for n in (self.first, self.window, self.last) if n is not None)

    @property
    def batch(self) -> int:
        return self.window.outputs[0].shape[0]

    @property
    def height(self) -> int:
        """Rows of the window's result."""
        return self.window.outputs[0].shape[1]

    @cached_property
    def reach(self) -> tuple[int, int]:
        """(stride, span): rows of the padded operand from one row of the result to the next, and
        those that one window covers."""
        (hero,) = (n for n in self.window.attrs["body"].nodes if n.op == "convolution")
        span = (hero.inputs[1].shape[0] - 1) * hero.attrs["rhs_dilation"][0] + 1
        return hero.attrs["strides"][0], span

    def rows_before(self, rows: int) -> int:
        """Rows of the window's operand that scratch holds for a strip of `rows` rows."""
        stride, span = self.reach
        return 0 if self.first is None else (rows - 1) * stride + span

    def nbytes_before(self, rows: int) -> int:
        return self.rows_before(rows) * pitch(self.window.inputs[0].shape)

    def nbytes(self, rows: int) -> int:
        """Scratch for the intermediates of a strip."""
        after = 0 if self.last is None else rows * pitch(self.window.outputs[0].shape)
        return self.nbytes_before(rows) + after

    def strips(self, isa: Isa, threads: int) -> int:
        """Strips of an image: so many that one stays in L2, and that all threads get as many."""
        strips = 1
        while strips < self.height and self.nbytes(-(-self.height // strips)) > (
            _SHARE_OF_L2 * isa.l2
        ):
            strips += 1
        if self.batch % threads:
            strips = min(self.height, -(-strips // threads) * threads)
        return strips

    @cached_property
    def intermediates(self) -> dict[Value, tuple[Operand, int]]:
        """How members see what lies between them, and how many bytes behind the start of its rows
        in scratch it begins."""
        found: dict[Value, tuple[Operand, int]] = {}
        before, after = self.window.inputs[0], self.window.outputs[0]
        if self.last is not None:
            found[after] = (_part(after.shape, after.shape), 0)
        if self.first is not None:
            found[before] = (_part(before.shape, before.shape), 0)
        if self.first is not None and self.pad is not None:
            inside, (_, top, left, _) = self.first.outputs[0], self.pad.attrs["low"]
            corner = top * pitch(before.shape) + left * before.shape[-1] * f32.nbytes
            found[inside] = (_part(inside.shape, before.shape), corner)
        return found


def pitch(shape: Shape) -> int:
    """Bytes from one row of an intermediate to the next: never dense, so that no kernel takes
    several rows for one."""
    return -(-shape[-2] * shape[-1] * f32.nbytes // _LINE) * _LINE + _LINE


def _part(shape: Shape, whole: Shape) -> Operand:
    """A view of this shape into an intermediate of shape `whole`."""
    row = pitch(whole) // f32.nbytes
    return Operand(f32, shape, (whole[1] * row, row, whole[-1], 1))


def chain_of(body: Graph) -> Chain:
    """The members in the body of a fusion of kind `chain`. Raises CompileError if it is none."""
    windows = [n for n in body.nodes if n.op == "fusion" and n.attrs["kind"] == "window"]
    if len(windows) != 1:
        raise CompileError(f"a chain has one window, not {len(windows)}")
    (middle,) = windows
    before, last = middle.inputs[0].node, body.outputs[0].node
    pad = before if before.op == "pad" else None
    first = pad.inputs[0].node if pad else before
    given = first if first.op == "fusion" else None
    return Chain(given, pad, middle, last if last is not middle else None)


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `chain`.

    Raises CompileError for other dtypes than f32 and for members that cannot be computed row by
    row.
    """
    body, chain = task.body, chain_of(task.body)
    if {view.dtype for view in task.views} != {f32}:
        raise CompileError("chains are computed in f32; leave other fusions as they are")
    seen = dict(zip((*body.inputs, *body.outputs), task.views, strict=True))
    seen |= {value: operand for value, (operand, _) in chain.intermediates.items()}
    kernels, packed = [], {}
    for member in chain.members:
        lower_rows = window.lower_rows if member is chain.window else contraction.lower_rows
        operands, results = (tuple(seen[v] for v in vs) for vs in (member.inputs, member.outputs))
        kernel = lower_rows(Task(member.attrs["body"], operands, results, task.isa, threads=1))
        if kernel.items != math.prod(member.outputs[0].shape[:2]):
            raise CompileError(f"{member!r} cannot be computed row by row, so not in a chain")
        kernels.append(kernel)
        for position, weights in kernel.packed.items():
            packed[body.inputs.index(member.inputs[position])] = weights
    strips = chain.strips(task.isa, task.threads)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        return _Strips(module, isa, name, chain, body, kernels, strips).emit()

    return Kernel(
        name="chain",
        key=("chain", tuple(k.key for k in kernels), strips),
        emit=emit,
        items=chain.batch * strips,
        flops=sum(k.flops for k in kernels),
        bytes=touched_bytes(task.views),
        scratch=chain.nbytes(-(-chain.height // strips)) + max(k.scratch for k in kernels),
        algorithm=f"{strips} strips: " + ", ".join(k.name for k in kernels),
        packed=packed,
    )


class _Strips:
    """Emits the loop over strips. Scratch holds rows of the window's operand, rows of its result,
    and what members need; `pointers` tell where each value would begin."""

    def __init__(
        self,
        module: ll.Module,
        isa: Isa,
        name: str,
        chain: Chain,
        body: Graph,
        kernels: Sequence[Kernel],
        strips: int,
    ):
        self.chain, self.strips = chain, strips
        self.rows = -(-chain.height // strips)
        self.functions: dict[Node, ll.Function] = {}
        for member, kernel in zip(chain.members, kernels, strict=True):
            function = kernel.emit(module, isa, f"{name}.{len(self.functions)}")
            function.attributes.add("noinline")
            self.functions[member] = function
        values = (*body.inputs, body.outputs[0])
        self.e, pointers = kernel_emitter(module, isa, name, len(values))
        self.pointers = dict(zip(values, pointers, strict=True))
        self.before, self.begin, self.end, _ = self.e.args[len(values) :]
        self.after = self.e.offset(self.before, chain.nbytes_before(self.rows))
        self.scratch = self.e.offset(self.before, chain.nbytes(self.rows))

    def emit(self) -> ll.Function:
        e, chain = self.e, self.chain
        if chain.first is not None and chain.pad is not None:
            self._clear_columns(chain.pad)
        with e.loop(self.begin, self.end) as item:
            image, strip = (e.i64(i) for i in decode(e, item, (chain.batch, self.strips)))
            start, stop = self._start(strip), self._start(e.b.add(strip, I64(1)))
            if chain.first is not None:
                from_above = e.b.and_(
                    e.b.icmp_signed("!=", item, self.begin), e.b.icmp_signed("!=", strip, I64(0))
                )
                above = e.b.sub(start, self._start(e.b.sub(strip, I64(1))))
                self._fill(chain.first, image, (start, stop), from_above, above)
            earlier = e.b.mul(image, I64(chain.height))
            rows = e.b.add(earlier, start), e.b.add(earlier, stop)
            if chain.last is not None:
                self._place(chain.window.outputs[0], self.after, rows[0])
            self._call(chain.window, *rows)
            if chain.last is not None:
                self._call(chain.last, *rows)
        return e.finish()

    def _start(self, strip: Val) -> Val:
        """The first row of a strip."""
        return self.e.b.udiv(self.e.b.mul(strip, I64(self.chain.height)), I64(self.strips))

    def _place(self, value: Value, memory: Val, row: Val) -> None:
        """Row `row` of the tensor that `value` is part of begins at `memory`."""
        operand, corner = self.chain.intermediates[value]
        back = self._bytes(row, -operand.strides[1] * f32.nbytes)
        self.pointers[value] = self.e.offset(memory, self.e.b.add(back, I64(corner)))

    def _call(self, member: Node, first: Val, last: Val) -> None:
        """Let a member compute rows [first, last) of all images."""
        pointers = [self.pointers[v] for v in (*member.inputs, member.outputs[0])]
        self.e.b.call(self.functions[member], [*pointers, self.scratch, first, last, I64(0)])

    # -- the window's operand ----------------------------------------------------------------
    def _fill(
        self, first: Node, image: Val, rows: tuple[Val, Val], from_above: Val, above: Val
    ) -> None:
        """The rows under the windows of the result's `rows`, in an image.

        With `from_above`, scratch has those of the strip above, which has `above` rows.
        """
        e, (stride, span) = self.e, self.chain.reach
        padded, inside = self.chain.window.inputs[0], first.outputs[0]
        size, overlap = pitch(padded.shape), max(0, span - stride)
        low = e.b.mul(rows[0], I64(stride))
        high = e.b.add(e.b.mul(e.b.sub(rows[1], I64(1)), I64(stride)), I64(span))
        with e.when(from_above):
            kept = e.offset(self.before, self._bytes(above, stride * size))
            copy_run(e, kept, self.before, f32, overlap * size // f32.nbytes)
        missing = e.b.select(from_above, e.b.add(low, I64(overlap)), low)
        earlier = e.b.mul(image, I64(padded.shape[1]))
        for value in dict.fromkeys((padded, inside)):
            self._place(value, self.before, e.b.add(earlier, low))
        top = self.chain.pad.attrs["low"][1] if self.chain.pad else 0
        begin, end = (self._clamped(row, top, top + inside.shape[1]) for row in (missing, high))
        for edge in ((missing, begin), (end, high)):
            with e.loop(*edge) as row:
                at = e.offset(self.before, self._bytes(e.b.sub(row, low), size))
                self._clear(at, size)
        shift = e.b.sub(e.b.mul(image, I64(inside.shape[1])), I64(top))
        self._call(first, e.b.add(begin, shift), e.b.add(end, shift))

    def _clear_columns(self, pad: Node) -> None:
        """Zeros left and right in all rows; nothing else is ever written there."""
        padded, inside = self.chain.window.inputs[0].shape, pad.inputs[0].shape
        pixel, size = padded[-1] * f32.nbytes, pitch(padded)
        left = pad.attrs["low"][2] * pixel
        right = left + inside[2] * pixel
        with self.e.loop(0, self.chain.rows_before(self.rows)) as row:
            at = self.e.offset(self.before, self._bytes(row, size))
            self._clear(at, left)
            self._clear(self.e.offset(at, right), size - right)

    def _clear(self, pointer: Val, nbytes: int) -> None:
        e = self.e

        def zero(position: int | Val, n: int, limit: int | Val | None) -> None:
            at = e.offset(pointer, self._bytes(e.i64(position), f32.nbytes))
            store(e, e.const(register_type(f32, n), 0), at, f32, 1, limit)

        vector_loop(e, nbytes // f32.nbytes, e.isa.lanes, True, zero)

    def _clamped(self, row: Val, low: int, high: int) -> Val:
        return self.e.intrinsic("smax", self.e.intrinsic("smin", row, I64(high)), I64(low))

    def _bytes(self, count: Val, each: int) -> Val:
        return self.e.b.mul(count, I64(each))
