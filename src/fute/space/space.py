"""A space: task embeddings that can be compared, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fute.core.errors import SpaceError, did_you_mean, listing
from fute.core.types import Kind, SpaceSpec, TaskEmbedding
from fute.space.similarity import cosine, cosines
from fute.space.store import Store


@dataclass(frozen=True)
class Entry:
    """What is known of an embedding without reading its vector."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    stored_at: str
    provenance: dict[str, object]


class Space:
    """Task embeddings on disk that all have one `SpaceSpec`: that of the first one added.

    Args:
        path: the space's folder; made with the first `add`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._store = Store(self.path)

    @property
    def spec(self) -> SpaceSpec | None:
        """What makes its vectors comparable; None while it is empty."""
        return self._store.read_spec()

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint if self.spec else ""

    def add(self, *embeddings: TaskEmbedding) -> None:
        """Add embeddings; one of the same name is replaced. All of them or none.

        Raises:
            SpaceError: one has another SpaceSpec (says which fields differ), or a name twice.
        """
        if not embeddings:
            return
        for embedding in embeddings:
            embeddings[0].spec.check_same(embedding.spec)
        names = [e.name for e in embeddings]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpaceError(f"two embeddings have the same name: {listing(twice)}", fix="give each its own")
        with self._store.adding():
            spec = self.spec
            (spec or embeddings[0].spec).check_same(embeddings[0].spec)
            self._check_kinds(embeddings)
            if spec is None:
                self._store.write_spec(embeddings[0].spec)
            self._store.upsert(embeddings)

    def _check_kinds(self, embeddings: Sequence[TaskEmbedding]) -> None:
        """Raise `SpaceError` where the space has another kind under one of the names."""
        kinds = {row["name"]: row["kind"] for row in self._store.read([e.name for e in embeddings])}
        for embedding in embeddings:
            if kinds.get(embedding.name, embedding.kind) != embedding.kind:
                raise SpaceError(
                    f'"{embedding.name}" is a {kinds[embedding.name]} in this space',
                    found=f"a {embedding.kind} of the same name",
                    fix="rename one, or remove the old one",
                )

    def entries(self) -> list[Entry]:
        """All there is, by name."""
        return [
            Entry(r["name"], r["kind"], tuple(r["labels"]), r["stored_at"], json.loads(r["provenance"]))
            for r in self._store.read()
        ]

    def __len__(self) -> int:
        return self._store.count()

    def __contains__(self, name: str) -> bool:
        return bool(self._store.read([name]))

    def get(self, name: str) -> TaskEmbedding:
        """The embedding of that name.

        Raises:
            SpaceError: there is none; names the nearest.
        """
        spec = self.spec
        found = self._store.read_embeddings(spec, [name]) if spec else []
        if not found:
            raise self._unknown(name)
        return found[0]

    def embeddings(self, kind: Kind | None = None) -> list[TaskEmbedding]:
        """All embeddings, or those of one kind, by name."""
        spec = self.spec
        found = self._store.read_embeddings(spec) if spec else []
        return [e for e in found if kind is None or e.kind == kind]

    def remove(self, name: str) -> None:
        """Remove an embedding.

        Raises:
            SpaceError: there is none of that name.
        """
        if name not in self:
            raise self._unknown(name)
        self._store.delete(name)

    def compare(self, a: str, b: str) -> float:
        """Cosine of two embeddings, -1 to 1, higher is more alike."""
        return cosine(self.get(a), self.get(b))

    def neighbours(self, name: str, k: int = 10, kind: Kind | None = None) -> list[tuple[str, float]]:
        """The k nearest others by cosine, nearest first."""
        one = self.get(name)
        others = [e for e in self.embeddings(kind) if e.name != name]
        scored = zip([e.name for e in others], cosines(one, others).tolist(), strict=True)
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]

    def _unknown(self, name: str) -> SpaceError:
        names: Sequence[str] = [entry.name for entry in self.entries()]
        return SpaceError(
            f'there is no "{name}" in the space {self.path}.{did_you_mean(name, names)}',
            expected=f"one of {listing(names)}" if names else None,
            found="an empty space" if not names else None,
            fix="`fute run` fills the space; `fute space ls` lists it",
        )
