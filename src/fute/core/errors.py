"""Errors that help: what was expected, what was found, what to do.

Everything fute raises on purpose is a `FuteError`. The command line prints its text, without a
traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fute.core.unicode import writable


class FuteError(Exception):
    """Base of all errors that fute raises on purpose.

    Args:
        problem: one sentence, what is wrong.
        expected: what would have been right.
        found: what was there instead.
        fix: what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.expected, self.found, self.fix = problem, expected, found, fix
        parts = [("expected", expected), ("found", found), ("do", fix)]
        lines = [problem, *(f"  {name}: {text}" for name, text in parts if text)]
        super().__init__(writable("\n".join(lines)))


class ConfigError(FuteError):
    """`fute.yaml`, an option or an argument is wrong."""


class DataError(FuteError):
    """A dataset or a corpus can't be used as it is."""


class ModelError(FuteError):
    """A black box can't be built, or answered something that can't be right."""


class BudgetError(FuteError):
    """Asking on would pass a cap on calls, tokens or cost."""


class SpaceError(FuteError):
    """An embedding doesn't belong in this space, or a name isn't in it."""


class StorageError(FuteError):
    """A file can't be read or written: full disk, read-only folder, damaged file."""


class MissingError(FuteError):
    """A package or weights that this needs aren't installed."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`' Did you mean "label"?'` for the nearest of `options`; `''` where none is near or the word is one."""
    options = list(options)
    if word in options:
        return ""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def listing(items: Iterable[str], most: int = 12) -> str:
    """`a, b, c` with at most `most` items, and how many were left out."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f", … ({len(names) - most} more)" if len(names) > most else "")
