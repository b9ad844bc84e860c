"""A project: the folder of a `fute.yaml`, and what `plan`, `run`, `rank` and `map` do with it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fute.api import (
    Embedder,
    Work,
    accuracy,
    answers_labels,
    model_examples,
    model_provenance,
    predictions_in,
)
from fute.config import DatasetConfig, ProjectConfig, read_project, read_source
from fute.core.errors import (
    BudgetError,
    ConfigError,
    DataError,
    FuteError,
    ModelError,
    StorageError,
    did_you_mean,
    listing,
)
from fute.core.files import write_atomically
from fute.core.labels import matching
from fute.core.progress import Progress, silent
from fute.core.types import Input, TaskEmbedding
from fute.core.vectorfile import write_vector
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.asking import faults_of
from fute.labelling.budget import Budget, Caps, Spent, nanodollars
from fute.labelling.runner import Labelled, label, pending
from fute.models.base import BlackBox, Price, Usage, check_labels
from fute.models.prices import prices
from fute.models.prompted import PromptedLLM
from fute.models.prompting import PromptSection
from fute.models.section import Here, ModelSection, local
from fute.models.timing import seconds
from fute.presets import options_of
from fute.selection.rank import Ranking, rank
from fute.space.similarity import Similarity
from fute.space.space import Space
from fute.weights.hub import NotHereError, download_size, size_in_words, without_downloads

log = logging.getLogger("fute")

STATE_FOLDER = ".fute"
_NO_CAPS = Caps()
# Seconds that compiling must save to be recommended: it takes up to half a minute itself.
_COMPILING_PAYS = 45.0


@dataclass(frozen=True)
class PlannedModel:
    """What asking one model about U and the datasets without labels would take at most: questions, calls,
    tokens read and written, US dollars (None where no price is known), seconds. `advice` says what would
    make it shorter, if anything, and `failure` why the model can't be planned: then `run` will not ask it
    either. `download` is how many bytes `run` would download first, once for all on the same weights, None
    where only the hub knows: what the model takes can't be said before.
    """

    name: str
    kind: str
    items: int
    cached: int
    to_label: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    seconds: float
    advice: str | None = None
    failure: str | None = None
    download: int | None = 0


@dataclass(frozen=True)
class RunReport:
    """What `run` did: answers asked for and found, embeddings made and kept, texts cut, what failed.

    `failed_items` counts, by model and kind, the questions that got no answer that can be used, and
    `failed_answers` lists them: the beginning of the text, the kind and the detail. `left` counts the
    questions that were not asked, and `stopped` says which cap kept them from it.
    """

    asked: int
    cached: int
    embedded: tuple[str, ...]
    unchanged: tuple[str, ...]
    cut: Mapping[str, int]
    failures: Mapping[str, FuteError]
    failed_items: Mapping[str, Mapping[str, int]]
    failed_answers: Mapping[str, Sequence[Mapping[str, str]]]
    left: int
    stopped: BudgetError | None
    spent: Spent
    seconds: float


@dataclass(frozen=True)
class Tried:
    """What models reach on the rows that a dataset holds out, 0 to 1; for those without an accuracy, why; and
    of those with one how many rows they left without an answer, which count as wrong.
    """

    accuracies: dict[str, float]
    failures: Mapping[str, FuteError]
    unanswered: Mapping[str, int]


class Project:
    """The folder of a `fute.yaml`.

    Args:
        folder: where `fute.yaml` lies; paths in it are relative to it.
        trust: whether models in files that can run code when they are loaded (pickles) may be loaded.

    Raises:
        ConfigError: the file is missing or wrong; says where.
    """

    def __init__(self, folder: str | Path = ".", *, trust: bool = False) -> None:
        self.folder, self.trust = Path(folder), trust
        self.config: ProjectConfig = read_project(self.folder)
        _ = self.sections  # names are checked at once

    @property
    def state(self) -> Path:
        """The folder of predictions, features and spaces."""
        return self.folder / STATE_FOLDER

    @cached_property
    def embedder(self) -> Embedder:
        return self.embedder_of(self.config.method.name)

    def embedder_of(
        self, method: str, surrogate: str | None = None, options: Mapping[str, Any] = MappingProxyType({})
    ) -> Embedder:
        """The embedder of another method: with the preset's options for it, if there is one, and these; and
        through another surrogate, if one is named.
        """
        c = self.config
        own = c.method.options if method == c.method.name else options_of(c.preset, method)
        through = local(self.folder, surrogate or c.surrogate)
        return Embedder.create(method, {**own, **options}, through, c.seed, c.dtype, self.state)

    @cached_property
    def space(self) -> Space:
        """The space of the method, surrogate and seed that `fute.yaml` names now; others stay beside it."""
        return self.space_of(self.embedder)

    def space_of(self, embedder: Embedder) -> Space:
        """Where the vectors of an embedder are kept."""
        return Space(self.state / "spaces" / f"{embedder.spec.method}-{embedder.spec.fingerprint}")

    @cached_property
    def corpus(self) -> Corpus:
        """U. Raises DataError where it has one text alone: all answers to it say the same of a model."""
        found = read_source(Corpus, self.config.corpus, self.folder)
        if len(found) < 2:
            raise DataError(
                f"{found.origin}: U has one text alone",
                expected="at least two, better hundreds; equal ones count once",
                fix="add texts, or see `sample`",
            )
        return found

    @cached_property
    def datasets(self) -> dict[str, tuple[Dataset, Dataset]]:
        """For each dataset (train, test): the rows of its DTE, and those held out by `test`."""
        return {d.name: self._split(d) for d in self.config.datasets}

    def _split(self, source: DatasetConfig) -> tuple[Dataset, Dataset]:
        train, held_out = self._both(source)
        if source.few == 0:
            return replace(train, targets=None), held_out
        return train if source.few is None else train.few(source.few, source.seed), held_out

    def _both(self, source: DatasetConfig) -> tuple[Dataset, Dataset]:
        train = read_source(Dataset, source, self.folder)
        if isinstance(source.test, float):
            return train.split(source.test, source.seed)
        place = {"split" if source.path is None else "path": source.test}
        held_out = read_source(Dataset, source.model_copy(update=place), self.folder)
        return train, held_out.relabelled(train.labels)

    def _held_out(self, path: Path) -> set[Input]:
        """The inputs that datasets in this file hold out."""
        there = [d for d in self.config.datasets if d.path is not None and d.test]
        files = {d.name: {str(d.path), str(d.test)} for d in there}
        same = [n for n, own in files.items() if path.resolve() in {(self.folder / f).resolve() for f in own}]
        return {item for name in same for item in self.datasets[name][1].inputs}

    @property
    def _unlabelled(self) -> dict[str, Dataset]:
        """The rows of their DTEs, of the datasets without labels."""
        return {name: train for name, (train, _) in self.datasets.items() if train.targets is None}

    def _able(self, dataset: Dataset) -> list[BlackBox]:
        """The models that answer its labels."""
        return [model for model in self._built[0] if answers_labels(model, dataset)]

    @cached_property
    def sections(self) -> list[ModelSection]:
        """The entries of `models:`, each family of prompts as one for each prompt.

        Raises:
            ConfigError: two have the same name, or one has a dataset's.
        """
        sections = [one for entry in self.config.models for one in entry.expand(self.folder)]
        names = Counter(one.name for one in sections)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ConfigError(f"two models have the same name: {listing(twice)}", fix="names must differ")
        both = sorted({d.name for d in self.config.datasets} & names.keys())
        if both:
            raise ConfigError(
                f"a dataset and a model are both called {listing(both)}",
                fix="rename one: a space has one of each name",
            )
        return sections

    @cached_property
    def models(self) -> list[BlackBox]:
        """The models that can be built; those that can't be (`broken`) are logged."""
        models, broken = self._built
        for error in broken.values():
            log.warning("left out: %s", error.problem)
        return models

    @property
    def broken(self) -> Mapping[str, FuteError]:
        """For each model that can't be built, why."""
        return self._built[1]

    @cached_property
    def _built(self) -> tuple[list[BlackBox], dict[str, FuteError]]:
        return self._build()

    def _build(self) -> tuple[list[BlackBox], dict[str, FuteError]]:
        own = {name: Price(price.input, price.output) for name, price in self.config.prices.items()}
        here = Here(self.folder, self.config.dtype, prices(own), self.trust, self._held_out)
        models: list[BlackBox] = []
        broken: dict[str, FuteError] = {}
        for section in self.sections:
            try:
                with _named(f"model {section.name}"):
                    models.append(_called(section.build(here), section.aliases))
            except StorageError:
                raise  # a full disk is full for all the others too
            except FuteError as error:
                broken[section.name] = error
        return models, broken

    @cached_property
    def budget(self) -> Budget:
        """What all runs may spend together, and what they did."""
        return Budget(self.state / "spent.sqlite", Caps(**self.config.budget.model_dump()))

    def plan(self, retry: bool = False, also: Sequence[Sequence[Input]] = ()) -> list[PlannedModel]:
        """What `run` would ask the models for. Changes nothing and downloads no weights: what isn't here is
        only looked up on the hub.

        Args:
            also: further inputs that all models will be asked about.
        """
        with without_downloads():
            built, broken = self._build()
            try:
                _ = self.embedder
            except NotHereError as error:
                size = size_in_words(download_size(error.name))
                log.warning("the surrogate %s isn't here: `run` downloads %s first", error.name, size)
        answers, rates = predictions_in(self.state), self._rates()
        todo: dict[str, dict[Input, None]] = defaultdict(dict)
        items: Counter[str] = Counter()
        failed: dict[str, FuteError] = {}
        asked = [(built, inputs) for inputs in (self.corpus.inputs, *also)]
        for dataset in self._unlabelled.values():
            asked.append(([m for m in built if answers_labels(m, dataset)], dataset.inputs))
        for models, inputs in asked:
            for name, missing in pending(models, inputs, answers, retry).items():
                items[name] += len(inputs)
                if isinstance(missing, FuteError):
                    failed[name] = missing
                else:
                    todo[name] |= dict.fromkeys(missing)
        size_of = cache(download_size)  # the prompts of a family have one LLM
        rows = {
            name: _without_model(name, len(self.corpus), error, size_of) for name, error in broken.items()
        }
        for model in built:
            n = items[model.name]
            try:
                with _named(f"model {model.name}"), faults_of(model, "when it was planned"):
                    if model.name in failed:
                        raise failed[model.name]
                    rows[model.name] = self._planned(model, n, list(todo[model.name]), rates)
            except StorageError:
                raise
            except FuteError as error:
                rows[model.name] = _without_model(model.name, n, error, size_of)
        return _advise(built, [rows[section.name] for section in self.sections])

    def _planned(
        self, model: BlackBox, items: int, missing: list[Input], rates: Mapping[str, float]
    ) -> PlannedModel:
        usage = model.usage(missing) if missing else Usage(0)
        return PlannedModel(
            name=model.name,
            kind=model.kind,
            items=items,
            cached=items - len(missing),
            to_label=len(missing),
            calls=usage.calls,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            cost=None if model.price is None else nanodollars(model.price, usage) / 1e9,
            seconds=seconds(model, len(missing), usage, rates.get(model.fingerprint)),
        )

    def run(
        self,
        progress: Progress = silent,
        *,
        caps: Caps = _NO_CAPS,
        retry: bool = False,
        offline: bool = False,
    ) -> RunReport:
        """Label U with every model, embed datasets and models, store all in the space. Resumable: what is
        there already is not made again. A model that fails, or can't be built, is reported and stops none of
        the others. After U the models are asked about the datasets without labels, if they answer their
        labels.

        Args:
            caps: on what this run spends, beside those of `budget:` on all runs together.
            retry, offline: as for `labelling.runner.label`.

        Raises:
            FuteError: nothing could be embedded or kept: U or a dataset can't be read, the surrogate has no
                such layer, or the space is damaged.
        """
        began = time.monotonic()
        datasets, (models, broken), corpus = self.datasets, self._built, self.corpus
        before = self.budget.spent
        budget = Budget(self.budget.path, caps.after(before).tightest(self.budget.caps))
        self.embedder.check()
        _ = self.space.spec
        labelled = self.embedder.label(models, corpus, progress, budget=budget, retry=retry, offline=offline)
        self._remember(labelled)
        about = self._ask_about_unlabelled(progress, budget=budget, retry=retry, offline=offline)
        failures = {**broken, **labelled.failures}
        named = [(d.name, d.task) for d in self.config.datasets] + [(m.name, m.task) for m in self.sections]
        tasks = {name: {"task": task} for name, task in named if task}
        work = []
        for name, (train, _) in datasets.items():
            try:
                one = self._dataset_work(train, about.get(name), progress)
                work.append(one._replace(provenance={**one.provenance, **tasks.get(name, {})}))
            except ModelError as error:  # too few pseudo-labels
                failures[name] = error
        for m in models:
            if m.name not in failures:
                provenance = {**model_provenance(m, corpus), **tasks.get(m.name, {})}
                try:
                    work.append(Work(m.name, "model", model_examples(m, labelled), provenance))
                except ModelError as error:  # too few answers
                    failures[m.name] = error
        stored = {entry.name: entry.provenance for entry in self.space.entries()}
        embedded: list[str] = []
        unchanged = []
        for one in work:
            old = stored.get(one.name, {})
            if old.get("content") == self.embedder.content(one.examples, one.kind):
                self._refresh(one.name, {**old, **one.provenance}, old)
                unchanged.append(one.name)
        for group in self.embedder.together([one for one in work if one.name not in unchanged]):
            progress("embedding", len(unchanged) + len(embedded), len(work))
            try:
                self.space.add(*self.embedder.embed_many(group, progress))
                embedded += [one.name for one in group]
            except StorageError:
                raise  # a full disk is full for all the others too
            except FuteError as error:
                failures |= {one.name: error for one in group}
            except Exception as error:  # a method of the user's own raises what it likes
                failures |= {one.name: _not_embedded(one.name, error) for one in group}
        progress("embedding", len(work), len(work))
        all_labelled = [labelled, *about.values()]
        failed_items: dict[str, Counter[str]] = defaultdict(Counter)
        failed_answers: dict[str, list[dict[str, str]]] = defaultdict(list)
        for part in all_labelled:
            failures = {**part.failures, **failures}
            for name, kinds in part.failed_items().items():
                failed_items[name] += kinds
            for name, those in part.failed_answers().items():
                failed_answers[name] += [
                    {"text": item.text[:200], "kind": f.kind, "detail": f.detail} for item, f in those
                ]
        return RunReport(
            asked=sum(part.asked for part in all_labelled),
            cached=sum(part.cached for part in all_labelled),
            embedded=tuple(embedded),
            unchanged=tuple(unchanged),
            cut={m.name: m.cut for m in models if m.cut},
            failures=failures,
            failed_items=failed_items,
            failed_answers=failed_answers,
            left=sum(part.left for part in all_labelled),
            stopped=next((part.stopped for part in all_labelled if part.stopped), None),
            spent=self.budget.spent - before,
            seconds=time.monotonic() - began,
        )

    def _ask_about_unlabelled(self, progress: Progress = silent, **options: Any) -> dict[str, Labelled]:
        """For each dataset without labels, what the models that answer its labels say about its inputs;
        options as for `labelling.runner.label`.
        """
        cache = self.embedder.predictions
        return {
            name: label(self._able(dataset), dataset.inputs, cache, progress, **options)
            for name, dataset in self._unlabelled.items()
        }

    def _dataset_work(self, dataset: Dataset, about: Labelled | None, progress: Progress = silent) -> Work:
        """What a DTE is made from; `about` is what the models that answer its labels said, if it has none.

        Raises:
            ModelError: there are such models, and they answered too little.
        """
        answers = list(about.answered.values()) if about else []
        broken = [s.name for s in self.sections if s.name in self.broken and _may_answer(s, dataset)]
        failed = [*about.failures, *broken] if about else []
        if failed and not answers:
            raise ModelError(
                f"dataset {dataset.name} has no labels, and every model that could give it some failed",
                found=listing(failed),
                fix="correct one of them and run again",
            )
        return self.embedder.dataset_work(dataset, progress, answers)

    def write_raw(self, name: str, path: Path, progress: Progress = silent) -> int:
        """Write the vector of a dataset or a model, as it is before it is projected, into a safetensors file:
        the tensor `vector`, float32 (n,). It is made again from the kept answers; no model is asked.

        Returns:
            n.

        Raises:
            ConfigError: `fute.yaml` has no such dataset or model, or it changed since it was embedded.
        """
        stored = self.space.get(name)
        work = self.work(name)
        if stored.provenance.get("content") != self.embedder.content(work.examples, work.kind):
            raise ConfigError(
                f'"{name}" was embedded from other data, answers or options than there are now',
                fix="run `fute run` first",
            )
        about = {"name": name, "space": stored.spec.fingerprint, "content": stored.provenance["content"]}
        return write_vector(path, self.embedder.raw(work, progress), about)

    def work(self, name: str) -> Work:
        """What the embedding of that name is made from, as far as it is known without asking a model."""
        none = Budget(self.budget.path, Caps(max_calls=0).after(self.budget.spent))
        if name in self.datasets:
            about = self._ask_about_unlabelled(budget=none)
            return self._dataset_work(self.datasets[name][0], about.get(name))
        if name in self.broken:
            raise self.broken[name]
        models = [model for model in self.models if model.name == name]
        if not models:
            raise ConfigError(f'fute.yaml has no dataset and no model "{name}"', fix="add it")
        labelled = self.embedder.label(models, self.corpus, budget=none)
        if name in labelled.failures:
            raise labelled.failures[name]
        return Work(name, "model", model_examples(models[0], labelled), {})

    def embedded(
        self, embedder: Embedder, names: Sequence[str], progress: Progress = silent
    ) -> list[TaskEmbedding]:
        """The embeddings of datasets and models by another embedder, kept in a space of its own: made, from
        what is known without asking a model, where that doesn't hold them.
        """
        space, made = self.space_of(embedder), []
        for name in names:
            work = self.work(name)
            content = embedder.content(work.examples, work.kind)
            if name not in space or space.get(name).provenance.get("content") != content:
                space.add(embedder.embed(*work, progress))
            made.append(space.get(name))
        return made

    def _refresh(self, name: str, provenance: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Where only the words about an embedding changed, change only these."""
        if provenance != old:
            self.space.add(replace(self.space.get(name), provenance=provenance))

    def rank(self, dataset: str, similarity: Similarity = "map") -> Ranking:
        """The models of the space ranked for a dataset of the space; `similarity` as for
        `fute.selection.rank.rank`.

        Raises:
            ConfigError: as `target`.
        """
        return rank(self.target(dataset), self.space.embeddings("model"), similarity)

    def target(self, dataset: str) -> TaskEmbedding:
        """The DTE of a dataset of the space.

        Raises:
            ConfigError: no dataset of that name, or `run` hasn't embedded it yet.
        """
        if dataset not in self.space:
            known = [d.name for d in self.config.datasets]
            stored = [entry.name for entry in self.space.entries() if entry.kind == "dataset"]
            if dataset in known:
                raise ConfigError(f'the space has no dataset "{dataset}" yet', fix="run `fute run` first")
            raise ConfigError(
                f'the space has no dataset "{dataset}".{did_you_mean(dataset, known)}',
                expected=f"one of {listing(stored)}" if stored else None,
                fix="add it to fute.yaml, then `fute run`",
            )
        target = self.space.get(dataset)
        if target.kind != "dataset":
            raise ConfigError(f'"{dataset}" is a model, not a dataset', fix="`fute space ls` lists both")
        return target

    def ask(
        self,
        models: Sequence[BlackBox],
        data: Dataset | Corpus,
        progress: Progress = silent,
        *,
        offline: bool = False,
    ) -> Labelled:
        """What the models answer to these texts, within the project's budget; options as for
        `labelling.runner.label`.
        """
        cache = self.embedder.predictions
        return label(models, data.inputs, cache, progress, budget=self.budget, offline=offline)

    def accuracies(
        self, dataset: str, progress: Progress = silent, *, offline: bool = False
    ) -> dict[str, float]:
        """True accuracy (0 to 1) of each model that answers the dataset's labels, on the rows that `test`
        holds out, which no embedding has seen. Those that fail, and those that a cap kept from some of the
        rows, are left out.

        Raises:
            ConfigError: the dataset holds no rows out, or has no classes.
        """
        return self.tried(dataset, progress, offline=offline).accuracies

    def tried(self, dataset: str, progress: Progress = silent, *, offline: bool = False) -> Tried:
        """The `accuracies`, and what they lack."""
        held_out = self.datasets[dataset][1]
        if held_out.targets is None:
            raise ConfigError(
                f"dataset {dataset} has no accuracy: it has no labels", fix="leave `--accuracy` out"
            )
        if held_out.output != "class":
            raise ConfigError(
                f"dataset {dataset} has no accuracy: it has no classes, its `output` is {held_out.output}",
                fix="leave `--accuracy` out",
            )
        if not len(held_out):
            raise ConfigError(f"dataset {dataset} holds no rows out", fix="set `test: 0.5` in fute.yaml")
        able = self._able(held_out)
        labelled = self.ask(able, held_out, progress, offline=offline)
        failures, accuracies = dict(labelled.failures), dict[str, float]()
        for m in [m for m in able if m.name in labelled.answered]:
            answered = labelled.answered[m.name]
            left, stopped = len(held_out) - len(answered.asked), labelled.stopped
            if left:
                why = {} if stopped is None else {"found": stopped.problem, "fix": stopped.fix}
                failures[m.name] = BudgetError(f"{left} of {len(held_out)} rows were not asked", **why)
            else:
                accuracies[m.name] = accuracy(m, held_out, answered)
        unanswered = {n: labelled.failed_items()[n] for n in accuracies if n in labelled.failed_items()}
        return Tried(accuracies, failures, {name: kinds.total() for name, kinds in unanswered.items()})

    def _rates(self) -> dict[str, float]:
        """Answers per second of earlier runs, by model fingerprint."""
        try:
            content = json.loads((self.state / "rates.json").read_text())
            return {str(key): float(value) for key, value in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _remember(self, labelled: Labelled) -> None:
        fresh = {m.fingerprint: labelled.rates[m.name] for m in self._built[0] if m.name in labelled.rates}
        if fresh:
            write_atomically(
                self.state / "rates.json", json.dumps({**self._rates(), **fresh}, indent=1) + "\n"
            )


def _advise(models: Sequence[BlackBox], rows: Sequence[PlannedModel]) -> list[PlannedModel]:
    """The rows, with advice to compile an LLM that will run for long."""
    saved: dict[str, float] = {}
    compilable = {m.name: m for m in models if isinstance(m, PromptedLLM) and m.can_compile}
    for row in rows:
        if row.name in compilable:
            model = compilable[row.name]
            saved[model.weights.id] = saved.get(model.weights.id, 0.0) + row.seconds * model.compiling_saves
    advised = {name: m for name, m in compilable.items() if saved.get(m.weights.id, 0) > _COMPILING_PAYS}
    return [
        replace(
            row,
            advice=f"`compile: true` would save about {advised[row.name].compiling_saves:.0%} of the time",
        )
        if row.name in advised
        else row
        for row in rows
    ]


def _called(model: BlackBox, aliases: Mapping[str, str]) -> BlackBox:
    """The model, with what datasets call its labels. Raises ConfigError where it has no such labels."""
    unknown = [label for label in aliases if label not in model.labels]
    if unknown:
        near = did_you_mean(unknown[0], model.labels)
        raise ConfigError(
            f'it has no label "{unknown[0]}".{near}', expected=f"some of {listing(model.labels)}"
        )
    if aliases:
        model.aliases = aliases
        check_labels(model.name, model.names)
    return model


def _without_model(
    name: str, items: int, error: FuteError, size_of: Callable[[str], int | None]
) -> PlannedModel:
    """The plan for one that can't be asked; or only after its weights are downloaded."""
    download: int | None = 0
    if isinstance(error, NotHereError):
        try:
            with _named(f"model {name}"):
                download = size_of(error.name)
        except FuteError as missing:
            error = missing
    failure = str(error) if download == 0 else None
    return PlannedModel(name, "", items, 0, items, 0, 0, 0, 0.0, 0.0, failure=failure, download=download)


def _not_embedded(name: str, error: Exception) -> ModelError:
    failure = ModelError(f"{name} can't be embedded", found=f"{type(error).__name__}: {error}"[:300])
    failure.__cause__ = error
    return failure


def _may_answer(section: ModelSection, dataset: Dataset) -> bool:
    """Whether a model that can't be built may have answered the dataset's labels: unless it names others."""
    said = getattr(section, "labels", None) or ()
    names = said.values() if isinstance(said, dict) and not isinstance(section, PromptSection) else said
    return not names or matching(list(names), dataset.labels) is not None


@contextmanager
def _named(who: str) -> Iterator[None]:
    """Put at the head of an error whose it is, unless it says so itself. What isn't a FuteError becomes a
    `ModelError`: what comes with weights, and a constructor of the user's own, may be wrong in any way.
    """
    try:
        yield
    except FuteError as error:
        if error.problem.startswith(who):
            raise
        named = type(error)(
            f"{who}: {error.problem}", expected=error.expected, found=error.found, fix=error.fix
        )
        vars(named).update({key: value for key, value in vars(error).items() if key not in vars(named)})
        raise named from error
    except Exception as error:
        raise ModelError(f"{who} can't be built", found=f"{type(error).__name__}: {error}"[:300]) from error
