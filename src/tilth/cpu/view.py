"""Strided views of memory, and movement ops as arithmetic on them.

Reshape, transpose, slice, reverse and broadcast rarely need code: their result is the operand's
memory seen through other strides. `through` gives that view; `behind` answers the opposite
question, where an operand must lie so that the result lands in a given place. A view inside a loop
may move with the loop's counter: slices of a sequence, or the two halves of a state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tilth.cpu.kernel import Operand, Packed, row_major
from tilth.ir.graph import Node
from tilth.ir.types import DType, Shape, TensorType


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A piece of memory. `kind` is arena, weights, input or output; `index` counts the last two.

    Weights are a `constant` as it is, or `packed` for a kernel.
    """

    kind: str
    nbytes: int
    index: int = 0
    constant: np.ndarray | None = None
    packed: Packed | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """The number of finished turns of a loop, as something that views can refer to."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How an address depends on a counter: `nbytes` more per turn, from 0 again every `period`."""

    counter: Counter
    nbytes: int
    period: int | None = None
    phase: int = 0  # turns ahead of the counter


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a buffer: `offset` in bytes to element (0, 0, ...), strides in elements."""

    buffer: Buffer
    dtype: DType
    shape: Shape
    strides: Shape
    offset: int = 0
    motions: tuple[Motion, ...] = ()

    @property
    def operand(self) -> Operand:
        constant = None if self.motions else self.buffer.constant
        if constant is not None:
            start = constant.reshape(-1)[self.offset // self.dtype.nbytes :]
            steps = tuple(s * constant.itemsize for s in self.strides)
            constant = np.lib.stride_tricks.as_strided(start, self.shape, steps, writeable=False)
        return Operand(self.dtype, self.shape, self.strides, constant)

    def same_place(self, other: View) -> bool:
        """Do both name the same elements in the same order?"""
        mine, theirs = ((v.offset, v.motions, _squeezed(v)) for v in (self, other))
        return self.buffer is other.buffer and mine == theirs

    def subview(self, start: Shape, shape: Shape, steps: Shape | None = None) -> View:
        """The box at `start` of this shape, taking every `steps`-th element."""
        skipped = sum(a * s for a, s in zip(start, self.strides, strict=True)) if self.size else 0
        strides = tuple(
            s * t for s, t in zip(self.strides, steps or (1,) * len(shape), strict=True)
        )
        offset = self.offset + skipped * self.dtype.nbytes
        return replace(self, shape=shape, strides=strides, offset=offset)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def slices(self, counter: Counter, reverse: bool = False) -> View:
        """The slice along the first dimension whose number is the counter's, or from the end."""
        if not self.size:
            return replace(self, shape=self.shape[1:], strides=self.strides[1:])
        step = self.strides[0] * self.dtype.nbytes
        first = self.offset + (step * (self.shape[0] - 1) if reverse else 0)
        motions = (*self.motions, Motion(counter, -step if reverse else step))
        shape, strides = self.shape[1:], self.strides[1:]
        return replace(self, shape=shape, strides=strides, offset=first, motions=motions)


def dense_view(buffer: Buffer, type_: TensorType) -> View:
    """The whole buffer as a row-major tensor."""
    return View(buffer, type_.dtype, type_.dims, row_major(type_.dims))


def _squeezed(view: View) -> list[tuple[int, int]]:
    return [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]


def transpose(view: View, permutation: Shape) -> View:
    shape = tuple(view.shape[p] for p in permutation)
    return replace(view, shape=shape, strides=tuple(view.strides[p] for p in permutation))


def reshape(view: View, shape: Shape) -> View | None:
    """The view with another shape, or None when no strides express it.

    Runs of old dimensions that are contiguous with each other are matched with runs of new
    dimensions of the same size, as NumPy does it.
    """
    if math.prod(shape) == 0:
        return replace(view, shape=shape, strides=row_major(shape))
    old = _squeezed(view)
    strides: list[int] = []
    position = 0
    pending, step = 1, 1  # elements left in the current run of old dimensions, its stride
    for dim in reversed(shape):
        if dim == 1:
            strides.append(strides[-1] if strides else 1)
            continue
        if pending == 1:
            if position == len(old):
                return None
            size, step = old[len(old) - 1 - position]
            position, pending = position + 1, size
        while pending % dim:
            if position == len(old):
                return None
            size, outer = old[len(old) - 1 - position]
            run = old[len(old) - position]
            if outer != run[0] * run[1]:
                return None
            position, pending = position + 1, pending * size
        strides.append(step)
        step, pending = step * dim, pending // dim
    return replace(view, shape=shape, strides=tuple(reversed(strides)))


def through(node: Node, view: View) -> View | None:
    """Where the result of a movement op lies, given where its operand lies; None if nowhere."""
    attrs = node.attrs
    match node.op:
        case "reshape":
            return reshape(view, attrs["shape"])
        case "transpose":
            return transpose(view, attrs["permutation"])
        case "slice":
            return view.subview(attrs["start"], node.types[0].dims, attrs["strides"])  # type: ignore[union-attr]
        case "reverse":
            axes = attrs["axes"]
            last = tuple(d - 1 if i in axes else 0 for i, d in enumerate(view.shape))
            steps = tuple(-1 if i in axes else 1 for i in range(len(view.shape)))
            return view.subview(last, view.shape, steps)
        case "broadcast_in_dim":
            strides = [0] * len(attrs["shape"])
            for axis, dim, stride in zip(attrs["dims"], view.shape, view.strides, strict=True):
                strides[axis] = stride if dim == attrs["shape"][axis] else 0
            return replace(view, shape=attrs["shape"], strides=tuple(strides))
    return None


def behind(node: Node, view: View) -> View | None:
    """Where the operand of a movement op must lie for the result to lie in `view`."""
    operand = node.inputs[0].tensor
    if node.op == "reshape":
        return reshape(view, operand.dims)
    if node.op == "transpose":
        return transpose(view, tuple(int(i) for i in np.argsort(node.attrs["permutation"])))
    return None
