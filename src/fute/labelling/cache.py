"""Predictions on disk, one per (model fingerprint, input)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.types import Floats, Input


class PredictionCache:
    """Only checked predictions go in, so whatever comes out is right. `None` as path keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._store = KeyValue(path) if path is not None else None

    @staticmethod
    def key(fingerprint: str, item: Input) -> str:
        return digest([fingerprint, item.key])[:40]

    def get(self, keys: Sequence[str]) -> dict[str, Floats]:
        """Predictions, float32 (C,), of those keys that are there."""
        found = self._store.get(keys) if self._store is not None else {}
        return {key: np.frombuffer(value, dtype="<f4") for key, value in found.items()}

    def put(self, predictions: Mapping[str, Floats]) -> None:
        if self._store is not None:
            self._store.put({key: row.astype("<f4").tobytes() for key, row in predictions.items()})
