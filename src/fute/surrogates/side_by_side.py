"""Batches read side by side: one thread each wastes less of a CPU than all threads on one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

_Batch = TypeVar("_Batch")
_Made = TypeVar("_Made")


def side_by_side(
    read: Callable[[_Batch], _Made], batches: Sequence[_Batch], most: int | None = None, device: str = "cpu"
) -> list[_Made]:
    """What `read`, without gradients, makes of each of the batches, in their order.

    Of what PyTorch may take of the CPU's threads each batch gets one, or more where there are fewer batches.

    Args:
        read: is called from several threads at once.
        most: how many batches are read at once; None: as many as there are threads.
        device: what kind reads them. On a GPU it is one at a time: they would wait for each other, and fill
            its memory.
    """
    read, threads = torch.no_grad()(read), torch.get_num_threads()
    at_once = min(threads, len(batches), most or threads) if device == "cpu" else 1
    if at_once < 2:
        return [read(batch) for batch in batches]
    own = partial(torch.set_num_threads, threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, initializer=own) as pool:
            return list(pool.map(read, batches))
    finally:
        torch.set_num_threads(threads)  # threads that begin later take over what was set last
