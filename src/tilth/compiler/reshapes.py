"""What a reshape does to dimensions: which of the source become which of the result."""

from __future__ import annotations

from collections.abc import Sequence

Group = tuple[list[int], list[int]]  # dimensions of the source, dimensions of the result


def reshape_groups(source: Sequence[int], result: Sequence[int]) -> list[Group] | None:
    """The finest split of a reshape into independent reshapes, in order, ignoring 1-sized dims.

    `(2, 3, 4) -> (6, 2, 2)` is `[([0, 1], [0]), ([2], [1, 2])]`. None for empty tensors.
    """
    if 0 in source:
        return None
    left = [d for d, size in enumerate(source) if size != 1]
    right = [d for d, size in enumerate(result) if size != 1]
    groups: list[Group] = []
    while left:
        group: Group = ([left.pop(0)], [right.pop(0)])
        m, n = source[group[0][0]], result[group[1][0]]
        while m != n:
            if m < n:
                group[0].append(left.pop(0))
                m *= source[group[0][-1]]
            else:
                group[1].append(right.pop(0))
                n *= result[group[1][-1]]
        groups.append(group)
    return groups


def only_ones_differ(source: Sequence[int], result: Sequence[int]) -> bool:
    """Whether a reshape only adds or removes dimensions of size 1."""
    return [d for d in source if d != 1] == [d for d in result if d != 1]
