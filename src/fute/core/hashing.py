"""Content addresses: sha256 over values and files, the same on every machine and in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {"dtype": str(array.dtype), "shape": array.shape, "sha256": _sha256(array.tobytes())}
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"no content address for {type(value).__name__}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """sha256 (hex) of a value made of dicts, lists, strings, numbers, None and numpy arrays."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return _sha256(text.encode("utf-8", "surrogatepass"))


def digest_files(files: Iterable[Path]) -> str:
    """sha256 (hex) over the names and contents of files; where the folder lies doesn't matter."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        with path.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{path.name}\0{content}\n".encode())
    return total.hexdigest()
