"""Planning control flow: branches and loops as code around the code of their sub-graphs.

Captures and invariant states are read where they lie. A state that changes has two halves of a
buffer, and each turn reads one and writes the other; slices of sequences are views that move with
the loop, so that nothing is copied per turn which a kernel can write in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilth.cpu.steps import Branch, Loop
from tilth.cpu.view import Buffer, Counter, Motion, View, dense_view
from tilth.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from tilth.cpu.plan import Planner

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _State:
    """What a loop carries: where a turn finds it, where it leaves it, and where it ends up."""

    now: View
    next: View

    def after(self, turns: int) -> View:
        """Where the state is after a known number of turns."""
        if self.now is self.next:
            return self.now
        first = replace(self.now, motions=())
        half = first.buffer.nbytes // 2
        return replace(first, offset=half) if turns % 2 else first


def _plan_if(planner: Planner, node: Node) -> None:
    predicate, *captures = (planner.views[v] for v in node.inputs)
    homes = [planner.home(v) for v in node.outputs]
    then, otherwise = (
        planner.inner(node.attrs[side], captures, homes) for side in ("then", "else")
    )
    planner.items.append(Branch(predicate, then, otherwise, node))
    planner.views.update(zip(node.outputs, homes, strict=True))


def _plan_while(planner: Planner, node: Node) -> None:
    counter, cond, body = Counter(), node.attrs["cond"], node.attrs["body"]
    states = _states(planner, node, body, counter)
    now, following = [s.now for s in states], [s.next for s in states]
    predicate = planner.fresh(cond.outputs[0])
    condition = planner.inner(cond, now, [predicate])
    turn = planner.inner(body, now, following)
    planner.items.append(Loop(counter, turn, node, condition=condition, predicate=predicate))
    for value, state in zip(node.outputs, states, strict=True):
        _finish(planner, node, value, state.now)


def _plan_scan(planner: Planner, node: Node) -> None:
    counter, body, carries = Counter(), node.attrs["body"], node.attrs["carries"]
    reverse, trips = node.attrs["reverse"], node.inputs[carries].shape[0]
    states = _states(planner, node, body, counter)
    sequences = [planner.views[v].slices(counter, reverse) for v in node.inputs[carries:]]
    stacks = [planner.home(v) for v in node.outputs[carries:]]
    turn = planner.inner(
        body,
        [*(s.now for s in states), *sequences],
        [*(s.next for s in states), *(stack.slices(counter, reverse) for stack in stacks)],
    )
    planner.items.append(Loop(counter, turn, node, trips=trips))
    for value, state in zip(node.outputs, states, strict=False):
        _finish(planner, node, value, state.after(trips))
    planner.views.update(zip(node.outputs[carries:], stacks, strict=True))


PLANNERS: dict[str, Callable[[Planner, Node], None]] = {
    "if": _plan_if,
    "while": _plan_while,
    "scan": _plan_scan,
}


def _states(planner: Planner, node: Node, body: Graph, counter: Counter) -> list[_State]:
    """The carried values, the first of the node's operands, in place for the first turn."""
    count = node.attrs.get("carries", len(node.inputs))
    carried: Sequence[tuple[Value, Value, Value]] = list(
        zip(node.inputs[:count], body.inputs, body.outputs, strict=False)
    )
    states = []
    for start, before, after in carried:
        source = planner.views[start]
        if before == after:
            states.append(_State(source, source))
            continue
        size = -(-start.tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        first = dense_view(Buffer("arena", 2 * size), start.tensor)
        planner.copy(source, first, node)
        now, following = (
            replace(first, motions=(Motion(counter, size, period=2, phase=phase),))
            for phase in (0, 1)
        )
        states.append(_State(now, following))
    return states


def _finish(planner: Planner, node: Node, value: Value, state: View) -> None:
    """A loop's result is its last state, or a copy of that where a consumer wants it."""
    home = planner.homes.get(value)
    if home is not None:
        planner.copy(state, home, node)
    planner.views[value] = home or state
