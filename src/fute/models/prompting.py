"""The part of a `models:` entry that says how an LLM is asked: the same for local LLMs and for servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.section import Name, Section, Seed, Words
from fute.core.types import Input
from fute.data.dataset import Dataset
from fute.models.section import Here, ModelSection
from fute.text.families import load_family
from fute.text.prompt import Prompt, Reasoning, Shot, draw_shots
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer

_NEEDS_LABELS = (
    "an LLM needs `labels`: a mapping from each label to the words that stand for it, "
    'for example {negative: [" bad"], positive: [" good"]}'
)


class ShotConfig(Section):
    """One in-context example."""

    text: str
    text_pair: str | None = None
    options: list[str] = Field(default_factory=list)
    label: Name


class DrawConfig(Section):
    """In-context examples drawn from a labelled file; rows that a dataset holds out are never drawn."""

    path: str
    k: int = Field(ge=1)
    seed: Seed = 0
    balanced: bool = True
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    labels: list[Name] | dict[Name, Name] | None = None


class ReasonConfig(Section):
    """Chain of thought."""

    max_tokens: int = Field(default=512, ge=1)
    ask: str | None = None


class PromptSection(ModelSection):
    """An LLM's template, or a whole family of them, with the words that stand for the labels.

    Attributes:
        labels: for each label its words; or the labels' names alone, in the order of the answer choices of a
            file of PromptSource.
        columns, choices: as for `PromptTemplate`.
    """

    template: str | None = None
    prompts: str | None = None
    only: list[Name] | None = None
    labels: dict[Name, Words] | list[Name] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    choices: list[str] = Field(default_factory=list)
    system: str | None = None
    examples: list[ShotConfig] | DrawConfig | None = None
    reason: bool | ReasonConfig = False

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_have_words(cls, labels: Any, others: ValidationInfo) -> Any:
        if isinstance(labels, list) and others.data.get("prompts") is None:
            raise ValueError(_NEEDS_LABELS)
        return labels

    @model_validator(mode="after")
    def _says_how_to_ask(self) -> Self:
        if self.prompts is None and self.template is None:
            raise ValueError(
                'an LLM needs a `template`, for example "Review: {{ text }}\\nSentiment:", or '
                "`prompts`, the name of a family of them"
            )
        if self.prompts is not None and self.template is not None:
            raise ValueError("needs either a `template` or `prompts`, and not both")
        if self.prompts is None and self.labels is None:
            raise ValueError(_NEEDS_LABELS)
        return self

    def expand(self, folder: Path) -> list[ModelSection]:
        """One entry for each prompt of the family, named "entry/prompt"; what the entry says itself holds
        for all.

        Raises:
            ConfigError: no such family, or `only` names a prompt that it doesn't have.
        """
        if self.prompts is None:
            return [self]
        chat = bool(getattr(self, "chat", False))
        family = load_family(
            self.prompts, folder, labels=list(self.labels or []), columns=self.columns, chat=chat
        )
        prompts = {prompt.id: prompt for prompt in family.prompts}
        of_its_own = [prompt for prompt in family.prompts if list(prompt.labels) != self.labels]
        if isinstance(self.labels, list) and of_its_own:
            raise ConfigError(
                f"model {self.name}: `labels` is a list, but the prompts of {self.prompts} have labels",
                found=listing(of_its_own[0].labels),
                fix="leave `labels` out, or give each label its words; a list is for files of PromptSource",
            )
        unknown = [name for name in self.only or [] if name not in prompts]
        if unknown and unknown[0] in family.skipped:
            raise ConfigError(
                f'model {self.name}: the prompt "{unknown[0]}" of {self.prompts} can\'t be used',
                found=family.skipped[unknown[0]],
            )
        if unknown:
            raise ConfigError(
                f'model {self.name}: {self.prompts} has no prompt "{unknown[0]}".'
                f"{did_you_mean(unknown[0], prompts)}",
                expected=f"some of {listing(prompts, 40)}",
            )
        if not prompts:
            raise ConfigError(
                f"model {self.name}: none of the {len(family.skipped)} prompts of {self.prompts} can be used",
                found="; ".join(f"{name}: {why}" for name, why in [*family.skipped.items()][:3]),
                fix="check `labels` and `columns`",
            )
        return [
            self.model_copy(
                update={"name": f"{self.name}/{name}", "prompts": None, "only": None, **self._of(prompt)}
            )
            for name, prompt in prompts.items()
            if self.only is None or name in self.only
        ]

    def _of(self, prompt: Any) -> dict[str, Any]:
        """What the prompt of a family decides, where the entry doesn't."""
        words = self.labels if isinstance(self.labels, dict) else None
        reason = prompt.reason
        if isinstance(reason, Reasoning):
            reason = ReasonConfig(max_tokens=reason.max_tokens, ask=reason.ask)
        return {
            "template": prompt.template,
            "labels": words or {label: list(own) for label, own in prompt.labels.items()},
            "columns": self.columns or dict(prompt.columns),
            "choices": self.choices or list(prompt.choices),
            "system": self.system if self.system is not None else prompt.system,
            "reason": self.reason or reason or False,
        }

    def prompt(self, here: Here) -> Prompt:
        """Template, words, examples and reasoning as one. Raises ConfigError, or DataError for the
        examples.
        """
        words = self.labels if isinstance(self.labels, dict) else {}  # a list names a whole family's
        reasoning = None
        if self.reason:
            given = self.reason if isinstance(self.reason, ReasonConfig) else ReasonConfig()
            said = {"max_tokens": given.max_tokens, "ask": given.ask}
            reasoning = Reasoning(**{key: value for key, value in said.items() if value is not None})  # type: ignore
        return Prompt(
            template=PromptTemplate(str(self.template), columns=self.columns, choices=tuple(self.choices)),
            verbalizer=Verbalizer({label: tuple(own) for label, own in words.items()}),
            system=self.system,
            shots=self._shots(here),
            reasoning=reasoning,
        )

    def _shots(self, here: Here) -> tuple[Shot, ...]:
        if self.examples is None:
            return ()
        if isinstance(self.examples, list):
            return tuple(
                Shot(Input(one.text, one.text_pair, tuple(one.options)), one.label) for one in self.examples
            )
        drawn = self.examples
        source = Dataset.from_file(
            here.folder / drawn.path,
            text=drawn.text,
            text_pair=drawn.text_pair,
            label=drawn.label,
            labels=drawn.labels,
        )
        unseen = here.held_out(here.folder / drawn.path)
        rows = [i for i, item in enumerate(source.inputs) if item not in unseen]
        inputs, labels = [source.inputs[i] for i in rows], [source.labels[source.classes[i]] for i in rows]
        return draw_shots(inputs, labels, drawn.k, drawn.seed, drawn.balanced)
