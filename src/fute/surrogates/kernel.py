"""How alike a model's states of inputs are, over all of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.progress import Progress, silent
from fute.core.types import Floats, Input
from fute.surrogates.base import Surrogate, family
from fute.surrogates.features import Features

_VERSION = 1


def layer_kernel(
    surrogate: Surrogate, inputs: Sequence[Input], path: Path | None = None, progress: Progress = silent
) -> Floats:
    """`K_ij = (1/L) Σ_l cos(h_l(x_i), h_l(x_j))`, float32 (n, n), from −1 to 1: `h_l(x)` is what layer l of L
    makes of the token at which heads read a text, which is an encoder's first, and else the last.

    A number for each pair of inputs, where the states themselves are L·d numbers an input.

    Args:
        path: where the kernel of these inputs is kept; None: nowhere.

    Raises:
        ModelError: as for `Features`.
    """
    store = None if path is None else KeyValue(path)
    place = digest(["layer kernel", _VERSION, *surrogate.identity, [item.key for item in inputs]])[:40]
    found = store.get([place]).get(place) if store is not None else None
    if found is not None:
        return np.frombuffer(found, dtype="<f4").reshape(len(inputs), len(inputs))
    token = "first" if family(surrogate.model) == "encoder" else "last"
    states = Features(surrogate, layer="each", pooling=token)(inputs, progress)
    made = states @ states.T
    if store is not None:
        store.put({place: made.astype("<f4").tobytes()})
    return made
