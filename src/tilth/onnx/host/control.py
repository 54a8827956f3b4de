"""If, Loop and Scan whose results cannot have static types: branches of different shapes, loops
of unknown length that stack results, sequences and optionals that pass through. The bodies are
programs of stages themselves, so that what can be compiled of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilth.ir.errors import UnsupportedError
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
        raise UnsupportedError("Scan of opset 8 with a body that depends on data")
    count = cx.attr("num_scan_inputs")
    state, sequences = list(operands[: len(operands) - count]), operands[len(operands) - count :]
    carried = len(state)
    axes = cx.attr("scan_input_axes", (0,) * count)
    backs = cx.attr("scan_input_directions", (0,) * count)
    moved = [_along(x, a, b) for x, a, b in zip(sequences, axes, backs, strict=True)]
    rows = []
    for slices in zip(*moved, strict=True):
        results = cx.run_body("body", [*state, *slices])
        state = results[:carried]
        rows.append(results[carried:])
    return *state, *_placed(cx, _stacked(rows, cx.attr("body").output[carried:]))


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
