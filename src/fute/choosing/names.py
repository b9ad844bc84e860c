"""Ways to choose by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fute.core.errors import ConfigError, did_you_mean, listing


def named(given: Sequence[str], known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of `known` that are meant, each once, in the order asked for.

    Args:
        given: names in any case, with or without spaces, hyphens and underscores; or several, with commas
            between them; or a group's name.
        known: all names.
        groups: the names that the name of a group stands for.

    Raises:
        ConfigError: a name that is none's.
    """
    meant = {_key(name): [name] for name in known} | {
        _key(name): list(those) for name, those in groups.items()
    }
    chosen: dict[str, None] = {}
    for name in (part.strip() for one in given for part in one.split(",")):
        if name and _key(name) not in meant:
            raise ConfigError(
                f'there is no baseline "{name}".{did_you_mean(name, [*known, *groups])}',
                expected=f"{', '.join(groups)}, or some of {listing(known, 40)}",
            )
        chosen |= dict.fromkeys(meant.get(_key(name), ()))
    return list(chosen)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
