"""Trees as the rows of a batch: their tokens, where these stand, and what they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fute.models.backends.packing import TokenTree

# transformers' names of layers that see all that stands before a token, and a window of it.
FULL, SLIDING = "full_attention", "sliding_attention"


def tokens_of(trees: Sequence[TokenTree], shared: int, longest: int) -> Any:
    """All tokens but the first, `shared` ones, with zeros to the right: int64 (B, longest)."""
    import torch

    ids = torch.zeros(len(trees), longest, dtype=torch.long)
    for row, tree in enumerate(trees):
        ids[row, : len(tree) - shared] = torch.tensor(tree.tokens[shared:])
    return ids


def positions_and_mask(trees: Sequence[TokenTree], shared: int, longest: int) -> tuple[Any, Any]:
    """Where each token stands in its prompt, int64 (B, shared + longest), and which of these a query sees:
    bool (B, 1, longest, shared + longest), its ancestors and itself. The queries are the last `longest`.
    """
    import torch

    positions = torch.zeros(len(trees), shared + longest, dtype=torch.long)
    positions[:, :shared] = torch.arange(shared)
    mask = torch.ones(len(trees), 1, longest, shared + longest, dtype=torch.bool)
    # A padding position sees itself, since a softmax over nothing is NaN.
    mask[..., shared:] = torch.eye(longest, dtype=torch.bool)
    for row, tree in enumerate(trees):
        positions[row, shared : len(tree)] = torch.tensor(tree.depths[shared:])
        inside = torch.from_numpy(tree.mask()[shared:, shared:])
        mask[row, 0, : len(tree) - shared, shared : len(tree)] = inside
    return positions, mask


def masks_by_kind(positions: Any, mask: Any, kinds: set[str], window: int | None) -> Mapping[str, Any]:
    """The mask of each kind of layers, or one for all where it is the same.

    Args:
        positions, mask: as `positions_and_mask` gives them.
        kinds: of layers.
        window: a token sees those that stand less than this before it, in sliding layers.
    """
    if SLIDING not in kinds or window is None or positions.max() < window:
        return {FULL: mask}
    queries = positions[:, -mask.shape[2] :]
    sliding = mask & (queries[:, None, :, None] - positions[:, None, None, :] < window)
    return {FULL: mask, SLIDING: sliding} if len(kinds) > 1 else {SLIDING: sliding}
