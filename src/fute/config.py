"""`fute.yaml`: what it may say, and clear errors where it says something else.

Read as YAML 1.2, so that a label called `no` stays the word "no".
"""

from __future__ import annotations

import datetime
import itertools
import json
import operator
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.files import storing
from fute.core.section import Name, Section, Seed
from fute.core.types import Output
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.models.kinds import KINDS
from fute.models.section import ModelSection, local
from fute.presets import with_preset
from fute.surrogates.base import DEFAULT_SURROGATE

PROJECT_FILE = "fute.yaml"


def _as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


LabelNames = list[Name] | dict[Name, Name]


class MethodConfig(BaseModel):
    """The embedding method; its options are checked by the method itself."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Name

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class _Source(Section):
    _COLUMNS: ClassVar[set[str]] = {"text", "text_pair", "drop_empty", "sample", "seed"}

    path: str | None = None
    hf: str | None = None
    config: str | None = None
    encoding: str = "utf-8"
    text: str = "text"
    text_pair: str | None = None
    drop_empty: bool = False
    sample: int | None = Field(default=None, ge=1)
    seed: Seed = 0

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
    """A dataset D; without labels where `label` is null."""

    _COLUMNS: ClassVar[set[str]] = {
        *_Source._COLUMNS,
        "name",
        "output",
        "label",
        "start",
        "labels",
        "drop_unlabelled",
        "balanced",
    }

    name: Name
    output: Output = "class"
    label: str | None = "label"
    start: str = "start"
    labels: LabelNames | None = None
    drop_unlabelled: bool = False
    balanced: bool = False
    split: str = "train"
    test: float | str = Field(
        default=0.0, description="the share that is held out; or the split or file of the rows that are"
    )
    few: int | None = Field(default=None, ge=0)
    task: str | None = None

    @field_validator("test")
    @classmethod
    def _some_are_left(cls, test: float | str) -> float | str:
        if isinstance(test, float) and not 0 <= test < 1:
            raise ValueError("a share must be at least 0 and less than 1")
        return test

    @model_validator(mode="after")
    def _few_can_be_learnt(self) -> DatasetConfig:
        if self.balanced and (self.sample is None or self.output != "class" or self.label is None):
            raise ValueError("`balanced` draws as many rows of each class: it needs classes, and a `sample`")
        if self.few == 1:
            raise ValueError("`few` is 0, for none of the labels (pseudo-labels), or at least 2")
        if self.few == 0 and self.output != "class":
            raise ValueError("`few: 0` needs classes: only these are guessed where there are no labels")
        return self


_Data = TypeVar("_Data", Corpus, Dataset)


def read_source(kind: type[_Data], source: CorpusConfig | DatasetConfig, folder: Path = Path()) -> _Data:
    """The rows of a source whose file, or local copy of the hub's, lies in the folder."""
    if source.path is not None:
        return kind.from_file(folder / source.path, encoding=source.encoding, **source.columns)
    name = local(folder, str(source.hf))
    return kind.from_hub(name, config=source.config, split=source.split, **source.columns)


def _kind_of(model: Any) -> str | None:
    """The key that tells which kind of black box an entry of `models:` is."""
    if not isinstance(model, dict):
        return _TAG + model.KEY if isinstance(model, ModelSection) else None
    kinds = [kind for kind in KINDS if model.get(kind) is not None]
    return _TAG + kinds[0] if len(kinds) == 1 else None


_TAG = "kind:"
_KEYS = ", ".join(f"`{key}`" for key in KINDS)
if TYPE_CHECKING:
    _AnyModel = ModelSection
else:
    _AnyModel = Annotated[
        reduce(operator.or_, [Annotated[section, Tag(_TAG + key)] for key, section in KINDS.items()]),
        Discriminator(
            _kind_of,
            custom_error_type="kind",
            custom_error_message=f"needs exactly one of {_KEYS}",
        ),
    ]


class PriceConfig(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class BudgetConfig(Section):
    """Caps on what all runs of the project may spend together."""

    max_calls: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)
    max_cost: float | None = Field(default=None, ge=0)


