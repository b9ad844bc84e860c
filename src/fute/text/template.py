"""Prompt templates: Jinja, sandboxed and strict, so a misspelt variable is an error and not a blank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from fute.core.errors import ConfigError, did_you_mean
from fute.core.types import Input, Shape

VARIABLES = ("text", "text_pair", "options")
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"ensure_ascii": False}


@dataclass(frozen=True)
class PromptTemplate:
    """A template such as `"Review: {{ text }}\\nSentiment:"`.

    `{{ text_pair }}` is a pair's second text (or the context of a question), `{{ options }}` the list of
    answers to choose from.

    Args:
        source: Jinja.
        columns: names of its own that the template has for ours, such as {"premise": "text"}.
        choices: what `{{ answer_choices }}` is, in templates of PromptSource.

    Raises:
        ConfigError: not valid Jinja, an unknown variable, or no variable at all.
    """

    source: str
    columns: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, ours in self.columns.items():
            if ours not in VARIABLES:
                raise ConfigError(
                    f'the template\'s "{name}" stands for an unknown variable `{ours}`.'
                    f"{did_you_mean(ours, VARIABLES)}",
                    expected=f"one of {', '.join(VARIABLES)}",
                )
        try:
            names = meta.find_undeclared_variables(_ENVIRONMENT.parse(self.source))
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the template is not valid Jinja: {error.message}",
                found=self.source,
                fix="see jinja.palletsprojects.com",
            ) from error
        if self.choices:
            names.discard("answer_choices")
        used = {self.columns.get(name, name) for name in names}
        unknown = sorted(used - set(VARIABLES))
        if unknown:
            near = did_you_mean(unknown[0], [*self.columns, *VARIABLES])
            raise ConfigError(
                f"the template uses an unknown variable `{unknown[0]}`.{near}",
                expected="{{ text }}, {{ text_pair }} or {{ options }}",
                found=self.source,
                fix="name your column in the dataset (text: review); the template always says {{ text }}",
            )
        if "text" not in used:
            raise ConfigError(
                "the template never uses {{ text }}, so every prompt would be the same", found=self.source
            )
        object.__setattr__(self, "_used", used)

    def identity(self) -> list[Any]:
        """All that decides what it renders, as plain values."""
        return [self.source, sorted(self.columns.items()), list(self.choices)]

    @cached_property
    def _compiled(self) -> Template:
        return _ENVIRONMENT.from_string(self.source)

    @property
    def shape(self) -> Shape:
        """What it reads."""
        used: set[str] = self._used  # type: ignore[attr-defined]
        if "options" in used:
            return "question-options"
        return "pair" if "text_pair" in used else "text"

    @property
    def is_pair(self) -> bool:
        """Whether the template reads two texts."""
        return self.shape == "pair"

    def render(self, item: Input) -> str:
        """The prompt. Raises ConfigError where the template asks for what a text doesn't have or allow."""
        try:
            ours = {"text": item.text, "text_pair": item.text_pair or "", "options": list(item.options)}
            renamed = {name: ours[variable] for name, variable in self.columns.items()}
            choices = {"answer_choices": list(self.choices)} if self.choices else {}
            return self._compiled.render({**ours, **renamed, **choices})
        except Exception as error:  # whatever an expression in a template can raise
            raise ConfigError(
                f"the template can't be filled in: {error}",
                found=self.source,
                fix="{{ text }} is a plain string; its attributes with underscores are out of reach",
            ) from error
