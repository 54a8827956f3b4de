"""If, Loop and Scan whose results cannot have static types: branches of different shapes, loops
of unknown length that stack results, sequences and optionals that pass through. The bodies are
programs of stages themselves, so that what can be compiled of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilth.ir.limits import counted_turns
from tilth.onnx.host.registry import HostContext, host_op
from tilth.onnx.tensors import element_type

_WHY = "the types of its results depend on data"


@host_op("If", why=_WHY, folds=False)
def if_(cx: HostContext, condition: np.ndarray) -> tuple[Any, ...]:
    return tuple(cx.run_body("then_branch" if condition.any() else "else_branch", []))


@host_op("Loop", why=_WHY, folds=False)
def loop(
    cx: HostContext, trips: np.ndarray | None, condition: np.ndarray | None, *carried: Any
) -> tuple[Any, ...]:
    limit = None if trips is None else int(trips.reshape(()))
    going = condition is None or bool(condition.any())
    state, rows = list(carried), []
    for step in counted_turns():
        if not going or (limit is not None and step >= limit):
            break
        start = [np.array(step, np.int64), np.array(True)]
        condition, *results = cx.run_body("body", [*start, *state])
        going = bool(condition.any())
        state = results[: len(carried)]
        rows.append(results[len(carried) :])
    return *state, *_stacked(rows, cx.attr("body").output[1 + len(carried) :])


def _stacked(rows: Sequence[Sequence[Any]], declared: Sequence[Any]) -> list[np.ndarray]:
    """What each iteration gives besides its state, along a new first axis."""
    if rows:
        return [np.stack(column) for column in zip(*rows, strict=True)]
    return [_no_rows(info.type.tensor_type) for info in declared]


def _no_rows(tensor: Any) -> np.ndarray:
    """An empty stack of the declared type; open dimensions are 0."""
    dims = [max(0, d.dim_value) for d in tensor.shape.dim]
    return np.zeros((0, *dims), element_type(tensor.elem_type, "a loop's result").numpy)


@host_op("Scan", why=_WHY, folds=False)
def scan(cx: HostContext, *operands: Any) -> tuple[Any, ...]:
    if cx.version < 9:
        return _scan_batch(cx, *operands)
    count = cx.attr("num_scan_inputs")
    state, sequences = list(operands[: len(operands) - count]), operands[len(operands) - count :]
    axes = cx.attr("scan_input_axes", (0,) * count)
    backs = cx.attr("scan_input_directions", (0,) * count)
    moved = [_along(x, a, b) for x, a, b in zip(sequences, axes, backs, strict=True)]
    after, stacks = _scan(cx, state, moved)
    return *after, *_placed(cx, stacks)


def _scan_batch(cx: HostContext, lengths: np.ndarray | None, *operands: Any) -> tuple[Any, ...]:
    """Opset 8 scans each element of a leading batch dimension on its own.

    `lengths` says how long each one is; what lies behind is not read, and zero in the results.
    """
    count = cx.attr("num_scan_inputs")
    backs = cx.attr("directions", (0,) * count)
    longest = operands[-1].shape[1]
    batches = []
    for b in range(len(operands[-1])):
        own = [x[b, ...] for x in operands]  # arrays, even where they are scalars
        length = longest if lengths is None else int(lengths[b])
        ends = zip(own[len(own) - count :], backs, strict=True)
        moved = [_along(x[:length], 0, back) for x, back in ends]
        after, stacks = _scan(cx, own[: len(own) - count], moved)
        batches.append([*after, *(_lengthened(y, longest) for y in stacks)])
    return tuple(np.stack(column) for column in zip(*batches, strict=True))


def _lengthened(stack: np.ndarray, length: int) -> np.ndarray:
    """The rows of a stack, and zeros up to a length."""
    return np.pad(stack, [(0, length - len(stack)), *((0, 0) for _ in stack.shape[1:])])


def _scan(
    cx: HostContext, state: list[Any], sequences: Sequence[np.ndarray]
) -> tuple[list[Any], list[np.ndarray]]:
    """The last state, and the stacked results of running the body on slices along axis 0."""
    carried, rows = len(state), []
    for i in range(len(sequences[0])):
        results = cx.run_body("body", [*state, *(s[i, ...] for s in sequences)])
        state = results[:carried]
        rows.append(results[carried:])
    return state, _stacked(rows, cx.attr("body").output[carried:])


def _along(x: np.ndarray, axis: int, back: int) -> np.ndarray:
    """The axis first, and backwards if wanted."""
    moved = np.moveaxis(x, axis, 0)
    return moved[::-1] if back else moved


def _placed(cx: HostContext, stacks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The stacks in the wanted direction, along the wanted axes."""
    axes = cx.attr("scan_output_axes", (0,) * len(stacks))
    backs = cx.attr("scan_output_directions", (0,) * len(stacks))
    return [
        np.moveaxis(y[::-1] if back else y, 0, axis)
        for y, axis, back in zip(stacks, axes, backs, strict=True)
    ]
