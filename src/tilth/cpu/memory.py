"""Where buffers lie: weights one after the other, the arena by liveness, and which steps conflict.

Two arena buffers may share bytes when their lives (first moment that touches them to the last) do
not overlap; what lives inside and outside of a loop lives during all of it. Placement is greedy,
largest first, each at the lowest address free over its life (Pisarchyk & Lee, "Efficient Memory
Management for Deep Neural Net Inference", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilth.cpu.steps import Item, Step, Timeline, touched
from tilth.cpu.view import Buffer, View
from tilth.runtime.mapped import release
from tilth.runtime.memory import aligned, aligned_bytes


@dataclass(slots=True)
class _Life:
    first: int
    last: int

    def cover(self, repeated: Sequence[tuple[int, int]]) -> None:
        """Lengthen to all of a loop that it lies in with one end only; inner loops come first."""
        for start, stop in repeated:
            if self.first < start <= self.last or self.first <= stop < self.last:
                self.first, self.last = min(self.first, start), max(self.last, stop)


@dataclass(frozen=True, slots=True)
class Memory:
    """Byte offsets of weights and arena buffers, and the sizes of both."""

    offsets: Mapping[Buffer, int]
    arena_bytes: int
    weights: Sequence[Buffer] = field(repr=False)
    weight_bytes: int = 0

    def pack_weights(self, allocate: Callable[[int], np.ndarray] = aligned_bytes) -> np.ndarray:
        """All constants in one 64-byte-aligned block of bytes, laid out for their kernels."""
        block = allocate(self.weight_bytes)
        for buffer in self.weights:
            start = self.offsets[buffer]
            _lay_out(buffer, block[start : start + buffer.nbytes])
        return block


def _lay_out(buffer: Buffer, place: np.ndarray) -> None:
    """Write a constant to its place, as its kernel wants it."""
    if buffer.packed is not None:
        buffer.packed.fill(place)
        release(buffer.packed.source)
        return
    constant = buffer.constant
    assert constant is not None and constant.nbytes == buffer.nbytes
    place[...] = np.ascontiguousarray(constant).reshape(-1).view(np.uint8)
    release(constant)


def assign(items: Sequence[Item]) -> Memory:
    """Give every buffer of a program a place."""
    timeline = Timeline().add(items)
    lives: dict[Buffer, _Life] = {}
    weights: dict[Hashable, Buffer] = {}
    same: dict[Buffer, Buffer] = {}
    for i, moment in enumerate(timeline.moments):
        for view in touched(moment):
            buffer = view.buffer
            if buffer.kind == "arena":
                life = lives.setdefault(buffer, _Life(i, i))
                life.last = i
            elif buffer.kind == "weights":
                packed = buffer.packed
                key = id(buffer.constant) if packed is None else packed.key
                same[buffer] = weights.setdefault(key, buffer)
    for life in lives.values():
        life.cover(timeline.repeated)
    offsets: dict[Buffer, int] = {}
    weight_bytes = 0
    for buffer in weights.values():
        offsets[buffer] = weight_bytes
        weight_bytes += aligned(buffer.nbytes)
    same.update(_share_in_place(timeline.moments, lives))
    arena = _place_arena(lives, offsets)
    for buffer in same:
        offsets[buffer] = offsets[_root(same, buffer)]
    return Memory(offsets, arena, tuple(weights.values()), weight_bytes)


def _root(same: Mapping[Buffer, Buffer], buffer: Buffer) -> Buffer:
    while same.get(buffer, buffer) is not buffer:
        buffer = same[buffer]
    return buffer


def _share_in_place(
    moments: Sequence[Step | View], lives: dict[Buffer, _Life]
) -> dict[Buffer, Buffer]:
    """Let a result take over the memory of an operand that dies in the same step.

    Kernels promise to read an element of such an operand before they write the result's (see
    `Step.may_alias`). Lives are merged; gives result buffer -> operand buffer.
    """
    same: dict[Buffer, Buffer] = {}
    for i, step in enumerate(moments):
        if not isinstance(step, Step):
            continue
        result = step.writes[0]
        own = lives.get(result.buffer)  # None: merged already, in the other branch
        if len(step.writes) != 1 or not _is_whole(result) or own is None or own.first != i:
            continue
        for position in step.may_alias:
            operand = step.reads[position]
            root = _root(same, operand.buffer)
            twice = sum(_root(same, v.buffer) is root for v in step.reads) > 1
            if twice or not _is_whole(operand) or lives[root].last != i:
                continue
            if (operand.dtype, operand.shape) == (result.dtype, result.shape):
                same[result.buffer] = root
                lives[root].last = lives.pop(result.buffer).last
                break
    return same


def _is_whole(view: View) -> bool:
    """Is the view all of an arena buffer, row-major?"""
    whole = view.operand.is_contiguous and view.size * view.dtype.nbytes == view.buffer.nbytes
    return view.buffer.kind == "arena" and whole and not view.motions


def _place_arena(lives: Mapping[Buffer, _Life], offsets: dict[Buffer, int]) -> int:
    placed: list[Buffer] = []
    top = 0
    for buffer in sorted(lives, key=lambda b: (-b.nbytes, lives[b].first)):
        life, start, size = lives[buffer], 0, aligned(buffer.nbytes)
        rivals = (b for b in placed if lives[b].first <= life.last and life.first <= lives[b].last)
        for rival in sorted(rivals, key=offsets.__getitem__):
            if start + size <= offsets[rival]:
                break
            start = max(start, offsets[rival] + aligned(rival.nbytes))
        offsets[buffer] = start
        placed.append(buffer)
        top = max(top, start + size)
    return top


def conflicts(memory: Memory, earlier: Sequence[Step], step: Step) -> bool:
    """Must `step` wait for all threads to finish `earlier`?

    Yes when it reads a buffer that they write, or writes bytes that they touch through another
    buffer. Writes to one buffer never clash: each step owns its own part of it.
    """
    reads = [v.buffer for v in step.reads if v.buffer.kind != "weights"]
    writes = [v.buffer for v in step.writes]
    for other in earlier:
        other_writes = [v.buffer for v in other.writes]
        other_reads = [v.buffer for v in other.reads if v.buffer.kind != "weights"]
        if any(_overlap(memory, r, w) for r in reads for w in other_writes):
            return True
        if any(
            _overlap(memory, w, o) and not (w is o and o in other_writes)
            for w in writes
            for o in (*other_writes, *other_reads)
        ):
            return True
    return False


def _overlap(memory: Memory, a: Buffer, b: Buffer) -> bool:
    if a is b:
        return True
    if a.kind != "arena" or b.kind != "arena":
        return False
    start, other = memory.offsets[a], memory.offsets[b]
    return start < other + b.nbytes and other < start + a.nbytes


def pointer_of(memory: Memory, view: View) -> tuple[str, int, int]:
    """(kind, index, byte offset) of a view's first element, before it moves."""
    base = memory.offsets.get(view.buffer, 0)
    return view.buffer.kind, view.buffer.index, base + view.offset
