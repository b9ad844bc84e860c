"""A project: the folder of a `fute.yaml`, and what `plan`, `run`, `rank` and `map` do with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fute.api import Embedder, accuracy, dataset_provenance, model_examples, model_provenance
from fute.core.config import CorpusConfig, DatasetConfig, ModelConfig, ProjectConfig, read_project
from fute.core.errors import ConfigError, FuteError, StorageError, did_you_mean, listing
from fute.core.files import write_atomically
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Kind
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.runner import Labelled, label, pending
from fute.models.base import BlackBox
from fute.models.callable import CallableModel, import_object
from fute.models.prompted import PromptedLLM
from fute.models.sklearn import SklearnModel
from fute.selection.rank import Ranking, rank
from fute.space.space import Space

STATE_FOLDER = ".fute"
# Answers per second before a model was ever timed: a guess for functions and estimators.
_GUESSED_RATE = 2000.0
# Multiplications and additions per second that small LLMs reach on two cores, by dtype: a guess.
_GUESSED_FLOPS = {"bfloat16": 2.5e11, "float32": 1.2e11}

_Data = TypeVar("_Data", Corpus, Dataset)


@dataclass(frozen=True)
class PlannedModel:
    """What labelling U with one model would take. `tokens` is None where that has no meaning."""

    name: str
    kind: str
    items: int
    cached: int
    to_label: int
    tokens: int | None
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What `run` did: answers asked for and found, embeddings made and kept, texts cut, what failed."""

    asked: int
    cached: int
    embedded: tuple[str, ...]
    unchanged: tuple[str, ...]
    cut: Mapping[str, int]
    failures: Mapping[str, FuteError]
    seconds: float


