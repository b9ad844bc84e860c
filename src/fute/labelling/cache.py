"""Answers on disk, one per (model fingerprint, input), and beside them what failed and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fute.core.files import storing
from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.sqlite import alone
from fute.core.types import Answer, Failure, Output, Span


class PredictionCache:
    """Only checked answers go in, so whatever comes out is right. `None` as path keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers = KeyValue(path) if path is not None else None
        self._failures = KeyValue(path, "failure") if path is not None else None

    @staticmethod
    def key(fingerprint: str, item_key: str) -> str:
        """The address of the answer of the model with this fingerprint to the input with this key."""
        return hashlib.sha256(f'["{fingerprint}","{item_key}"]'.encode()).hexdigest()[:40]

    def get(self, keys: Sequence[str], output: Output = "class") -> dict[str, Answer]:
        """The answers to those keys that are there; class probabilities are float32 (C,)."""
        found = self._answers.get(keys) if self._answers is not None else {}
        return {key: _decode(value, output) for key, value in found.items()}

    def failures(self, keys: Sequence[str]) -> dict[str, Failure]:
        """Why those of `keys` failed that did when last asked."""
        found = self._failures.get(keys) if self._failures is not None else {}
        return {key: Failure(*json.loads(value)) for key, value in found.items()}

    def put(self, answers: Mapping[str, Answer | Failure]) -> bool:
        """Keep answers, and what failed: a failure is never an answer, and who looks for an answer first
        need not know that there once was a failure.

        Returns:
            whether these are the answers that are kept: an answer that is there already stays.
        """
        if self._answers is None or self._failures is None:
            return True
        good = {key: _encode(a) for key, a in answers.items() if not isinstance(a, Failure)}
        bad = {key: a for key, a in answers.items() if isinstance(a, Failure)}
        added = self._answers.put(good) if good else 0
        if bad:
            self._failures.remove(bad)
            self._failures.put({key: json.dumps([f.kind, f.detail]).encode() for key, f in bad.items()})
        return added == len(good)

    def claim(self, fingerprint: str) -> Callable[[], None] | None:
        """The right to ask this model for answers to be kept here, until the function that is returned is
        called, or the process ends; None while another has it.
        """
        if self.path is None:
            return lambda: None
        folder = self.path.parent / "asking"
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = alone(folder / digest([fingerprint])[:16])
        return lock.close if lock is not None else None


def _encode(answer: Answer) -> bytes:
    if isinstance(answer, Span):
        return json.dumps([answer.text, answer.start]).encode()
    return answer.encode() if isinstance(answer, str) else answer.astype("<f4").tobytes()


def _decode(value: bytes, output: Output) -> Answer:
    if output == "span":
        return Span(*json.loads(value))
    return value.decode() if output == "text" else np.frombuffer(value, dtype="<f4")
