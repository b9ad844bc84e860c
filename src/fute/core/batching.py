"""Cutting what has a size into batches of similar sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def batches(
    sizes: Sequence[int], budget: int, rows: Sequence[int] | None = None, most: float = math.inf
) -> list[list[int]]:
    """Indices in batches of similar size, with at most `budget` in each once padded (or one item).

    Args:
        sizes: of each item; with `rows`, of the largest of its rows.
        rows: how many rows each item brings; without it, one.
        most: rows in a batch.
    """
    result: list[list[int]] = []
    inside = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        inside += rows[i] if rows else 1
        if result and inside * sizes[i] <= budget and inside <= most:
            result[-1].append(i)
        else:
            result.append([i])
            inside = rows[i] if rows else 1
    return result


def full_batches(sizes: Sequence[int], budget: int, padded: Callable[[int], int]) -> list[list[int]]:
    """Indices in batches of similar size, the largest first, each of as many items as fit into `budget` once
    padded (or of one): only the last has fewer, so that there are few shapes.

    Args:
        sizes: of each item.
        padded: what the largest of a batch's sizes is padded to.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    result: list[list[int]] = []
    begin = 0
    while begin < len(order):
        most = max(1, budget // max(1, padded(sizes[order[begin]])))
        result.append(order[begin : begin + most])
        begin += most
    return result
