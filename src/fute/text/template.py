"""Prompt templates: Jinja, sandboxed and strict, so a misspelt variable is an error and not a blank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from fute.core.errors import ConfigError, did_you_mean
from fute.core.types import Input

VARIABLES = ("text", "text_pair")
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@dataclass(frozen=True)
class PromptTemplate:
    """A template such as `"Review: {{ text }}\\nSentiment:"`; `{{ text_pair }}` is a pair's second text.

    Raises:
        ConfigError: not valid Jinja, an unknown variable, or no variable at all.
    """

    source: str

    def __post_init__(self) -> None:
        try:
            used = meta.find_undeclared_variables(_ENVIRONMENT.parse(self.source))
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the template is not valid Jinja: {error.message}",
                found=self.source,
                fix="see jinja.palletsprojects.com",
            ) from error
        unknown = sorted(used - set(VARIABLES))
        if unknown:
            raise ConfigError(
                f"the template uses an unknown variable `{unknown[0]}`.{did_you_mean(unknown[0], VARIABLES)}",
                expected="{{ text }} or {{ text_pair }}",
                found=self.source,
                fix="name your column in the dataset (text: review); the template always says {{ text }}",
            )
        if "text" not in used:
            raise ConfigError(
                "the template never uses {{ text }}, so every prompt would be the same", found=self.source
            )
        object.__setattr__(self, "_used", used)

    @cached_property
    def _compiled(self) -> Template:
        return _ENVIRONMENT.from_string(self.source)

    @property
    def is_pair(self) -> bool:
        """Whether the template reads two texts."""
        return "text_pair" in self._used  # type: ignore[attr-defined]

    def render(self, item: Input) -> str:
        """The prompt. Raises ConfigError where the template asks for what a text doesn't have or allow."""
        try:
            return self._compiled.render(text=item.text, text_pair=item.text_pair or "")
        except Exception as error:  # whatever an expression in a template can raise
            raise ConfigError(
                f"the template can't be filled in: {error}",
                found=self.source,
                fix="{{ text }} is a plain string; its attributes with underscores are out of reach",
            ) from error
