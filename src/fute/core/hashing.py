"""Content addresses: sha256 over values and files, the same on every machine and in every process."""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import json
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {"dtype": str(array.dtype), "shape": array.shape, "sha256": _sha256(array.tobytes())}
    if isinstance(value, set | frozenset):
        return sorted(map(digest, value))
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


def digest_object(value: Any) -> str:
    """sha256 (hex) of what an object knows: its attributes, a function's source and all that it holds on to.

    Equal contents have equal addresses in every process, whatever the order of sets and dicts, and whether
    an object is shared or copied. (A pickle's bytes depend on both, and on what else was imported.)

    Raises:
        TypeError: it belongs to one process, like a lock or an open file.
    """
    return _Objects().digest(value)


class _Objects:
    """One walk over an object and those that it refers to."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[str, Any]] = {}  # with the object, so that its id stays its own
        self._open: list[int] = []

    def digest(self, value: Any) -> str:
        if id(value) in self._done:
            return self._done[id(value)][0]
        if id(value) in self._open:  # it refers to itself: how many steps up
            return digest(["cycle", len(self._open) - self._open.index(id(value))])
        self._open.append(id(value))
        result = digest(self._parts(value))
        self._open.pop()
        self._done[id(value)] = (result, value)
        return result

    def _parts(self, value: Any) -> list[Any]:
        """What tells the value from others, as plain values."""
        kind = type(value)
        if kind in (type(None), bool, int, float, complex, str, bytes):
            return [kind.__name__, repr(value)]
        if kind in (list, tuple):
            return [kind.__name__, *map(self.digest, value)]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(map(self.digest, value))]
        if kind is dict:
            # scikit-learn's vectorisers keep a memory address under this name
            items = ((k, v) for k, v in value.items() if k != "_stop_words_id")
            return ["dict", *sorted([self.digest(k), self.digest(v)] for k, v in items)]
        if kind is np.ndarray and not value.dtype.hasobject:
            return ["array", value]
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ["scalar", str(value.dtype), repr(value.item())]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type | types.ModuleType):
            return ["name", _name(value)]
        reduce = copyreg.dispatch_table.get(kind)
        made = reduce(value) if reduce else value.__reduce_ex__(4)
        if isinstance(made, str):
            return ["name", getattr(value, "__module__", ""), made]
        parts = [list(part) if isinstance(part, Iterator) else part for part in made[1:5]]
        return [_name(kind), _name(made[0]), *map(self.digest, parts)]

    def _function(self, function: types.FunctionType) -> list[Any]:
        """All lambdas share one name, and so do all closures of one `def`."""
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):
            source = ""
        # Where its text ends tells lambdas on one line apart.
        end = max((place[1] or 0, place[3] or 0) for place in function.__code__.co_positions())
        held = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        own = [function.__defaults__, function.__kwdefaults__, held, vars(function)]
        return ["function", _name(function), source, end, *map(self.digest, own)]


def _name(thing: Any) -> str:
    """`module.name` of a class, function or module."""
    own = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", type(thing).__qualname__)
    return f"{getattr(thing, '__module__', '')}.{own}"
