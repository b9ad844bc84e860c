"""Families of prompts: YAML files with many prompts for one task, ours and PromptSource's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.section import Name, Section, Words
from fute.text.prompt import Reasoning
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer


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


def _as_reason(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class _Prompt(Section):
    id: Name
    template: str
    labels: dict[Name, Words] | None = None
    reason: Annotated[_Reason | None, BeforeValidator(_as_reason)] = None
    system: str | None = None
    chat: bool | None = None
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


def load_family(
    name: str,
    folder: Path | None = None,
    *,
    labels: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    chat: bool = False,
) -> Family:
    """A family that fute brings, or one of the user's own.

    Args:
        name: a name of `families()`, or the path of a YAML file, also one of PromptSource.
        folder: where a relative path starts.
        labels, columns, chat: what a file of PromptSource doesn't say, as for `load_promptsource`.

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
        text, where = _text_of(path), str(path)
    content = _read(text, where)
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is not a mapping", expected="the keys `name`, `labels` and `prompts`")
    if "templates" in content:
        if not labels:
            raise ConfigError(
                f"{where} is a file of PromptSource, which doesn't say what its labels are called",
                fix="let the entry of fute.yaml name them, in the order of its answer choices, and its "
                "columns, for example labels: [negative, positive], columns: {sentence: text}",
            )
        return _promptsource(content, where, labels, columns or {}, chat)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise _explain(error, text, where) from error
    ids = [prompt.id for prompt in file.prompts]
    twice = [name for name in ids if ids.count(name) > 1]
    if twice:
        raise ConfigError(f"{where}: two prompts have the id {twice[0]}", fix="ids must differ")
    return Family(file.name, file.source, tuple(_prompt(p, file, where) for p in file.prompts))


def _prompt(prompt: _Prompt, file: _File, where: str) -> FamilyPrompt:
    labels = prompt.labels or file.labels
    if not labels:
        raise ConfigError(f"{where}: the prompt {prompt.id} has no labels, and neither has the family")
    made = FamilyPrompt(
        id=prompt.id,
        template=prompt.template,
        labels={label: tuple(words) for label, words in labels.items()},
        reason=Reasoning(prompt.reason.max_tokens, prompt.reason.ask) if prompt.reason else None,
        system=prompt.system if prompt.system is not None else file.system,
        chat=prompt.chat if prompt.chat is not None else file.chat,
        columns=file.columns,
    )
    try:
        _check(made)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: the prompt {prompt.id}: {error.problem}",
            expected=error.expected,
            found=error.found,
            fix=error.fix,
        ) from error
    return made


def _check(prompt: FamilyPrompt) -> None:
    """Raise ConfigError where the template or the words can't be used."""
    PromptTemplate(prompt.template, prompt.columns, prompt.choices)
    Verbalizer({label: tuple(words) for label, words in prompt.labels.items()})


def load_promptsource(
    path: Path, labels: Sequence[str], columns: Mapping[str, str] | None = None, *, chat: bool = False
) -> Family:
    """The prompts of a `templates.yaml` of PromptSource (Bach et al. 2022, doi:10.18653/v1/2022.acl-demo.9).

    Args:
        path: the file.
        labels: our label names, in the order of the dataset's label indices, as `answer_choices` has its
            words.
        columns: the dataset's column names → ours, such as {"premise": "text", "hypothesis": "text_pair"}.
        chat: whether the words answer a chat, so that none begins with a space.

    Returns:
        those prompts that ask for one of their answer choices; the others are in `skipped`.

    Raises:
        ConfigError: not such a file.
    """
    return _promptsource(_read(_text_of(path), str(path)), str(path), labels, columns or {}, chat)


