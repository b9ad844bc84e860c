"""Vectors that are made otherwise than they once were: they live in spaces of their own."""

from __future__ import annotations

from fute.methods.base import EmbeddingMethod, defining_options

# How often, by the method, and a value of a defining option or the surrogate's architecture.
_CHANGED = {
    ("task-emb", "mpnet"): 1,  # its position bias had no gradient
    ("tupate", "bitfit"): 1,  # biases of keys were in it
    ("tupate", "albert"): 1,  # all layers had the last one's prefix
}


def revision(method: EmbeddingMethod, architecture: str | None) -> dict[str, int]:
    """What the spec of a space says of it beside the method's options: nothing where vectors are what they
    were from the start, so that spaces of then still hold.

    Args:
        architecture: the surrogate's, such as "bert"; None where it isn't known.
    """
    marks = {architecture, *map(str, defining_options(method).values())}
    count = sum(_CHANGED.get((method.name, str(mark)), 0) for mark in marks)
    return {"revision": count} if count else {}
