"""Presets: a surrogate, a method and its options under one name, in YAML beside this file.

A preset says `surrogate`, `method` and, for each method, `options`; one that has a `preset` itself says only
what differs from it. What `fute.yaml` says beside its preset wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from ruamel.yaml import YAML

from fute.core.errors import ConfigError, did_you_mean, listing


def presets() -> list[str]:
    """The names of the presets that fute brings."""
    files = resources.files("fute.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def with_preset(project: Mapping[str, Any]) -> dict[str, Any]:
    """What `fute.yaml` says, and what its preset says where it says nothing.

    The method's options are those that the preset has for the method that is chosen in the end.

    Raises:
        ConfigError: there is no such preset.
    """
    if project.get("preset") is None:
        return dict(project)
    preset = _load(project["preset"])
    of_method = preset.pop("options")
    own = project.get("method", {})
    own = {"name": own} if isinstance(own, str) else own
    if isinstance(own, Mapping):  # anything else is told to be wrong when it is checked
        name = own.get("name", preset["method"])
        options = of_method.get(name, {}) if isinstance(name, str) else {}
        own = {"name": name, **_merged(options, own)}
    return {**preset, **project, "method": own}


def options_of(preset: str | None, method: str) -> dict[str, Any]:
    """The options that a preset has for a method; none without a preset."""
    options: dict[str, Any] = _load(preset)["options"].get(method, {}) if preset else {}
    return options


def surrogate_of(preset: str) -> str:
    """The surrogate that a preset names."""
    return str(_load(preset)["surrogate"])


def _load(name: Any) -> dict[str, Any]:
    if name not in presets():
        near = did_you_mean(name, presets()) if isinstance(name, str) else ""
        raise ConfigError(f"there is no preset {name!r}.{near}", expected=f"one of {listing(presets())}")
    return dict(_read(name))


@cache
def _read(name: str) -> dict[str, Any]:
    text = (resources.files("fute.presets") / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = YAML(typ="safe").load(text)
    return _merged(_read(content.pop("preset")), content) if "preset" in content else content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; `above` wins where both say something."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}
