"""What a kernel family is given, a `Task`, and what it gives the code generator: a `Kernel`.

All kernels share one calling convention::

    void kernel(ptr operand0, ..., ptr result0, ..., ptr scratch, i64 begin, i64 end, i64 step)

computes the work items [begin, end) of `items`. Operands and results are strided views, described
at compile time by `Operand`; the pointers point at element (0, 0, ...) of the view. Two kernels
with equal `key` are one function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.isa import Isa
from tilth.ir.graph import Graph, Node
from tilth.ir.types import DType, Shape, TensorType

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operand:
    """A strided view of memory: strides count elements; `constant` is the array when known."""

    dtype: DType
    shape: Shape
    strides: Shape
    constant: np.ndarray | None = field(default=None, compare=False)

    @property
    def is_contiguous(self) -> bool:
        return self.strides == row_major(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def layout(self) -> tuple[str, Shape, Shape]:
        """The hashable part, for kernel keys."""
        return (self.dtype.name, self.shape, self.strides)


def row_major(shape: Shape) -> Shape:
    """Strides, in elements, of a dense row-major tensor."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def dense(type_: TensorType, constant: np.ndarray | None = None) -> Operand:
    """A contiguous operand of this type."""
    return Operand(type_.dtype, type_.dims, row_major(type_.dims), constant)


@dataclass(frozen=True, eq=False)
class Task:
    """Something to be lowered: a computation, where its operands and results lie, the machine.

    `body` is that of a fusion, or the graph of a single node. The work items should be enough for
    `threads`. `exact`: contractions in the one way that rounds least.
    """

    body: Graph
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    isa: Isa
    threads: int
    exact: bool = False
    _derived: dict[Callable[[Task], Any], Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def node(self) -> Node:
        """The single node."""
        return self.body.outputs[0].node

    @property
    def views(self) -> tuple[Operand, ...]:
        """What the kernel's pointers point at."""
        return (*self.operands, *self.results)

    @property
    def layouts(self) -> Hashable:
        """Of all views, for kernel keys."""
        return tuple(view.layout for view in self.views)

    def is_constant(self, operand: int) -> bool:
        """Are the values of the operand at this position known?"""
        return self.operands[operand].constant is not None


def once(derive: Callable[[Task], T]) -> Callable[[Task], T]:
    """What `derive` finds in a task, found at the first call: algorithms ask the same questions."""

    @wraps(derive)
    def derived(task: Task) -> T:
        known = task._derived
        if derive not in known:
            known[derive] = derive(task)
        result: T = known[derive]
        return result

    return derived


@dataclass(frozen=True, slots=True)
class Packed:
    """A constant laid out for a kernel: `fill` writes all `nbytes` of it to where they will lie.

    That is in the block of all weights, so that no second copy of a model's weights ever exists.
    The place is an array of bytes whose address is a multiple of 64. `source` is the constant it is
    made from, `layout` says how: nodes that lay out one constant in one way share the result.
    """

    nbytes: int
    source: np.ndarray = field(repr=False)
    fill: Callable[[np.ndarray], None]
    layout: Hashable

    def make(self) -> np.ndarray:
        """The bytes by themselves."""
        place = np.empty(self.nbytes, np.uint8)
        self.fill(place)
        return place

    @property
    def key(self) -> Hashable:
        """The same for two that hold the same bytes."""
        source = self.source
        return source.ctypes.data, source.dtype, source.shape, source.strides, self.layout


@dataclass(frozen=True, slots=True)
class Kernel:
    """A piece of native code and what the program around it must know.

    `emit(module, isa, name)` defines the function `name` in `module`. `items` is the number of
    independent work items (split evenly over threads), each about as long as the others. `steps`
    > 1 asks to be called once per step, in order, with a barrier between. `scratch` is bytes of
    thread-private memory. `packed` replaces constant operands, by position, with arrays laid out
    for the kernel (row-major, read-only, 64-byte aligned at run time). `flops` and `bytes` are of
    the whole kernel, all steps.
    """

    name: str
    key: Hashable
    emit: Callable[[ll.Module, Isa, str], ll.Function]
    items: int
    flops: int = 0
    bytes: int = 0
    steps: int = 1
    scratch: int = 0
    algorithm: str = ""
    packed: Mapping[int, Packed] = field(default_factory=dict)


Lower = Callable[[Task], Kernel]