class ProjectConfig(Section):
    """The whole of `fute.yaml`."""

    preset: str | None = None
    surrogate: str = DEFAULT_SURROGATE
    method: Annotated[MethodConfig, BeforeValidator(_as_method)] = MethodConfig(name="linear-probe")
    corpus: CorpusConfig
    datasets: list[DatasetConfig] = Field(min_length=1)
    models: list[_AnyModel] = Field(min_length=1)
    budget: BudgetConfig = BudgetConfig()
    prices: dict[Name, PriceConfig] = Field(default_factory=dict)
    seed: Seed = 0
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
    with storing(path):
        is_there = path.is_file()
    if not is_there:
        raise ConfigError(
            f"there is no {PROJECT_FILE} in {folder.resolve()}",
            fix=f"make one with `fute init {folder}`, or name the project's folder with `--project DIR`",
        )
    try:
        with storing(path):
            text = path.read_text(encoding="utf-8")
        document = YAML(typ="rt").load(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", found=str(error), fix="save it as UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML", found=error.problem) from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML", found=str(error)) from error
    except RecursionError:
        raise _too_deep(path) from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path} is not a mapping",
            expected="keys such as corpus, datasets, models",
            fix="see the example that `fute init` writes",
        )
    try:
        content = with_preset(_plain(document))
    except ConfigError as error:
        where = f"{path}, line {_line(document, ('preset',))}"
        raise ConfigError(f"{where}: {error.problem}", expected=error.expected) from error
    except RecursionError:
        raise _too_deep(path) from None
    try:
        return ProjectConfig.model_validate(content)
    except ValidationError as error:
        raise _explain(error, document, path) from error


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is nested too deeply", fix="see whether an anchor (`&name`) holds itself (`*name`)"
    )


def _plain(node: Any) -> Any:
    """ruamel's containers as plain ones, with merge keys (`<<`) resolved."""
    if isinstance(node, dict):
        return {key: _plain(node[key]) for key in node}
    return [_plain(item) for item in node] if isinstance(node, list) else node


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
    location = tuple(part for part in first["loc"] if not _is_alternative(part) and not _is_tag(part))
    where = f"{path}, line {_line(document, location)}"
    keys = [str(part) for part in location]
    dotted = ".".join(keys) or "the file"
    more = f" ({len(others)} more after this one)" if others else ""
    if first["type"] == "extra_forbidden":
        known = list(_section_of(first["loc"]).model_fields)
        return ConfigError(
            f"{where}: unknown key `{keys[-1]}`{more}.{did_you_mean(keys[-1], known)}",
            expected=f"one of {listing(known, 30)}",
        )
    if first["type"] == "missing":
        return ConfigError(f"{where}: `{dotted}` is missing{more}", fix=f"add the key `{keys[-1]}`")
    found = first.get("input")
    if first["type"] == "kind" and isinstance(found, dict):
        found = f"it has {[key for key in KINDS if key in found] or 'none'}"
        return ConfigError(f"{where}: `{dotted}`: {first['msg']}{more}", found=found)
    fix = 'put it in quotes: "true", "2024-01-31"' if isinstance(found, bool | datetime.date) else None
    if first["type"] == "list_type" and isinstance(found, str):
        fix = f"write a list: {keys[-1]}: {json.dumps(found.split(), ensure_ascii=False)}"
    return ConfigError(
        f"{where}: `{dotted}`: {first['msg'].removeprefix('Value error, ')}{more}",
        found=None if isinstance(found, dict | BaseModel) else repr(found)[:200],
        fix=fix,
    )


def _is_tag(part: int | str) -> bool:
    return isinstance(part, str) and part.startswith(_TAG)


def _section_of(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section that a location's last key was looked for in."""
    section: type[BaseModel] = ProjectConfig
    for part in location[:-1]:
        if _is_tag(part):
            section = KINDS[str(part).removeprefix(_TAG)]
        elif part in section.model_fields:
            section = next(_sections_in(section.model_fields[str(part)].annotation), section)
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


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
