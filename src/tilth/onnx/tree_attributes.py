"""Tree ensembles as the file has them, in either of two encodings, made into a `Forest`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tilth.ir.errors import ModelError
from tilth.ir.limits import require_table
from tilth.onnx.context import NodeContext
from tilth.onnx.trees import MODES, Forest

_MEMBER = "BRANCH_MEMBER"


class _Row(NamedTuple):
    """One node: a branch, or a leaf (mode "")."""

    feature: int
    threshold: float
    mode: str
    true: int
    false: int
    missing: bool


def floats(cx: NodeContext, name: str) -> np.ndarray:
    """A float attribute, or the tensor attribute that may stand for it; empty if neither is set."""
    if cx.has(f"{name}_as_tensor"):
        return cx.attr(f"{name}_as_tensor").reshape(-1)
    return np.array(cx.attr(name, ()), np.float32)


def forest_by_names(cx: NodeContext, votes: str, targets: int) -> Forest:
    """TreeEnsembleClassifier and -Regressor: a node is named by (tree, id), leaves are nodes.

    `votes` is what the attributes of the leaves begin with, "class" or "target".
    """
    trees = cx.attr("nodes_treeids")
    names = list(zip(trees, cx.attr("nodes_nodeids"), strict=True))
    place = {name: i for i, name in enumerate(names)}
    if len(place) < len(names):
        raise ModelError("two nodes of a tree have the same id")
    columns = zip(
        cx.attr("nodes_featureids"),
        floats(cx, "nodes_values").tolist(),
        cx.attr("nodes_modes"),
        cx.attr("nodes_truenodeids"),
        cx.attr("nodes_falsenodeids"),
        cx.attr("nodes_missing_value_tracks_true", (0,) * len(names)),
        strict=True,
    )
    rows = []
    for i, (row, tree) in enumerate(zip(map(_Row._make, columns), trees, strict=True)):
        if row.mode == "LEAF":
            rows.append(_leaf(i))
        else:
            true, false = (_find(place, tree, node) for node in (row.true, row.false))
            rows.append(row._replace(true=true, false=false, missing=bool(row.missing)))
    weights = floats(cx, f"{votes}_weights")
    voters = zip(cx.attr(f"{votes}_treeids"), cx.attr(f"{votes}_nodeids"), strict=True)
    leaves = np.array([_find(place, *voter) for voter in voters], np.int64)
    return _forest(rows, _roots(names, rows), leaves, cx.attr(f"{votes}_ids"), weights, targets)


def forest_by_position(cx: NodeContext) -> Forest:
    """TreeEnsemble: branches and leaves in tables of their own; here leaves follow the branches.

    A branch on membership becomes a chain of branches on equality, whose further links come last.
    """
    names = [*MODES, _MEMBER]
    modes = [names[m] for m in cx.attr("nodes_modes").reshape(-1).tolist()]
    weights = cx.attr("leaf_weights").reshape(-1)
    sides = [
        np.array(cx.attr(f"nodes_{side}nodeids"), np.int64)
        + np.array(cx.attr(f"nodes_{side}leafs"), np.int64) * len(modes)
        for side in ("true", "false")
    ]
    columns = zip(
        cx.attr("nodes_featureids"),
        cx.attr("nodes_splits").reshape(-1).tolist(),
        modes,
        *(side.tolist() for side in sides),
        map(bool, cx.attr("nodes_missing_value_tracks_true", (0,) * len(modes))),
        strict=True,
    )
    leaves = len(modes) + np.arange(weights.size)
    rows = [*map(_Row._make, columns), *map(_leaf, leaves.tolist())]
    rows = _without_members(rows, _member_sets(cx))
    targets = cx.attr("leaf_targetids")
    return _forest(rows, cx.attr("tree_roots"), leaves, targets, weights, cx.attr("n_targets"))


def _leaf(place: int) -> _Row:
    return _Row(0, 0.0, "", place, place, False)


def _find(place: dict[tuple[int, int], int], tree: int, node: int) -> int:
    if (tree, node) not in place:
        raise ModelError(f"tree {tree} has no node {node}")
    return place[tree, node]


def _roots(names: Sequence[tuple[int, int]], rows: Sequence[_Row]) -> list[int]:
    """The node of each tree that is nobody's child."""
    inner = {child for row in rows if row.mode for child in (row.true, row.false)}
    roots = [i for i in range(len(names)) if i not in inner]
    if [names[r][0] for r in roots] != list(dict.fromkeys(tree for tree, _ in names)):
        raise ModelError("a tree must have exactly one root")
    return roots


def _member_sets(cx: NodeContext) -> list[list[float]]:
    """The values of each membership branch, in order; NaN ends a set."""
    sets: list[list[float]] = [[]]
    for value in cx.attr("membership_values", np.empty(0)).reshape(-1).tolist():
        if value == value:
            sets[-1].append(value)
        else:
            sets.append([])
    return sets


def _without_members(rows: list[_Row], sets: Sequence[list[float]]) -> list[_Row]:
    """Membership as a chain: equal to the first value, else to the second, else ..."""
    result, remaining = list(rows), iter(sets)
    for i, row in enumerate(rows):
        if row.mode != _MEMBER:
            continue
        values = next(remaining, None)
        if values is None:
            raise ModelError(f"only {len(sets)} sets of members for the branches on membership")
        equal = row._replace(mode="BRANCH_EQ")
        chain = [equal._replace(threshold=v) for v in values or [float("nan")]]
        places = [i, *range(len(result), len(result) + len(chain) - 1)]
        chain = [
            link._replace(false=following)
            for link, following in zip(chain, [*places[1:], row.false], strict=True)
        ]
        result[i] = chain[0]
        result += chain[1:]
    return result


def _forest(
    rows: Sequence[_Row],
    roots: Sequence[int],
    leaves: np.ndarray,
    targets: Sequence[int],
    weights: np.ndarray,
    count: int,
) -> Forest:
    """The tables; `leaves` are the positions of the nodes that vote for `targets`."""
    if unknown := {row.mode for row in rows} - {*MODES, ""}:
        raise ValueError(f"node mode '{min(unknown)}' is none of {', '.join(MODES)}, LEAF")
    if len(leaves) and not 0 <= min(targets) <= max(targets) < count:
        raise ModelError(f"a leaf votes for number {max(targets)} of {count}")
    require_table(len(rows), count)
    table = np.zeros((len(rows), count), weights.dtype)
    voting = np.zeros(table.shape, bool)
    if len(leaves) != len(targets) or len(leaves) != len(weights):
        raise ModelError(f"{len(weights)} weights for {len(leaves)} leaves")
    columns = np.array(targets, np.int64)
    np.add.at(table, (leaves, columns), weights)
    voting[leaves, columns] = True
    return Forest(
        features=np.array([row.feature for row in rows], np.int64),
        thresholds=np.array([row.threshold for row in rows]),
        modes=[row.mode for row in rows],
        children=np.array([(row.true, row.false) for row in rows], np.int64),
        missing=np.array([row.missing for row in rows]),
        roots=np.array(roots, np.int64),
        leaves=table,
        voting=voting,
    )
