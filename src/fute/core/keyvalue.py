"""A small crash-safe map from content address to bytes, in one SQLite file.

SQLite because it is what survives `kill -9` and two writers at once, without a line of code of ours:
every `put` is one transaction, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from fute.core.files import storing

_SCHEMA = "CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_MOST_VARIABLES = 500  # SQLite's oldest limit on `?` in one statement is 999


class KeyValue:
    """`get` and `put` many items at once; a key that is there is never overwritten.

    Args:
        path: the file; it and its folder are made at the first `put`.

    Raises:
        StorageError: the folder can't be written, the disk is full, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
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
                    db.execute(f"SELECT key, value FROM item WHERE key IN ({marks})", part).fetchall()
                )
        return found

    def put(self, items: Mapping[str, bytes]) -> None:
        """Add all of `items` or, where anything fails, none."""
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany("INSERT OR IGNORE INTO item VALUES (?, ?)", items.items())
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with storing(self.path):
            if not self.path.exists():
                return 0
            return int(self._open().execute("SELECT count(*) FROM item").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(_SCHEMA)
            self._db = db
        return self._db