def _promptsource(
    content: Any, where: str, labels: Sequence[str], columns: Mapping[str, str], chat: bool
) -> Family:
    templates = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(templates, dict) or not all(isinstance(one, dict) for one in templates.values()):
        raise ConfigError(f"{where} is no file of PromptSource", expected="a key `templates` with mappings")
    prompts: dict[str, FamilyPrompt] = {}
    skipped: dict[str, str] = {}
    for key, template in templates.items():
        name = str(template.get("name") or key)
        if name in prompts or name in skipped:
            name = f"{name} ({key})"
        try:
            prompts[name] = _of_promptsource(name, template, labels, columns, chat)
            _check(prompts[name])
        except ConfigError as error:
            prompts.pop(name, None)
            skipped[name] = error.problem
    name = str(content.get("dataset", Path(where).parent.name))
    return Family(name, where, tuple(prompts.values()), skipped)


# `{{ answer_choices[label] }}`, alone or where the row has a label.
_ASKS_FOR_A_CHOICE = re.compile(
    r"\s*(\{%-?\s*if\b[^%]*%\})?\s*\{\{-?\s*answer_choices\s*\[\s*label\s*\]\s*-?\}\}\s*(?(1)\{%-?\s*endif\s*-?%\})\s*"
)


def _of_promptsource(
    name: str, template: Mapping[str, Any], labels: Sequence[str], columns: Mapping[str, str], chat: bool
) -> FamilyPrompt:
    asked, _, target = str(template.get("jinja", "")).partition("|||")
    if not _ASKS_FOR_A_CHOICE.fullmatch(target):
        raise ConfigError("its target is not one of its answer choices")
    choices = template.get("answer_choices") or []
    if isinstance(choices, str):  # as in all but the first files, which have a list
        choices = choices.split("|||")
    choices = [str(choice).strip() for choice in choices]
    if any("{{" in choice or "{%" in choice for choice in choices):
        raise ConfigError("its answer choices differ from row to row")
    if len(choices) != len(labels):
        raise ConfigError(f"it has {len(choices)} answer choices, not {len(labels)}")
    space = "" if chat else " "
    words = {label: (f"{space}{choice}",) for label, choice in zip(labels, choices, strict=True)}
    return FamilyPrompt(name, asked.strip(), words, chat=chat, columns=dict(columns), choices=tuple(choices))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", found=str(error), fix="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read", found=error.strerror) from error


class _Constructor(SafeConstructor):
    """Plain values only; PromptSource's three tags mean mappings."""


def _mapping(constructor: SafeConstructor, node: MappingNode) -> dict[str, Any]:
    content: dict[str, Any] = constructor.construct_mapping(node, deep=True)
    return content


for _tag in ("!Template", "!TemplateGroup", "!TemplateMetadata"):
    _Constructor.add_constructor(_tag, _mapping)


def _read(text: str, where: str) -> Any:
    """YAML 1.2; no tag runs code."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        return yaml.load(text)
    except YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML", found=str(error)[:300]) from error


def _explain(error: ValidationError, text: str, where: str) -> ConfigError:
    """The first of pydantic's complaints with its line; a misspelt key before the one that is missing."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    keys = [str(part) for part in first["loc"]]
    where = f"{where}, line {_line(text, keys)}"
    if first["type"] == "extra_forbidden":
        section = _Reason if "reason" in keys else _Prompt if "prompts" in keys else _File
        return ConfigError(
            f"{where}: unknown key `{'.'.join(keys)}`.{did_you_mean(keys[-1], section.model_fields)}",
            expected=f"one of {listing(section.model_fields, 30)}",
        )
    if first["type"] == "missing":
        return ConfigError(f"{where}: `{'.'.join(keys)}` is missing", fix=f"add the key `{keys[-1]}`")
    return ConfigError(f"{where}: `{'.'.join(keys)}`: {first['msg']}", found=repr(first.get("input"))[:200])


def _line(text: str, keys: Sequence[str]) -> int:
    """The line (from 1) of the deepest of the nested keys that the file has."""
    node = YAML(typ="safe", pure=True).compose(text)
    line = 1
    for key in keys:
        if isinstance(node, MappingNode):
            pairs = [(name, value) for name, value in node.value if name.value == key]
        elif isinstance(node, SequenceNode) and key.isdigit():
            pairs = [(item, item) for item in node.value[int(key) :][:1]]
        else:
            break
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line
