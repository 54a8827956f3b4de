"""The fusion primitive: a small graph that a target computes in one kernel.

The compiler's fusion pass makes these last; which bodies a kind allows is the pass's contract with
the kernels. Its meaning is its body's.
"""

from __future__ import annotations

from tilth.ir.graph import Graph, Value, inline
from tilth.ir.ops.checks import check_choice
from tilth.ir.ops.control import check_signature, run
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import decompose, infer, primitive, reference
from tilth.ir.types import Type

FUSION_KINDS = ("elementwise", "row", "reduce", "contraction", "window", "chain", "attention")

primitive("fusion", "a body computed in one kernel", "fusion")


@infer("fusion")
def _(*xs: Type, kind: str, body: Graph) -> tuple[Type, ...]:
    check_choice("kind", kind, FUSION_KINDS)
    return check_signature("body", body, xs)


@reference("fusion")
def _(*xs: Array, kind: str, body: Graph) -> tuple[Array, ...]:
    return run(body, xs)


@decompose("fusion")
def _(*xs: Value, kind: str, body: Graph) -> tuple[Value, ...]:
    return inline(body, xs)