class Project:
    """The folder of a `fute.yaml`.

    Args:
        folder: where `fute.yaml` lies; paths in it are relative to it.

    Raises:
        ConfigError: the file is missing or wrong; says where.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder = Path(folder)
        self.config: ProjectConfig = read_project(self.folder)
        names = [m.name for m in self.config.models]
        both = sorted({d.name for d in self.config.datasets} & set(names))
        if both:
            raise ConfigError(
                f"a dataset and a model are both called {listing(both)}",
                fix="rename one: a space has one of each name",
            )

    @property
    def state(self) -> Path:
        """The folder of predictions, features and spaces."""
        return self.folder / STATE_FOLDER

    @cached_property
    def embedder(self) -> Embedder:
        c = self.config
        surrogate = self._local(c.surrogate)
        return Embedder.create(c.method.name, c.method.options, surrogate, c.seed, c.dtype, self.state)

    @cached_property
    def space(self) -> Space:
        """The space of the method, surrogate and seed that `fute.yaml` names now; others stay beside it."""
        spec = self.embedder.spec
        return Space(self.state / "spaces" / f"{spec.method}-{spec.fingerprint}")

    @cached_property
    def corpus(self) -> Corpus:
        return self._read(Corpus, self.config.corpus)

    @cached_property
    def datasets(self) -> dict[str, tuple[Dataset, Dataset]]:
        """For each dataset (train, test): the rows of its DTE, and those held out by `test`."""
        return {d.name: self._read(Dataset, d).split(d.test, d.seed) for d in self.config.datasets}

    def _read(self, kind: type[_Data], source: CorpusConfig | DatasetConfig) -> _Data:
        if source.path is not None:
            return kind.from_file(self.folder / source.path, encoding=source.encoding, **source.columns)
        name = self._local(str(source.hf))
        return kind.from_hub(name, config=source.config, split=source.split, **source.columns)

    def _local(self, name: str) -> str:
        """A name as it is, or the path of what lies in the project's folder under it."""
        return str(self.folder / name) if (self.folder / name).exists() else name

    @cached_property
    def models(self) -> list[BlackBox]:
        return [self._model(m) for m in self.config.models]

    def _model(self, m: ModelConfig) -> BlackBox:
        with _named(f"model {m.name}"):
            if m.llm is not None:
                return PromptedLLM(
                    self._local(m.llm),
                    str(m.template),
                    dict(m.labels),  # type: ignore[arg-type]
                    name=m.name,
                    chat=m.chat,
                    system=m.system,
                    max_tokens=m.max_tokens,
                    dtype=self.config.dtype,
                )
            labels = list(m.labels) if m.labels is not None else None
            target = import_object(str(m.python or m.sklearn), self.folder)
            if m.python is not None:
                return CallableModel(target, labels or [], name=m.name, pair=m.pair)
            return SklearnModel(_fitted(target), name=m.name, labels=labels, pair=m.pair)

    def plan(self) -> list[PlannedModel]:
        """What `run` would ask the models for. Changes nothing."""
        todo = pending(self.models, self.corpus.inputs, self.embedder.predictions)
        rates = self._rates()
        rows = []
        for model in self.models:
            missing = todo[model.name]
            tokens = model.count_tokens(missing) if missing else (0 if model.kind == "llm" else None)
            seconds = len(missing) / rates.get(model.fingerprint, _GUESSED_RATE)
            if isinstance(model, PromptedLLM) and model.fingerprint not in rates:
                seconds = (tokens or 0) * 2 * model.weights.parameters / _GUESSED_FLOPS[model.dtype]
            rows.append(
                PlannedModel(
                    model.name,
                    model.kind,
                    len(self.corpus),
                    len(self.corpus) - len(missing),
                    len(missing),
                    tokens,
                    seconds,
                )
            )
        return rows

    def run(self, progress: Progress = silent) -> RunReport:
        """Label U with every model, embed datasets and models, store all in the space. Resumable: what is
        there already is not made again. A model that fails is reported and stops none of the others.
        """
        began = time.monotonic()
        datasets, models, corpus = self.datasets, self.models, self.corpus
        labelled = self.embedder.label(models, corpus, progress)
        self._remember(labelled)
        failures = dict(labelled.failures)
        work: list[tuple[str, Kind, Examples, dict[str, Any]]] = [
            (name, "dataset", train.examples, dataset_provenance(train))
            for name, (train, _) in datasets.items()
        ]
        work += [
            (m.name, "model", model_examples(m, labelled), model_provenance(m, corpus))
            for m in models
            if m.name not in failures
        ]
        named = [(d.name, d.task) for d in self.config.datasets] + [
            (m.name, m.task) for m in self.config.models
        ]
        tasks = {name: {"task": task} for name, task in named if task}
        stored = {entry.name: entry.provenance for entry in self.space.entries()}
        embedded, unchanged = [], []
        for number, (name, kind, examples, provenance) in enumerate(work):
            progress("embedding", number, len(work))
            old = stored.get(name, {})
            provenance = {**provenance, **tasks.get(name, {})}
            try:
                if old.get("content") == self.embedder.content(examples):
                    self._refresh(name, {**old, **provenance}, old)
                    unchanged.append(name)
                else:
                    self.space.add(self.embedder.embed(name, kind, examples, provenance, progress))
                    embedded.append(name)
            except StorageError:
                raise  # a full disk is full for all the others too
            except FuteError as error:
                failures[name] = error
        progress("embedding", len(work), len(work))
        return RunReport(
            asked=labelled.asked,
            cached=labelled.cached,
            embedded=tuple(embedded),
            unchanged=tuple(unchanged),
            cut={m.name: m.cut for m in models if m.cut},
            failures=failures,
            seconds=time.monotonic() - began,
        )

    def _refresh(self, name: str, provenance: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Where only the words about an embedding changed, change only these."""
        if provenance != old:
            self.space.add(replace(self.space.get(name), provenance=provenance))

    def rank(self, dataset: str) -> Ranking:
        """The models of the space ranked for a dataset of the space.

        Raises:
            ConfigError: no dataset of that name, or `run` hasn't embedded it yet.
        """
        if dataset not in self.space:
            known = [d.name for d in self.config.datasets]
            stored = [entry.name for entry in self.space.entries() if entry.kind == "dataset"]
            raise ConfigError(
                f'the space has no dataset "{dataset}".{did_you_mean(dataset, known)}',
                expected=f"one of {listing(stored)}" if stored else None,
                fix="run `fute run` first" if dataset in known else "add it to fute.yaml, then `fute run`",
            )
        target = self.space.get(dataset)
        if target.kind != "dataset":
            raise ConfigError(f'"{dataset}" is a model, not a dataset', fix="`fute space ls` lists both")
        return rank(target, self.space.embeddings("model"))

    def accuracies(self, dataset: str, progress: Progress = silent) -> dict[str, float]:
        """True accuracy (0 to 1) of each model that answers the dataset's labels, on the rows that `test`
        holds out, which no embedding has seen.

        Raises:
            ConfigError: the dataset holds no rows out.
        """
        held_out = self.datasets[dataset][1]
        if not len(held_out):
            raise ConfigError(f"dataset {dataset} holds no rows out", fix="set `test: 0.5` in fute.yaml")
        able = [m for m in self.models if set(m.labels) == set(held_out.labels)]
        labelled = label(able, held_out.inputs, self.embedder.predictions, progress)
        return {
            m.name: accuracy(m, held_out, labelled.answered[m.name])
            for m in able
            if m.name in labelled.answered
        }

    def _rates(self) -> dict[str, float]:
        """Answers per second of earlier runs, by model fingerprint."""
        try:
            content = json.loads((self.state / "rates.json").read_text())
            return {str(key): float(value) for key, value in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _remember(self, labelled: Labelled) -> None:
        by_name: Sequence[BlackBox] = self.models
        fresh = {m.fingerprint: labelled.rates[m.name] for m in by_name if m.name in labelled.rates}
        if fresh:
            write_atomically(
                self.state / "rates.json", json.dumps({**self._rates(), **fresh}, indent=1) + "\n"
            )


@contextmanager
def _named(who: str) -> Iterator[None]:
    """Put at the head of an error whose it is, unless it says so itself."""
    try:
        yield
    except FuteError as error:
        if error.problem.startswith(who):
            raise
        raise type(error)(
            f"{who}: {error.problem}", expected=error.expected, found=error.found, fix=error.fix
        ) from error


def _fitted(target: Any) -> Any:
    """The estimator that `sklearn: "module:name"` names: an object, or a function that makes one."""
    if hasattr(target, "predict") and not isinstance(target, type):
        return target
    if not callable(target) or isinstance(target, type):
        raise ConfigError(
            "`sklearn` names no fitted estimator and no function that makes one", found=f"{target!r:.100}"
        )
    try:
        return target()
    except FuteError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise ConfigError(
            "the function that makes the estimator failed", found=f"{type(error).__name__}: {error}"[:300]
        ) from error
