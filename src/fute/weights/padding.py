"""Rows of tokens as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pad(rows: Sequence[Any], value: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """int64 (n, `length` or the longest) with `value` behind what is shorter, and a mask of what is there."""
    sizes = torch.tensor([len(row) for row in rows])
    filled = torch.full((len(rows), length or int(sizes.max())), value)
    for into, row in zip(filled, rows, strict=True):
        into[: len(row)] = torch.as_tensor(row)
    return filled, (torch.arange(filled.shape[1]) < sizes[:, None]).long()
