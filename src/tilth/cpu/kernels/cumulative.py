"""Running reductions along an axis: lines are gone through in order, several at once if possible.

Sums and products of floats run in f64 and are rounded where they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu.access import register_type
from tilth.cpu.emit import I64, Val
from tilth.cpu.expression import combine, constant, convert, identity_of
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels.lines import Limit, lines_of
from tilth.cpu.kernels.space import kernel_emitter, require_dtypes, touched_bytes
from tilth.ir.types import f64


def lower(task: Task) -> Kernel:
    """A kernel for `cumulative`."""
    require_dtypes(task.views)
    [x], attrs = task.operands, task.node.attrs
    kind, axis, exclusive, reverse = (attrs[k] for k in ("kind", "axis", "exclusive", "reverse"))
    length, dtype = x.shape[axis], x.dtype
    lines = lines_of(task.views, axis, length, task.threads)
    wide = f64 if dtype.is_float and kind in ("sum", "product") else dtype

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, 2)
        *_, begin, end, _step = e.args

        def run(at: Sequence[Val], n: int, limit: Limit) -> None:
            start = constant(e, wide, identity_of(kind, wide), n)
            total = e.var(register_type(wide, n), start)
            with e.loop(0, length) as i:
                place = e.b.sub(I64(length - 1), i) if reverse else i
                before = e.b.load(total)
                value = convert(e, lines.read(e, at, 0, place, n, limit), dtype, wide)
                after = combine(e, kind, wide, before, value)
                e.b.store(after, total)
                shown = convert(e, before if exclusive else after, wide, dtype)
                lines.write(e, shown, at, 1, place, limit)

        lines.walk(e, pointers, begin, end, run)
        return e.finish()

    return Kernel(
        name="cumulative",
        key=("cumulative", lines, length, kind, exclusive, reverse),
        emit=emit,
        items=lines.cut.items,
        flops=x.size,
        bytes=touched_bytes(task.views),
        algorithm="lanes are lines" if lines.across else "line by line",
    )
