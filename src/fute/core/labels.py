"""Label names that mean the same."""

from __future__ import annotations

import re
from collections.abc import Sequence


def matching(own: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """For each wanted name the place of its like among one's own; None unless each has just one.

    Names are alike if they are equal, or else, all of them, but for case and for spaces, hyphens and
    underscores, as "Not_entailment" and "not entailment" are.
    """
    for key in (str, key_of):
        places = {key(name): i for i, name in enumerate(own)}
        keys = [key(name) for name in wanted]
        if len(places) == len(own) and len(set(keys)) == len(keys) and set(keys) == set(places):
            return [places[name] for name in keys]
    return None


def key_of(name: str) -> str:
    """What is left of a name without case, and with one space for runs of spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
