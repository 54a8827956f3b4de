"""Tree ensembles as tables, and their evaluation by gathers.

All trees lie in one table of nodes. A sample stands at one node of every tree at once; a step
gathers that node's feature and threshold, compares, and gathers the child. Leaves are their own
children and compare a feature that is always 0, so every tree takes as many steps as the deepest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tilth.ir.errors import ModelError
from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape, broadcast_to, take
from tilth.ir.ops.table import op
from tilth.ir.types import i32, i64
from tilth.onnx.build import iota, pad_axes, scalar

# The comparison of a branch, and a threshold with which 0 takes its true side.
MODES = {
    "BRANCH_LEQ": ("LE", 0),
    "BRANCH_LT": ("LT", 1),
    "BRANCH_GTE": ("GE", 0),
    "BRANCH_GT": ("GT", -1),
    "BRANCH_EQ": ("EQ", 0),
    "BRANCH_NEQ": ("NE", 1),
}
# Each level of the deepest tree is some ten operations.
_MAX_DEPTH = 1000


@dataclass(frozen=True)
class Forest:
    """Nodes of all trees: branches with children by position, and leaves.

    `modes` names a row of MODES, "" for a leaf. `children` is [nodes, 2]: the true, then the
    false side; a leaf's are its own position. `missing` says which branches send NaN to the true
    side. `leaves` is the weight of each node for each target [nodes, targets], and `voting` which
    of these the file gives.
    """

    features: np.ndarray
    thresholds: np.ndarray
    modes: Sequence[str]
    children: np.ndarray
    missing: np.ndarray
    roots: np.ndarray
    leaves: np.ndarray
    voting: np.ndarray

    @cached_property
    def depth(self) -> int:
        """Steps from the roots to the lowest leaf. ModelError when a node is its own descendant."""
        level, depth = np.unique(self.roots), 0
        is_branch = np.array([bool(m) for m in self.modes])
        while (level := level[is_branch[level]]).size:
            depth += 1
            if depth > len(self.modes):
                raise ModelError("a branch of a tree leads back to itself")
            level = np.unique(self.children[level])
        if depth > _MAX_DEPTH:
            raise ModelError(f"a tree is {depth} levels deep; the limit is {_MAX_DEPTH}")
        return depth

    def check(self, features: int) -> None:
        """Raise ModelError where a position is outside its table."""
        used = self.features[np.array([bool(m) for m in self.modes])]
        nodes = len(self.modes)
        for what, places, count in (
            ("feature", used, features),
            ("child", self.children, nodes),
            ("root", self.roots, nodes),
        ):
            outside = places[(places < 0) | (places >= count)]
            if outside.size:
                raise ModelError(f"{what} {outside[0]} of a tree is not one of {count}")


def leaf_weights(forest: Forest, x: Value, absent: float) -> Value:
    """What each tree says to each sample: x [N, F] -> [N, trees, targets].

    `absent` stands where a leaf has no weight for a target.
    """
    rows, features = x.shape
    forest.check(features)
    table = np.where(forest.voting, forest.leaves, absent).astype(forest.leaves.dtype)
    nodes = _reached(forest, pad_axes(x, ((0, 0), (0, 1))), rows, features)
    return take(make_constant(table), nodes, 0)


def _reached(forest: Forest, x: Value, rows: int, features: int) -> Value:
    """The leaf that each sample ends at in each tree: i32[N, trees]. Column F of x is 0."""
    branch = np.array([bool(m) for m in forest.modes])
    resting = MODES[_kinds(forest)[0]][1] if branch.any() else 0
    column = make_constant(np.where(branch, forest.features, features).astype(np.int32))
    threshold = make_constant(
        np.where(branch, forest.thresholds, resting).astype(x.tensor.dtype.numpy)
    )
    child = make_constant(forest.children.reshape(-1).astype(np.int32))
    flat = as_shape(x, (x.tensor.size,))
    shape = (rows, len(forest.roots))
    index = i32 if x.tensor.size < 2**31 else i64
    first = op.multiply(iota((rows, 1), 0, index), scalar(features + 1, index))
    nodes = broadcast_to(make_constant(forest.roots.astype(np.int32)), shape)
    for _ in range(forest.depth):
        value = take(flat, op.add(first, as_dtype(take(column, nodes, 0), index)), 0)
        goes_false = op.not_(_holds(forest, value, take(threshold, nodes, 0), nodes))
        place = op.add(op.multiply(nodes, scalar(2, i32)), as_dtype(goes_false, i32))
        nodes = take(child, place, 0)
    return nodes


def _kinds(forest: Forest) -> list[str]:
    """The comparisons that occur in the forest."""
    return [m for m in MODES if m in set(forest.modes)]


def _holds(forest: Forest, value: Value, threshold: Value, nodes: Value) -> Value:
    """Whether the condition of each node holds; leaves count as nodes of the first kind."""
    first, *others = _kinds(forest)
    result = op.compare(value, threshold, direction=MODES[first][0])
    if others:
        codes = np.array([others.index(m) + 1 if m in others else 0 for m in forest.modes])
        code = take(make_constant(codes.astype(np.int32)), nodes, 0)
        for i, mode in enumerate(others):
            here = op.compare(code, scalar(i + 1, i32), direction="EQ")
            other = op.compare(value, threshold, direction=MODES[mode][0])
            result = op.select(here, other, result)
    if forest.missing.any():
        tracks = take(make_constant(forest.missing), nodes, 0)
        result = op.or_(result, op.and_(op.is_nan(value), tracks))
    return result
