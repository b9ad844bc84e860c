"""Opening a SQLite file the one way that fute uses it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 30.0  # seconds to wait for another process before "database is locked"


def connect(path: Path | None, schema: str) -> sqlite3.Connection:
    """The database at `path` (None: in memory) with its table: safe under `kill -9` and with two writers; to
    read where nothing may be written.
    """
    db = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(schema)
    except sqlite3.OperationalError as error:
        db.close()
        unwritable = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
        if unwritable and path is not None and path.exists():
            return _to_read(path)
        raise
    return db


def _to_read(path: Path) -> sqlite3.Connection:
    """A write-ahead log needs a file beside it even to be read; without one there are no writers either."""
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    place = f"{path.resolve().as_uri()}?mode=ro{alone}"
    return sqlite3.connect(place, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)


def _write_ahead(db: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite's own timeout doesn't cover this: of two processes that open a new
    file at once, one would fail at once, because waiting for each other could last for ever."""
    last = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
        time.sleep(0.01)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what the block writes, or none of it; other writers wait."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def alone(path: Path) -> sqlite3.Connection | None:
    """What keeps others, of this process too, from being alone at `path` until it is closed or the process
    ends, also by `kill -9`; None while another has it. The empty file at `path` stays.
    """
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return None
    return db


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process, and one thread of it, into the block at a time. The empty file at `path` stays; what
    locks it ends with the process, also by `kill -9`.
    """
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        with transaction(db):
            yield
    finally:
        db.close()
