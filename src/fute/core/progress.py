"""Progress as a plain function, so that no room but the command line knows how it is shown."""

from __future__ import annotations

from collections.abc import Callable

# progress(what, done, total): called often, cheap, never raises.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """The progress that shows nothing."""
