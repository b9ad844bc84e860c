"""Task embeddings in a LanceDB table: embedded, versioned, the same on a disk and on object storage."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fute.core.errors import SpaceError, StorageError
from fute.core.files import storing, write_atomically
from fute.core.sqlite import one_at_a_time
from fute.core.types import SpaceSpec, TaskEmbedding

_FORMAT = 1
_SPEC_FILE = "space.json"
_TABLE = "embeddings"
_LOCK_FILE = ".adding"


class Store:
    """The rows of one space.

    Args:
        path: the folder; made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: Any = None

    def read_spec(self) -> SpaceSpec | None:
        """The space's spec, or None for a space that is still empty.

        Raises:
            SpaceError: written by another version of the format, or damaged.
        """
        if not self.count():
            return None
        file = self.path / _SPEC_FILE
        with storing(file):
            data = file.read_bytes() if file.exists() else b""
        try:
            content = json.loads(data.decode("utf-8"))
            if content["format"] != _FORMAT:
                raise SpaceError(
                    f"{file} has format {content['format']}",
                    expected=f"format {_FORMAT}",
                    fix="read it with the version of fute that wrote it, or run `fute run` for a new space",
                )
            spec = SpaceSpec(**content["spec"])
            kinds = (str, dict, str, str, int)
            if any(type(value) is not kind for value, kind in zip(vars(spec).values(), kinds, strict=True)):
                raise TypeError(f"a spec that can't be: {content['spec']}")
            return spec
        except (ValueError, KeyError, TypeError) as error:
            found = str(error) if data else "no such file, or an empty one"
            raise SpaceError(f"{file} is damaged", found=found, fix=self._anew) from error

    def write_spec(self, spec: SpaceSpec) -> None:
        content = json.dumps({"format": _FORMAT, "spec": asdict(spec)}, indent=2)
        write_atomically(self.path / _SPEC_FILE, content + "\n")

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Let one process at a time, and one thread of it, into the block, so that what it finds in the space
        still holds when it adds to it. Of two that make the table at once, LanceDB would let the later one
        put its empty table over the other's rows; of two with different specs, both would add.
        """
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self.path / _LOCK_FILE):
                yield

    def upsert(self, embeddings: Sequence[TaskEmbedding]) -> None:
        """Add rows, within `adding`; one of the same name is replaced. All of them or none."""
        import pyarrow as pa

        rows = pa.Table.from_pylist([_to_row(e) for e in embeddings], schema=_schema())
        with self._storing():
            if self._open() is None:
                self._table = self._connect().create_table(_TABLE, schema=_schema(), exist_ok=True)
            merge = self._table.merge_insert("name").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)

    def delete(self, name: str) -> None:
        with self._storing():
            self._open().delete(f"name = {_quoted(name)}")

    def count(self) -> int:
        with self._storing():
            table = self._open()
            return int(table.count_rows()) if table is not None else 0

    def read(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows of these names, or all, by name; without vectors."""
        return self._rows(names, ["name", "kind", "labels", "provenance", "stored_at"])

    def read_embeddings(self, spec: SpaceSpec, names: Sequence[str] | None = None) -> list[TaskEmbedding]:
        """The embeddings of these names, or all, by name."""
        return [_from_row(row, spec) for row in self._rows(names, None)]

    def _rows(self, names: Sequence[str] | None, columns: list[str] | None) -> list[dict[str, Any]]:
        with self._storing():
            table = self._open()
            if table is None:
                return []
            query = table.search()
            if names is not None:
                query = query.where(f"name IN ({', '.join(map(_quoted, names))})" if names else "false")
            if columns is not None:
                query = query.select(columns)
            rows: list[dict[str, Any]] = query.limit(table.count_rows() + 1).to_arrow().to_pylist()
        return sorted(rows, key=lambda row: str(row["name"]))

    def _open(self) -> Any:
        if self._table is None and self._finished():
            self._table = self._connect().open_table(_TABLE)
        return self._table

    def _finished(self) -> bool:
        """Whether there is a table: a full disk or `kill -9` may leave its folder without a version."""
        try:
            versions = list((self.path / f"{_TABLE}.lance" / "_versions").iterdir())
        except FileNotFoundError:
            return False
        return any(file.suffix == ".manifest" for file in versions)

    def _connect(self) -> Any:
        import lancedb

        # 0: what another process adds or removes is seen at once.
        return lancedb.connect(self.path, read_consistency_interval=timedelta(0))

    @property
    def _anew(self) -> str:
        return (
            f"move the folder {self.path} away and run again: it is made anew from the answers that are kept"
        )

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """LanceDB raises OSError, RuntimeError or ValueError, whatever the disk's trouble was."""
        with storing(self.path):
            try:
                yield
            except (RuntimeError, ValueError) as error:
                text = str(error).splitlines()[0][:300]
                number = re.search(r"os error (\d+)", str(error))
                if number is None or int(number[1]) == errno.ENOENT:  # one of the table's own files
                    what, fix = (
                        f"can't use {self.path}: it may be damaged",
                        f"if it happens again, {self._anew}",
                    )
                    raise StorageError(what, found=text, fix=fix) from error
                raise OSError(int(number[1]), text) from error


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _schema() -> Any:
    import pyarrow as pa

    matrix = pa.struct([("shape", pa.list_(pa.int32())), ("bytes", pa.large_binary())])
    text = pa.string()
    # As a key, so that two processes which add one name at once don't leave two rows of it.
    key = {"lance-schema:unenforced-primary-key": "true"}
    return pa.schema(
        [
            pa.field("name", text, nullable=False, metadata=key),
            ("kind", text),
            ("labels", pa.list_(text)),
            ("provenance", text),
            ("stored_at", text),
        ]
        + [(name, matrix) for name in ("left", "right", "replicates")]
    )


def _to_row(e: TaskEmbedding) -> dict[str, Any]:
    matrices: dict[str, tuple[Any, str]] = {
        "left": (e.left, "<f2" if e.left.dtype == np.float16 else "<f4"),
        "right": (e.right, "<f4"),
        "replicates": (e.replicates, "<f2"),
    }
    return {
        "name": e.name,
        "kind": e.kind,
        "labels": list(e.labels),
        "provenance": json.dumps(dict(e.provenance), ensure_ascii=False),
        "stored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **{
            name: {"shape": list(array.shape), "bytes": np.ascontiguousarray(array, dtype).tobytes()}
            for name, (array, dtype) in matrices.items()
        },
    }


def _from_row(row: dict[str, Any], spec: SpaceSpec) -> TaskEmbedding:
    def array(name: str) -> Any:
        shape, content = row[name]["shape"], row[name]["bytes"]
        width = len(content) // max(1, math.prod(shape))
        return np.frombuffer(content, "<f4" if width == 4 else "<f2").reshape(shape)

    return TaskEmbedding(
        name=row["name"],
        kind=row["kind"],
        spec=spec,
        left=array("left"),
        right=array("right"),
        replicates=array("replicates"),
        labels=tuple(row["labels"]),
        provenance=json.loads(row["provenance"]),
    )
