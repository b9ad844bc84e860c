"""Cutting what has a size into batches of similar sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

_EACH = 64  # tokens that models of 20 to 200 million parameters read in the time a batch costs by itself


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


def cheapest_batches(sizes: Sequence[int], budget: int, each: int = _EACH) -> list[list[int]]:
    """Indices in batches of similar size, with at most `budget` in each once padded (or one item), so cut
    that `Σ (each + items · largest)` over the batches is the least: few batches against little padding.

    Args:
        sizes: of each item.
        each: what a batch costs by itself.
    """
    order = np.argsort(sizes, kind="stable")
    largest = np.asarray(sizes)[order]
    cost, begin = np.zeros(len(order) + 1), [0] * (len(order) + 1)
    for end, size in enumerate(largest, 1):  # the batch that ends before this begins where all is cheapest
        first = max(0, end - max(1, budget // max(1, size)))
        costs = cost[first:end] + (end - np.arange(first, end)) * size
        begin[end] = first + int(costs.argmin())
        cost[end] = each + costs.min()
    result: list[list[int]] = []
    end = len(order)
    while end:
        result.insert(0, order[begin[end] : end].tolist())
        end = begin[end]
    return result
