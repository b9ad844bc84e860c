"""Text that can be written."""

from __future__ import annotations


def writable(text: str) -> str:
    """The text with "?" for each lone surrogate: UTF-8 has none, so nothing takes it."""
    return text.encode("utf-8", "replace").decode("utf-8")
