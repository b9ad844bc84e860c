"""Where fute keeps files, and writing them so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs

from fute.core.errors import StorageError

_ADVICE = {
    errno.ENOSPC: ("the disk is full", "free some space and run again: what is saved stays saved"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run again: what is saved stays saved"),
    errno.EFBIG: ("the file may not grow further", "raise the file size limit (ulimit -f) or free space"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("no permission", "choose a folder that you may write, or change its permissions"),
    errno.EPERM: ("no permission", "choose a folder that you may write, or change its permissions"),
}


def cache_dir() -> Path:
    """The folder for converted weights, features and compiled code: `$FUTE_CACHE`, or the user's cache
    folder.
    """
    chosen = os.environ.get("FUTE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("fute"))


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while reading or writing `path` into a `StorageError` with advice."""
    try:
        yield
    except OSError as error:
        reason, fix = _ADVICE.get(error.errno or 0, (error.strerror or str(error), "check the path"))
        raise StorageError(f"can't use {path}: {reason}", found=str(error), fix=fix) from error
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            reason, fix = _ADVICE[errno.ENOSPC]
        elif "readonly" in text or "unable to open" in text:
            reason, fix = _ADVICE[errno.EACCES]
        elif "locked" in text:
            reason, fix = "another process keeps it locked", "wait for the other run, or stop it"
        else:
            reason, fix = "the file is damaged", f"move {path} away and run again: it is made anew"
        raise StorageError(f"can't use {path}: {reason}", found=text, fix=fix) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream to a file that is, at every moment, either the old one or the new one, whole: the new one
    takes its place when the block ends without an error.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place when the block ends without an error: there is never a half of
    it. Where another process was faster, its folder stays: it is as good.
    """
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as beside:
            made = Path(beside) / "whole"
            made.mkdir()
            yield made
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that is, at every moment, either the old one or the new one, whole."""
    with writing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
