"""What a program does, in order: kernel calls, and control flow around them.

A list of items is a piece of straight-line code. Branches and loops hold such lists; all threads
take the same way through them, because all read the same predicate behind a barrier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tilth.cpu.kernel import Kernel
from tilth.cpu.view import Counter, View
from tilth.ir.graph import Node


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One kernel call of the program; all threads take part."""

    kernel: Kernel
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    node: Node

    @property
    def may_alias(self) -> range:
        """Positions of the operands whose memory the result may take over (read, then written)."""
        kind = self.node.attrs["kind"] if self.node.op == "fusion" else ""
        first = {"elementwise": 0, "contraction": 2}.get(kind, len(self.reads))
        return range(first, len(self.reads))


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One of two pieces of code, by a bool in memory."""

    predicate: View
    then: Sequence[Item]
    otherwise: Sequence[Item]
    node: Node


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A piece of code repeated: `trips` times, or as long as `predicate` holds.

    `condition` computes the predicate before each turn. `counter` is what views inside move with;
    afterwards it stands at the number of turns made.
    """

    counter: Counter
    body: Sequence[Item]
    node: Node
    trips: int | None = None
    condition: Sequence[Item] = ()
    predicate: View | None = None


Item = Step | Branch | Loop


def all_steps(items: Iterable[Item]) -> Iterator[Step]:
    """The kernel calls in the order of the code, those inside control flow once."""
    for item in items:
        match item:
            case Step():
                yield item
            case Branch():
                yield from all_steps((*item.then, *item.otherwise))
            case Loop():
                yield from all_steps((*item.condition, *item.body))


@dataclass(frozen=True, slots=True)
class Timeline:
    """When memory is touched: moments in the order of the code, and which of them are repeated.

    A moment is a kernel call, or a predicate being read. A predicate counts as read once more
    where its branch or turn ends: until then, some thread may be late to look at it.
    """

    moments: list[Step | View] = field(default_factory=list)
    repeated: list[tuple[int, int]] = field(
        default_factory=list
    )  # first and last, inner ones first

    def add(self, items: Iterable[Item]) -> Timeline:
        for item in items:
            start = len(self.moments)
            match item:
                case Step():
                    self.moments.append(item)
                case Branch():
                    self.moments.append(item.predicate)
                    self.add((*item.then, *item.otherwise))
                    self.moments.append(item.predicate)
                case Loop():
                    self.add(item.condition)
                    asked = [] if item.predicate is None else [item.predicate]
                    self.moments.extend(asked)
                    self.add(item.body)
                    self.moments.extend(asked)
                    self.repeated.append((start, len(self.moments) - 1))
        return self


def touched(moment: Step | View) -> tuple[View, ...]:
    return (*moment.reads, *moment.writes) if isinstance(moment, Step) else (moment,)


def work(item: Item) -> tuple[int, int]:
    """Operations and bytes touched: of the longer branch, and of all turns if these are known."""
    match item:
        case Step():
            return item.kernel.flops, item.kernel.bytes
        case Branch():
            return max(_total(item.then), _total(item.otherwise))
        case Loop():
            turns = 1 if item.trips is None else item.trips
            flops, nbytes = _total((*item.condition, *item.body))
            return turns * flops, turns * nbytes


def _total(items: Iterable[Item]) -> tuple[int, int]:
    each = [work(item) for item in items]
    return sum(flops for flops, _ in each), sum(nbytes for _, nbytes in each)
