"""Sequences and optionals at the ends of a model or across its stages: lists, and None."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilth.onnx.build import normal_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import HostContext, host_op

_WHY = "it takes or gives a sequence or an optional"


@host_op("Identity", why=_WHY, folds=False)
def identity(cx: NodeContext, x: Any) -> Any:
    return x


@host_op("Optional", why=_WHY, folds=False)
def optional(cx: NodeContext, x: Any = None) -> Any:
    """An optional that is present is its element, an empty one None."""
    return x


@host_op("OptionalGetElement", why=_WHY, folds=False)
def optional_get_element(cx: NodeContext, x: Any) -> Any:
    if x is None:
        raise ValueError("the optional is empty")
    return x


@host_op("OptionalHasElement", why=_WHY, folds=False)
def optional_has_element(cx: NodeContext, x: Any = None) -> np.ndarray:
    return np.array(x is not None)


@host_op("SequenceEmpty", why=_WHY, folds=False)
def sequence_empty(cx: NodeContext) -> list[Any]:
    return []


@host_op("SequenceConstruct", why=_WHY, folds=False)
def sequence_construct(cx: NodeContext, *items: Any) -> list[Any]:
    return list(items)


@host_op("SequenceInsert", why=_WHY, folds=False)
def sequence_insert(
    cx: NodeContext, items: list[Any], item: Any, position: np.ndarray | None = None
) -> list[Any]:
    place = len(items) if position is None else position.item()
    if not -len(items) <= place <= len(items):
        raise ValueError(f"position {place} in a sequence of {len(items)}")
    longer = list(items)
    longer.insert(place, item)
    return longer


@host_op("SequenceErase", why=_WHY, folds=False)
def sequence_erase(
    cx: NodeContext, items: list[Any], position: np.ndarray | None = None
) -> list[Any]:
    shorter = list(items)
    del shorter[-1 if position is None else position.item()]
    return shorter


@host_op("SequenceAt", why=_WHY, folds=False)
def sequence_at(cx: NodeContext, items: list[Any], position: np.ndarray) -> Any:
    return items[position.item()]


@host_op("SequenceLength", why=_WHY, folds=False)
def sequence_length(cx: NodeContext, items: list[Any]) -> np.ndarray:
    return np.array(len(items), np.int64)


@host_op("ConcatFromSequence", why=_WHY, folds=False)
def concat_from_sequence(cx: NodeContext, items: list[np.ndarray]) -> np.ndarray:
    join = np.stack if cx.attr("new_axis", 0) else np.concatenate
    return join(items, axis=cx.attr("axis"))


@host_op("SplitToSequence", why=_WHY, folds=False)
def split_to_sequence(
    cx: NodeContext, x: np.ndarray, sizes: np.ndarray | None = None
) -> list[np.ndarray]:
    """Parts of given sizes, of one size (the last may be smaller), or of size 1."""
    axis = normal_axis(cx.attr("axis", 0), x.ndim)
    total = x.shape[axis]
    if sizes is not None and sizes.ndim:
        if sizes.sum() != total:
            raise ValueError(f"sizes {sizes.tolist()} do not add up to {total}")
        ends = np.cumsum(sizes)[:-1]
    else:
        step = 1 if sizes is None else sizes.item()
        ends = np.arange(step, total, step)
    parts = np.split(x, ends, axis)
    drop = sizes is None and not cx.attr("keepdims", 1)
    return [np.squeeze(p, axis) if drop else p for p in parts]


@host_op("SequenceMap", why=_WHY, folds=False)
def sequence_map(cx: HostContext, items: list[Any], *more: Any) -> tuple[list[Any], ...]:
    """Run the body on each element; operands that are no sequences are the same for all."""
    results = []
    for i, item in enumerate(items):
        others = [m[i] if isinstance(m, list) else m for m in more]
        results.append(cx.run_body("body", [item, *others]))
    return tuple([r[k] for r in results] for k in range(cx.output_count))
