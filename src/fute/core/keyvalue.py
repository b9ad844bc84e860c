"""A small crash-safe map from content address to bytes, in one SQLite file.

SQLite because it is what survives `kill -9` and two writers at once, without a line of code of ours:
every `put` is one transaction, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from fute.core.files import storing
from fute.core.sqlite import connect, transaction

_SCHEMA = "CREATE TABLE IF NOT EXISTS {} (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_MOST_VARIABLES = 500  # SQLite's oldest limit on `?` in one statement is 999


class KeyValue:
    """`get` and `put` many items at once; a key that is there is never overwritten.

    Args:
        path: the file; it and its folder are made at the first `put`.
        table: the map's name in the file, which may hold several.

    Raises:
        StorageError: the folder can't be written, the disk is full, or the file is damaged.
    """

    def __init__(self, path: Path, table: str = "item") -> None:
        self.path, self.table = path, table
        self._db: sqlite3.Connection | None = None

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Those of `keys` that are there, with their values."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, bytes] = {}
        with storing(self.path):
            if not self.path.exists():
                return found
            db = self._open()
            for start in range(0, len(wanted), _MOST_VARIABLES):
                part = wanted[start : start + _MOST_VARIABLES]
                marks = ",".join("?" * len(part))
                found.update(
                    db.execute(f"SELECT key, value FROM {self.table} WHERE key IN ({marks})", part).fetchall()
                )
        return found

    def put(self, items: Mapping[str, bytes]) -> int:
        """Add all of `items` or, where anything fails, none. Returns how many were not there yet."""
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = self._open()
            with transaction(db):
                done = db.executemany(f"INSERT OR IGNORE INTO {self.table} VALUES (?, ?)", items.items())
        return done.rowcount

    def remove(self, keys: Iterable[str]) -> None:
        """Take out those of `keys` that are there."""
        wanted = [(key,) for key in keys]
        with storing(self.path):
            if wanted and self.path.exists():
                db = self._open()
                with transaction(db):
                    db.executemany(f"DELETE FROM {self.table} WHERE key = ?", wanted)

    def __len__(self) -> int:
        with storing(self.path):
            if not self.path.exists():
                return 0
            return int(self._open().execute(f"SELECT count(*) FROM {self.table}").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self.path, _SCHEMA.format(self.table))
        return self._db
