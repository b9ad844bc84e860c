"""Families of prompts: YAML files with many prompts for one task, ours and PromptSource's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.section import Name, Section, Words
from fute.text.prompt import Reasoning
from fute.text.template import PromptTemplate


@dataclass(frozen=True)
class FamilyPrompt:
    """One prompt of a family.

    Attributes:
        id: its name within the family.
        template: Jinja.
        labels: for each label its words.
        reason: chain of thought; None for none.
        system: a system prompt; None for none.
        chat: whether it is meant for a chat template.
        columns, choices: as in `PromptTemplate`.
    """

    id: str
    template: str
    labels: Mapping[str, Sequence[str]]
    reason: Reasoning | None = None
    system: str | None = None
    chat: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Prompts for one task.

    Attributes:
        name: of the family.
        source: where its prompts are from.
        prompts: in the file's order.
        skipped: ids of those that could not be used, and why (PromptSource files only).
    """

    name: str
    source: str
    prompts: tuple[FamilyPrompt, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)


class _Reason(Section):
    max_tokens: int = Field(default=512, ge=1)
    ask: str | None = None


class _Prompt(Section):
    id: Name
    template: str
    labels: dict[Name, Words] | None = None
    reason: bool | _Reason = False
    system: str | None = None
    chat: bool = False
    note: str | None = None


class _File(Section):
    name: Name
    source: str = ""
    labels: dict[Name, Words] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    system: str | None = None
    chat: bool = False
    prompts: list[_Prompt] = Field(min_length=1)


def families() -> list[str]:
    """The names of the families that fute brings."""
    folder = resources.files("fute.text") / "prompts"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_family(name: str, folder: Path | None = None) -> Family:
    """A family that fute brings, or one of the user's own.

    Args:
        name: a name of `families()`, or the path of a YAML file.
        folder: where a relative path starts.

    Raises:
        ConfigError: no such family or file, or the file says what it can't.
    """
    if name in families():
        text, where = (resources.files("fute.text") / "prompts" / f"{name}.yaml").read_text("utf-8"), name
    else:
        path = (folder or Path()) / name
        if not path.is_file():
            raise ConfigError(
                f'there is no family of prompts "{name}".{did_you_mean(name, families())}',
                expected=f"one of {listing(families())}, or the path of a YAML file",
            )
        text, where = path.read_text(encoding="utf-8"), str(path)
    content = _read(text, where)
    if isinstance(content, dict) and "templates" in content:
        raise ConfigError(
            f"{where} is a file of PromptSource",
            fix="read it with fute.text.families.load_promptsource, which is told its columns and labels",
        )
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise _explain(error, where) from error
    twice = sorted({p.id for p in file.prompts if [q.id for q in file.prompts].count(p.id) > 1})
    if twice:
        raise ConfigError(f"{where}: two prompts have the id {twice[0]}", fix="ids must differ")
    return Family(file.name, file.source, tuple(_prompt(p, file, where) for p in file.prompts))


def _prompt(prompt: _Prompt, file: _File, where: str) -> FamilyPrompt:
    labels = prompt.labels or file.labels
    if not labels:
        raise ConfigError(f"{where}: the prompt {prompt.id} has no labels, and neither has the family")
    reason = _Reason() if prompt.reason is True else prompt.reason
    return FamilyPrompt(
        id=prompt.id,
        template=prompt.template,
        labels={label: tuple(words) for label, words in labels.items()},
        reason=Reasoning(reason.max_tokens, reason.ask) if isinstance(reason, _Reason) else None,
        system=prompt.system if prompt.system is not None else file.system,
        chat=prompt.chat or file.chat,
        columns=file.columns,
    )


def load_promptsource(path: Path, labels: Sequence[str], columns: Mapping[str, str] | None = None) -> Family:
    """The prompts of a `templates.yaml` of PromptSource (Bach et al. 2022, doi:10.18653/v1/2022.acl-demo.9).

    Args:
        path: the file.
        labels: our label names, in the order of the dataset's label indices, as `answer_choices` has its
            words.
        columns: the dataset's column names → ours, such as {"premise": "text", "hypothesis": "text_pair"}.

    Returns:
        those prompts that ask for one of their answer choices; the others are in `skipped`.

    Raises:
        ConfigError: not such a file.
    """
    content = _read(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("templates"), dict):
        raise ConfigError(f"{path} is no file of PromptSource", expected="a key `templates` with a mapping")
    prompts, skipped = [], {}
    for template in content["templates"].values():
        name = str(template.get("name", template.get("id")))
        asked, bars, target = str(template.get("jinja", "")).partition("|||")
        choices = [choice.strip() for choice in str(template.get("answer_choices") or "").split("|||")]
        if not bars or not re.search(r"answer_choices\s*\[\s*label\s*\]", target):
            skipped[name] = "its target is not one of its answer choices"
        elif len(choices) != len(labels):
            skipped[name] = f"it has {len(choices)} answer choices, not {len(labels)}"
        else:
            try:
                PromptTemplate(asked.rstrip(), columns or {}, tuple(choices))
            except ConfigError as error:
                skipped[name] = error.problem
                continue
            words = {label: (f" {choice}",) for label, choice in zip(labels, choices, strict=True)}
            prompts.append(
                FamilyPrompt(name, asked.rstrip(), words, columns=dict(columns or {}), choices=tuple(choices))
            )
    return Family(str(content.get("dataset", path.parent.name)), str(path), tuple(prompts), skipped)


def _read(text: str, where: str) -> Any:
    """YAML 1.2; PromptSource's three tags mean plain mappings, and no tag runs code."""
    yaml = YAML(typ="safe", pure=True)
    for tag in ("!Template", "!TemplateGroup", "!TemplateMetadata"):
        yaml.constructor.add_constructor(tag, _mapping)
    try:
        return yaml.load(text)
    except YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML", found=str(error)[:300]) from error


def _mapping(constructor: Any, node: MappingNode) -> dict[str, Any]:
    content: dict[str, Any] = constructor.construct_mapping(node, deep=True)
    return content


def _explain(error: ValidationError, where: str) -> ConfigError:
    # A misspelt key is also a missing one: what was written tells more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    keys = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = (_Prompt if "prompts" in keys else _File).model_fields
        return ConfigError(
            f"{where}: unknown key `{'.'.join(keys)}`.{did_you_mean(keys[-1], known)}",
            expected=f"one of {listing(known, 30)}",
        )
    return ConfigError(f"{where}: `{'.'.join(keys)}`: {first['msg']}", found=repr(first.get("input"))[:200])
